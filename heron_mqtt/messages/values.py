"""Values that fields of several messages share, and how one is shown in an error message."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
MAX_INTEGER = 1 << 63
"""Larger integers are refused: no field needs them, and a float cannot hold all of them."""
Identifier = Annotated[str, Field(min_length=1, max_length=200)]
MAX_REASON = 500  # characters of a text for people
MAX_LEASE_S = 86_400.0
"""A device that may be left alone for longer than a day needs no lease."""
UNNAMED_KIND = "device"  # what a device says in its birth whose program names no kind
Level = Literal["simulated", "emulated", "shadow", "limited", "full"]


def shortened(value: object, limit: int = 60) -> str:
    """Return a value for an error message; an integer of thousands of digits is not printed."""
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return f"an integer of about {value.bit_length() * 3 // 10} digits"
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def is_finite_number(value: object) -> bool:
    """Whether a value is a number that a field can hold: finite, and of a size that a float has."""
    if type(value) is int:
        return abs(value) <= MAX_INTEGER
    return type(value) is float and value - value == 0.0
