"""What a setpoint leaves at one place of a device, and what that says: power or none, which way, a command.

A device is not there when a mapping is looked at. All that is known of it are the words and names that the
mapping uses: a text such as ``stop``, a member called ``mode``, a register called ``cmd``. What they do not
say is not guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.field.vendor.words import OFF_WORDS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ON_WORDS = _words("""
    on true enable enabled start started starting run running active activate activated yes connect connected
    resume unblock unblocked unlock unlocked allow allowed permit permitted ein
""")
"""What devices call power that may flow, in any case."""
BLOCK_WORDS = _words("block blocked lock locked inhibit inhibited deny denied forbid forbidden")
"""What says of a device that it may not run."""
ENDING_WORDS = OFF_WORDS | BLOCK_WORDS
"""What ends a power."""
WAY_WORDS = _words("""
    charge charging chg discharge discharging dis dischg dchg import importing export exporting in out inject
    injecting absorb absorbing consume consuming draw feed feeding feedin buy sell generate generating produce
    load unload laden entladen plus minus positive negative pos neg up down forward reverse source sink supply
    demand auto cap capacitive ind inductive lead leading lag lagging over under overexcited underexcited
""")
"""What says which way a power goes, or that the device decides."""
FILLING_WORDS = _words("force forced battery bat mode do to begin")
ON_NAMES = _words("""
    on enable enabled en ena run running start started active relay switch charging discharging allow allowed
    permit permitted
""")
"""What a place is called where 1 lets a power flow."""
OFF_NAMES = _words("off stop stopped pause paused sleep halt hold disable disabled") | BLOCK_WORDS
"""What a place is called where 1 ends a power."""
VALVE_NAMES = _words("valve damper flap")
"""What a place is called where open lets a power flow: of a contact it ends it."""
MODE_NAMES = (
    ON_NAMES
    | OFF_NAMES
    | _words("mode modus state status way dir direction sign ctl control authority richtung betriebsart")
)
"""What a place is called that says how the device is driven."""
COMMAND_NAMES = _words(
    "cmd command method op opcode operation func function fn code action request type kind do"
)
"""What a member is called that says which command a message is."""
ADDRESS_NAMES = _words("""
    key name n id idx index no nr num number addr address reg register path slot ch chan channel port dev
    device node param parameter point topic target object obj item field attr attribute prop property what
    which tag oid obis datapoint
""")
"""What a member is called that says where the rest of a message belongs."""
ASIDE_NAMES = _words("""
    led leds light lights lamp lamps backlight indicator display screen buzzer beep beeper sound alarm alarms
    bell log logs logging debug verbose trace comment note info soc
""")
"""What a place is called that neither lets a power flow nor ends it: it shows or tells something."""
COUNT_NAMES = _words("phase phases psm boost")
"""What a place is called that says how a power flows, not whether."""
RUNNING_NAMES = _words("id n nr no num number")
"""What a member is called that may count the messages."""
REACTIVE_NAMES = _words("q var vars kvar mvar reactive")
"""What a place is called that holds a reactive power."""
APPARENT_NAMES = _words("s va kva mva apparent")
"""What a place is called that holds an apparent power."""
SG_READY_RESTS = (1, 2)
"""States of an SG-ready heat pump in which it is not asked to run: blocked, and normal operation."""
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NUMBER = re.compile(r"-?[0-9]+(?:[.,][0-9]+)?")
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class ToldContent:
    """What stands at a place after a setpoint; two are equal if they tell the device the same.

    Attributes:
        told: What they are compared by.
        text: As it goes out; of packed bytes nothing.
        numbers: The numbers in it, in their order.
        name: What the mapping calls the place: a member, a register, or else the topic's last level.
        is_made: Whether a value stands in it; else it is a constant of its message.
        is_word: Whether that value alone stands in it, and is a text.
    """

    told: Any
    text: str = field(default="", compare=False)
    numbers: tuple[float, ...] = field(default=(), compare=False)
    name: str = field(default="", compare=False)
    is_made: bool = field(default=True, compare=False)
    is_word: bool = field(default=False, compare=False)

    @property
    def says_off(self) -> bool | None:
        """Whether it says that no power flows; None: it says nothing of that."""
        said = says_off(self.text, self.name)
        return True if said is None and self.is_word and self.is_nought else said

    @property
    def is_mode(self) -> bool:
        """Whether it is known to say how the device is driven: a value, or a constant by its name or word."""
        return self.is_made or bool(tokens(self.name) & MODE_NAMES) or says_way_or_switch(self.text)

    @property
    def is_nought(self) -> bool:
        """Whether it is a 0, and nothing but that; of packed bytes, whether the numbers in them are."""
        return is_nought(self.text) if self.text else bool(self.numbers) and not any(self.numbers)

    @property
    def is_truth(self) -> bool:
        """Whether it is true or false, or 1 or 0."""
        return self.is_nought or self.text.strip().casefold() in _TRUTHS

    @property
    def shape(self) -> str:
        """What of its text is no number."""
        return _NUMBER.sub("#", self.text)

    def __str__(self) -> str:
        """Return it for people."""
        return self.text or ", ".join(f"{number:g}" for number in self.numbers)


def tokens(text: str) -> frozenset[str]:
    """Return the words of a text or name, in small letters: those of ``StartCharge`` and ``start_charge``."""
    return frozenset(word.casefold() for word in _TOKEN.findall(text))


def numbers_in(text: str) -> tuple[float, ...]:
    """Return the numbers in a text."""
    return tuple(float(found.replace(",", ".")) for found in _NUMBER.findall(text))


def is_sg_ready(name: str) -> bool:
    """Whether a name is that of the four states of an SG-ready heat pump."""
    return "".join(word.casefold() for word in _TOKEN.findall(name)).startswith("sgready")


def says_off(text: str, name: str) -> bool | None:
    """Return whether a text at a place of this name says that no power flows; None: it says nothing of that.

    A 1 is power where the name says ``enable``, and none where it says ``pause``; alone it says nothing.
    """
    names = tokens(name)
    ends, lets = bool(names & OFF_NAMES), bool(names & ON_NAMES)
    plain = text.strip().casefold()
    number = _NUMBER.fullmatch(plain)  # of a register, 1 may be 1.0
    truth = (
        False if is_nought(text) else True if number and numbers_in(plain) == (1.0,) else _TRUTHS.get(plain)
    )
    if truth is not None:
        return truth if ends else (not truth) if lets else None
    if names & VALVE_NAMES and plain in {"open", "closed", "close"}:
        return plain != "open"
    if (said := _sense(text)) is not None:
        return said != ends
    if numbers_in(text):
        return None
    return True if ends else False if lets else None


def is_nought(text: str) -> bool:
    """Whether a text is a 0, false or no."""
    plain = text.strip().casefold()
    is_number = _NUMBER.fullmatch(plain) is not None
    return _TRUTHS.get(plain) is False or (is_number and not any(numbers_in(plain)))


def _sense(text: str) -> bool | None:
    """Return whether the words of a text say off, or on; None: neither, or both."""
    plain, found = text.strip().casefold(), tokens(text)
    off = plain in OFF_WORDS or plain == "s" or bool(found & ENDING_WORDS)
    on = bool(found & ON_WORDS)
    return None if off == on else off


def says_way_or_switch(text: str) -> bool:
    """Whether all words of a text say which way, or that, a power flows; ``SetChargeLimit`` says more."""
    found = tokens(text)
    known = WAY_WORDS | ON_WORDS | ENDING_WORDS | FILLING_WORDS
    return text.strip() in {"+", "-"} or (bool(found) and found <= known)
