"""Words and names for on and off that a mapping has the wrong way round."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from heron_mqtt.field.vendor.told_content import (
    ASIDE_NAMES,
    COUNT_NAMES,
    ENDING_WORDS,
    ON_WORDS,
    ToldContent,
    tokens,
)
from heron_mqtt.field.vendor.told_sizes import Effects, named

_SENSE = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(ON_WORDS | ENDING_WORDS, key=len, reverse=True))})(?![a-z])"
)
"""The words for on and off in the name of a place."""


def swapped(
    told: Mapping[float, Effects], zero: Effects, bounds: Collection[float], sizes: frozenset[Any]
) -> Iterator[str]:
    """Yield what says off for all of a power, and on, or nothing of that, for 0, for people.

    The same words for the power of the other sign are none: of charging beside discharging.

    Args:
        told: What each power sets, by MW.
        zero: What a setpoint of 0 sets.
        bounds: The largest power of each sign that the device has, MW.
        sizes: Places that hold the size of a power: where 0 clears them, another word is no switch.
    """
    at_0 = _slots(zero)
    driven = {p: _slots(told[p]) for p in bounds if p in told and told[p] != zero}
    for p, slots in driven.items():
        for slot in slots.keys() & at_0.keys():
            power, (place, rest) = slots[slot][1], at_0[slot]
            if any(slot in other and other[slot][1] == rest for other in driven.values()):
                continue
            is_said = rest.says_off is False
            if rest.says_off is None and not sizes & zero.keys() - {place}:
                is_said = rest.is_word or (bool(tokens(rest.text)) and not rest.is_truth)
            if power.says_off is True and is_said:
                yield (
                    f"0 is sent as {rest.text!r}, {p:g} MW as {power.text!r} ({named(place)}): expected "
                    "the other way (of a contact that blocks, send true or false, or call it block or pause)"
                )


def has_switch(told: Mapping[float, Effects], zero: Effects, sizes: frozenset[Any]) -> bool:
    """Whether a place may say that a power is over: it differs between 0 and all powers not told as 0.

    Args:
        told: What each power sets, by MW or Mvar.
        zero: What a setpoint of 0 sets.
        sizes: Places that hold the size of a power: one that is 0 says so.
    """
    driving = [effects for effects in told.values() if effects != zero]
    return any(
        all(effects.get(place, content) != content for effects in driving)
        for place, content in zero.items()
        if (content.is_nought if place in sizes else content.says_off is not False)
        if not tokens(content.name) & (ASIDE_NAMES | COUNT_NAMES)
    )


def _slots(effects: Effects) -> dict[str, tuple[Any, ToldContent]]:
    """Return places and contents by where they are, without words for on and off as in ``turn_on``."""
    return {_SENSE.sub("*", named(place).casefold()): (place, content) for place, content in effects.items()}
