"""What a value may mean, by the words of its topic and key: power, voltage, state of charge, ..."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER = re.compile(r"^\s*([-+]?\d+(?:[.,]\d+)?)\s*(\w*|%)\s*$")


@dataclass(frozen=True, slots=True)
class Guess:
    """What a value may be.

    Attributes:
        quantity: Of a mapping (``p_mw``, ``vm_pu``, ``soc``, ``running``), or a plain word.
        unit: That the value may have.
        sure: 3 = word and unit agree, 2 = by its word, 1 = by a part of it.
    """

    quantity: str
    unit: str
    sure: int


_QUANTITIES: tuple[tuple[str, frozenset[str], str], ...] = (
    ("soc", frozenset({"soc", "battery_level", "batterylevel"}), "%"),
    ("power factor", frozenset({"factor", "cosphi"}), ""),
    ("apparent power", frozenset({"apparent"}), "VA"),
    ("q_mvar", frozenset({"reactive"}), "var"),
    ("p_mw", frozenset({"power", "watt", "watts", "apower", "leistung", "pac", "p"}), "W"),
    ("vm_pu", frozenset({"voltage", "volt", "spannung", "uac"}), "V"),
    ("current", frozenset({"current", "ampere", "strom", "iac"}), "A"),
    ("energy", frozenset({"energy", "yield", "consumption"}), "Wh"),
    ("frequency", frozenset({"frequency", "freq"}), "Hz"),
    ("temperature", frozenset({"temperature", "temp"}), "°C"),
    ("running", frozenset({"switch", "relay", "output", "charging", "running"}), ""),
    ("available", frozenset({"online", "lwt", "availability", "reachable", "connected"}), ""),
)
_UNITS = {
    "w": ("p_mw", "W"),
    "kw": ("p_mw", "kW"),
    "mw": ("p_mw", "MW"),
    "var": ("q_mvar", "var"),
    "v": ("vm_pu", "V"),
    "a": ("current", "A"),
    "ma": ("current", "mA"),
    "hz": ("frequency", "Hz"),
    "wh": ("energy", "Wh"),
    "kwh": ("energy", "kWh"),
    "c": ("temperature", "°C"),
    "%": ("soc", "%"),
    "pct": ("soc", "%"),
    "percent": ("soc", "%"),
}
_RATING = frozenset({"rated", "rating", "nominal", "nom", "nameplate", "max", "min", "limit", "capacity"})
"""With one of these a power is none that flows."""


def guess(topic: str, path: str, value: Any) -> Guess | None:
    """Return what a value may mean; None = nothing is known of its words, or it holds no value."""
    if value is None or (isinstance(value, str) and len(value) > 100):
        return None
    unit = _unit_of(value)
    near = [word.lower() for word in _WORDS.findall(path)] or [
        word.lower() for word in _WORDS.findall(topic.rsplit("/", 1)[-1])
    ]
    far = [word.lower() for word in _WORDS.findall(topic)]
    suffix = _UNITS.get(near[-1]) if near else None
    is_number = (isinstance(value, int | float) and not isinstance(value, bool)) or _NUMBER.match(str(value))
    for words, least in ((near, 2), (far, 1)):
        joined = "_".join(words)
        for quantity, known, usual in _QUANTITIES:
            if not any(_is(word, known) for word in words) and not any(
                word in joined for word in known if "_" in word
            ):
                continue
            if quantity not in {"running", "available"} and not is_number:
                continue
            stated = unit or (suffix[1] if suffix is not None and _fits(suffix, quantity) else None)
            named = _rating(quantity, near)
            return Guess(named, stated or usual, 3 if stated and least == 2 else least)
    if suffix is not None and is_number:
        return Guess(_rating(suffix[0], near), suffix[1], 2)
    return None


def _fits(suffix: tuple[str, str], quantity: str) -> bool:
    """Whether the unit at the end of a name is one of a quantity; a power may be in percent, too."""
    return suffix[0] == quantity or (quantity == "p_mw" and suffix[1] == "%")


def _rating(quantity: str, near: list[str]) -> str:
    return "rating" if quantity in {"p_mw", "q_mvar"} and _RATING.intersection(near) else quantity


def _is(word: str, known: frozenset[str]) -> bool:
    """Whether a word is known, or ends with a known one (``acpower``)."""
    return word in known or any(len(one) >= 5 and word.endswith(one) for one in known)


def _unit_of(value: Any) -> str | None:
    """Return the unit behind a number in a text."""
    found = _NUMBER.match(value) if isinstance(value, str) else None
    return found[2] if found is not None and found[2] else None
