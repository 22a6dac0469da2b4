"""Whether what a mapping sends is for a device with this nameplate: powers, and 0, told apart and sendable.

All of it is computed without the device, for powers within the nameplate, and for some of what the device may
say. What depends on what is learned is found when it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.command_places import MAX_COMMANDS, CommandPlace, CommandPlaces, SentTexts
from heron_mqtt.field.vendor.inputs import InputReader
from heron_mqtt.field.vendor.outgoing import NotExpressible
from heron_mqtt.field.vendor.payload_filling import MessageContext, text_of, without_device
from heron_mqtt.field.vendor.setpoint_writer import UNITS, ZERO, SentSetpoint, SetpointWriter
from heron_mqtt.field.vendor.told_apart import confusions, passed_through, powers_to_try, together
from heron_mqtt.field.vendor.told_content import (
    REACTIVE_NAMES,
    SG_READY_RESTS,
    ToldContent,
    is_sg_ready,
    tokens,
)
from heron_mqtt.field.vendor.told_sizes import (
    Effects,
    bent_by_other,
    moved_by_reactive,
    moved_rest,
    named,
    sizes_in,
)
from heron_mqtt.field.vendor.told_switches import has_switch, swapped
from heron_mqtt.field.vendor.words import is_off

NEAR_REST = (0.02, 0.05)  # of the largest power
BESIDE = (0.1, 0.6)  # of the largest active power: so much beside reactive power, and all of it
MIXED = {"lease_s": (1.0, 2.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0), "seq": (0.0, 1.0, 2.0, 100.0, 65_535.0)}
"""What formulas may use beside a power, and what it is tried with."""
SAMPLES = 6
"""So many times it is tried what the device may say."""


class PowerSeries(NamedTuple):
    """Sizes of a power that are tried, all with the same beside it.

    Attributes:
        quantity: p_mw or q_mvar.
        other: What is beside it: the other one, lease_s, seq, or the inputs of the device.
        beside: How much of that, MW, Mvar or s; of inputs, which sample.
    """

    quantity: str
    other: str
    beside: float

    @property
    def is_of_power(self) -> bool:
        """Whether a power is beside it."""
        return self.other in UNITS

    @property
    def is_measured(self) -> bool:
        """Whether something that the device says is beside it."""
        return self.other == "inputs"

    @property
    def beside_shown(self) -> str:
        """What is beside it, for people."""
        if self.is_measured:
            return "other inputs of the device"
        unit = UNITS.get(self.other)
        return f"{self.other} = {self.beside:g}" if unit is None else f"{self.beside + 0.0:g} {unit}"

    @property
    def shown(self) -> str:
        """Its unit, and what is beside it, for people."""
        unit = UNITS[self.quantity]
        return f"{unit} (with {self.beside_shown})" if self.beside or not self.is_of_power else unit


ALONE = PowerSeries("p_mw", "q_mvar", 0.0)


class NameplateCheck:
    """Looks at what a mapping sends for the powers of one device.

    Args:
        writer: Makes the messages.
        range_mw: From the lowest to the highest power of the device, MW, positive = injected.
        inputs: What the device says, which formulas may use.
    """

    def __init__(
        self, writer: SetpointWriter, range_mw: tuple[float, float], inputs: Mapping[str, InputReader]
    ) -> None:
        self._writer = writer
        self._messages, self._values, self._powers = writer.messages, writer.values, writer.powers
        self._range_mw = range_mw
        self._ranges = {"p_mw": range_mw}  # of each quantity that is sent, MW or Mvar
        if "q_mvar" in writer.quantities:
            largest = max(map(abs, range_mw))
            self._ranges["q_mvar"] = (-largest, largest)
        self._inputs = inputs
        self._context = self._context_of(0)
        self._is_known_later = writer.waits_for_device(writer.messages)

    def problems(self) -> list[str]:
        """Return why the mapping is not for the device, for people; empty: it is."""
        found = [*self._unsendable(), *self._cut(), *self._wandering(), *self._confusions()]
        return list(dict.fromkeys(found))

    def _unsendable(self) -> Iterator[str]:
        """Yield why no power of a sign that the device has fits into what carries it."""
        if self._is_known_later:
            return
        for bound in self._range_mw:
            problem = ""
            for p_mw in (0.01 * bound, bound) if bound else ():
                try:
                    self._writer.encode(ZERO.model_copy(update={"p_mw": p_mw}), self._context)
                except NotExpressible:
                    break  # it is meant: said where it is asked for
                except MessageError as exc:
                    problem = str(exc)
                else:
                    break
            else:
                if problem:
                    yield f"no power {'below' if bound < 0.0 else 'above'} 0 can be sent: {problem}"

    def _wandering(self) -> Iterator[str]:
        """Yield which value has the lease, or the number of the setpoint, choose one of a few addresses.

        A running number, or a lease as it is, has many.
        """
        if self._is_known_later:
            return
        addresses = frozenset[str]().union(*(m.addresses() for m in self._messages))
        for name, (other, tried) in product(sorted(addresses), MIXED.items()):
            if other not in self._values[name].made_of:
                continue
            several = {*range(1, 40), *range(60, 2400, 60), *tried}  # of minutes, too
            asked = [{"p_mw": p_mw, other: float(n)} for p_mw in self._range_mw for n in several]
            with contextlib.suppress(MessageError):
                sent = [self._values.render(ZERO.model_copy(update=each), self._context) for each in asked]
                if 2 <= len({values[name].json for values in sent}) <= MAX_COMMANDS:
                    yield (
                        f"setpoint.values.{name}: {other} says where a power belongs: a 0 with "
                        f"another {other} would leave it in force"
                    )

    def _cut(self) -> Iterator[str]:
        """Yield which value has no bits for the largest power, so that it would be cut without a word."""
        if self._is_known_later:
            return
        for quantity, range_mw in self._ranges.items():
            for bound in range_mw:
                with contextlib.suppress(MessageError):
                    setpoint = ZERO.model_copy(update={quantity: bound})
                    for name, number in self._values.cut_by_wrap(setpoint, self._context):
                        bits = self._values[name].table.wrap
                        yield (
                            f"setpoint.values.{name}: {bound:g} {UNITS[quantity]} is {number:g}, which does "
                            f"not fit into wrap = {bits}: give min and max, or more bits"
                        )

    def _zero_is_no_rest(
        self, told: Mapping[PowerSeries, Mapping[float, Effects]], zero: Effects, sizes: frozenset[Any]
    ) -> Iterator[str]:
        """Yield which value that is sent makes of 0 a small power.

        What is the same for 0 and for small powers of both signs is rounded, wherever the device begins to
        count; so is what has an ``offset``. Beside the least current of a charger 0 may send that it is off,
        if no power that is told as another one sends that, too. What the device says is tried several times.

        Args:
            told: What each size sets.
            zero: What 0 sets.
            sizes: Places that hold the size of a power.
        """
        samples = range(SAMPLES if self._values.measured_by(self._values.names) else 1)
        used = frozenset(name for m in self._messages for name in m.sent)
        named_before = set[str]()
        for (quantity, range_mw), nth in product(self._ranges.items(), samples):
            context = self._context_of(nth)
            of = partial(self._of, quantity, context=context)
            bounds = [bound for bound in range_mw if bound]
            try:
                rest, *full = (of(size) for size in (0.0, *bounds))
                is_flat = [
                    not any(self._differing(rest, of(part * bound)) for part in NEAR_REST) for bound in bounds
                ]
            except MessageError:
                continue
            for name in sorted(self._values.powers(used, quantity) - named_before):
                at_0, *others = (sent.values[name].json for sent in (rest, *full))
                if isinstance(at_0, str) or _is_sg_rest(name, at_0):
                    continue
                rises = any(isinstance(other, str) or abs(other) > abs(at_0) for other in others)
                is_alone = all(self._differing(rest, sent) <= {name} for sent in full)
                # the inputs that are tried are not the device's: with them a switch may come late
                if not (self._is_known_later or any("" in self._differing(rest, sent) for sent in full)):
                    of_it = told[ALONE if quantity == "p_mw" else PowerSeries("q_mvar", "p_mw", 0.0)]
                    is_alone = is_alone or not has_switch(of_it, zero, sizes)
                counts = not self._values[name].table.offset
                is_raised = any(is_flat) and (len(is_flat) == 1 or not all(is_flat))
                if at_0 and is_raised and rises and is_alone and counts:
                    named_before.add(name)
                    why = f"setpoint.values.{name}: 0 is sent as small powers are, {at_0:g}: 0 needs its own"
                    yield why + self._shown_inputs(name, context)

    def _shown_inputs(self, name: str, context: MessageContext) -> str:
        """Return with which inputs a value was looked at, for people; empty: it has none."""
        used = sorted({one for each in self._values.measured_by([name]).values() for one in each})
        shown = ", ".join(f"{one} = {context.inputs.get(one)}" for one in used)
        return shown and f" (with {shown}: give them clamp where they are never so)"

    def _differing(self, one: SentSetpoint, other: SentSetpoint) -> set[str]:
        """Return the values by which two setpoints tell the device something else; ``""``: other messages."""
        names = self._values.lasting({name for i in one.indices for name in self._messages[i].sent})
        found = {name for name in names if one.values[name].json != other.values[name].json}
        return found if one.indices == other.indices else {*found, ""}

    def _confusions(self) -> list[str]:
        """Return which powers of the device, and 0, the messages do not tell apart.

        Reactive power is tried up to the largest of them, Mvar; each of the two without the other and with
        some of it of either sign. Where formulas use the lease, the number of the setpoint or inputs of the
        device beside a power, several of them are tried.
        """
        asked = {series: powers_to_try(self._ranges[series.quantity]) for series in self._series()}
        sent = {series: self._each_sent(series, [0.0, *sizes]) for series, sizes in asked.items()}
        texts = {
            series: {size: _texts_of(series, size, one) for size, one in each.items()}
            for series, each in sent.items()
        }
        every = [one for each in texts.values() for one in each.values()]
        at_0 = texts[ALONE].get(0.0)
        fleeting = [name for name in self._values.names if self._values[name].is_fleeting]
        commands = [m.command for m in self._messages]
        places = CommandPlaces(commands, every, at_0, self._values.names, fleeting)
        told = {series: self._told(of_sizes, places) for series, of_sizes in sent.items()}
        zero = told[ALONE].get(0.0)
        if zero is None:
            return []
        return list(dict.fromkeys(self._of_series(told, together(zero), self._words_of_zero())))

    def _series(self) -> Iterator[PowerSeries]:
        """Yield what is tried: each quantity alone, and beside what else its messages are made of."""
        yield ALONE
        if "q_mvar" in self._ranges:
            beside = {part * bound for bound in self._range_mw for part in (0.0, *BESIDE, 1.0)}
            yield from (PowerSeries("q_mvar", "p_mw", p_mw) for p_mw in sorted(beside, key=abs))
            yield from (PowerSeries("p_mw", "q_mvar", q_mvar) for q_mvar in self._ranges["q_mvar"])
        for name, tried in MIXED.items():
            if name in self._writer.mixed_with_power:
                yield from (PowerSeries(q, name, each) for q in self._ranges for each in tried)
        if self._values.measured_by(self._values.names):
            yield from (PowerSeries(q, "inputs", nth) for q in self._ranges for nth in range(1, SAMPLES))

    def _of_series(
        self,
        told: Mapping[PowerSeries, Mapping[float, Sequence[Effects]]],
        zero: Effects,
        words: Sequence[Scalar],
    ) -> Iterator[str]:
        """Yield the same, given what is told: what 0 of both sets, and its words."""
        whole = {series: {p: together(r) for p, r in of_sizes.items()} for series, of_sizes in told.items()}
        sizes_of = {quantity: frozenset[Any]() for quantity in self._ranges}
        ever: dict[str, list[Effects]] = {quantity: [] for quantity in sizes_of}
        for series, every in whole.items():
            sizes_of[series.quantity] |= sizes_in(every)
            ever[series.quantity] += [effects for size, effects in every.items() if size and effects != zero]
        sizes = frozenset[Any]().union(*sizes_of.values())
        yield from self._zero_is_no_rest(whole, zero, sizes)
        yield from swapped(whole[ALONE], zero, [b for b in self._range_mw if b], sizes)
        yield from self._bent(whole, sizes_of)
        for place, content in zero.items():
            is_reactive = tokens(content.name) & REACTIVE_NAMES
            if is_reactive and any(content.numbers) and place not in sizes:
                yield f"0 is sent with {named(place)} = {content}: a stop is 0 Mvar, too"
        for series, every in whole.items():
            quantity, is_alone = series.quantity, series == ALONE
            zero_here = every.get(0.0, zero)
            told_as_0 = None if is_alone else zero_here  # with something beside it, which is then the same
            each = {size: effects for size, effects in every.items() if size and effects != told_as_0}
            at_0 = (zero,) if is_alone else (zero_here,) if series.is_measured else (zero, zero_here)
            for its_zero in at_0:
                yield from confusions(
                    each,
                    its_zero,
                    words if is_alone else (),
                    unit=series.shown,
                    sizes=sizes,
                    own_sizes=sizes_of[quantity],
                    ever=ever[quantity],
                    mixed=sizes_of.get("q_mvar" if quantity == "p_mw" else "p_mw", ()),
                )
            if not series.is_of_power and (moved := moved_rest(each, zero, zero_here)) is not None:
                place, one, other = moved
                yield (
                    f"0 is sent as {one} and, with {series.beside_shown}, as {other} ({named(place)}): a "
                    "stop has to be the same whatever else a formula uses"
                )
            requests = {p: r for p, r in told[series].items() if p}
            yield from passed_through(requests, zero_here, unit=series.shown)

    def _bent(
        self,
        told: Mapping[PowerSeries, Mapping[float, Effects]],
        sizes_of: Mapping[str, frozenset[Any]],
    ) -> Iterator[str]:
        """Yield where what stands beside a power changes it, its sign or its scale."""
        largest = max(map(abs, self._range_mw))
        of_q = {
            series.beside: each
            for series, each in told.items()
            if series.quantity == "q_mvar" and series.is_of_power
        }
        if (moved := moved_by_reactive(of_q, told[ALONE], largest)) is not None:
            place, p_mw, q_mvar = moved
            yield (
                f"{named(place)}: {p_mw + 0.0:g} MW is sent as another power with {q_mvar:g} Mvar than "
                "without: make it of p_mw alone"
            )
        for quantity, other in product(self._ranges, (*self._ranges, *MIXED)):
            of_it = {
                series.beside: each
                for series, each in told.items()
                if series.quantity == quantity and series.other == other
            }
            if (bent := bent_by_other(of_it, sizes_of[quantity], largest)) is not None:
                place, *both = bent
                one, two = (PowerSeries(quantity, other, beside).beside_shown for beside in both)
                yield (
                    f"{named(place)}: what is made of {UNITS[quantity]} has another sign or scale with {one} "
                    f"than with {two}"
                )

    def _told(
        self, of_sizes: Mapping[float, SentSetpoint], places: CommandPlaces
    ) -> dict[float, list[dict[CommandPlace, ToldContent]]]:
        """Return what the requests of each size set, if they fit what they write to."""
        found: dict[float, list[dict[CommandPlace, ToldContent]]] = {}
        for size, one in of_sizes.items():
            with contextlib.suppress(MessageError):
                found[size] = self._requests(one, places)
        return found

    def _each_sent(self, series: PowerSeries, sizes: Sequence[float]) -> dict[float, SentSetpoint]:
        """Return what is sent for each size of a quantity, MW or Mvar, if it can be computed."""
        context, beside = self._context, {series.other: series.beside}
        if series.is_measured:
            context, beside = self._context_of(int(series.beside)), {}
        found: dict[float, SentSetpoint] = {}
        for size in sizes:
            with contextlib.suppress(MessageError):
                setpoint = ZERO.model_copy(update={**beside, series.quantity: size})
                found[size] = self._writer.sent(setpoint, context)
        return found

    def _context_of(self, nth: int) -> MessageContext:
        """Return what the device may have said, another each time."""
        return replace(without_device(), inputs={n: each.sample(nth) for n, each in self._inputs.items()})

    def _words_of_zero(self) -> list[Scalar]:
        """Return the words that 0 is sent as, without those that say off."""
        rendered = self._values.render(ZERO, self._context)
        words = {
            word
            for name in self._powers
            if isinstance(word := rendered[name].json, str) or self._values[name].table.words is not None
            if not _is_sg_rest(name, word)
        }
        return sorted((w for w in words if not (isinstance(w, bool) or is_off(w))), key=str)

    def _requests(self, sent: SentSetpoint, places: CommandPlaces) -> list[dict[CommandPlace, ToldContent]]:
        """Return what a setpoint sets, request by request; messages that no pause parts are one."""
        found: list[dict[CommandPlace, ToldContent]] = []
        for message in (self._messages[i] for i in sent.indices):
            requests = message.effects(sent.values, self._context, places)
            if found and not (message.waits or message.is_of_registers):
                found[-1].update(requests.pop(0))
            found += requests
        return found

    def _of(self, quantity: str, size: float, context: MessageContext) -> SentSetpoint:
        return self._writer.sent(ZERO.model_copy(update={quantity: size}), context)


def _is_sg_rest(name: str, state: Scalar) -> bool:
    return is_sg_ready(name) and state in SG_READY_RESTS


def _texts_of(series: PowerSeries, size: float, sent: SentSetpoint) -> SentTexts:
    beside_mw = series.beside if series.other == "p_mw" else 0.0
    p_mw = size if series.quantity == "p_mw" else beside_mw
    return SentTexts(p_mw, sent.indices, partial(text_of, values=sent.values))
