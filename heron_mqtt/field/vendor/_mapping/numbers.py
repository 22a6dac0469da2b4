"""Numbers in and out of payloads: finite, bounded, and written without surprises."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from heron_mqtt.errors import MessageError

MAX_TEXT = 64
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def number(raw: Any, where: str) -> float:
    """Return what a payload gave as a finite float; a number may also be written as a text.

    Raises:
        MessageError: It is something else; names ``where``.
    """
    if isinstance(raw, str):
        text = raw.strip()
        if len(text) > MAX_TEXT or not _NUMBER.fullmatch(text):
            raise MessageError(f"{where} gave {shown(raw)}, expected a number")
        raw = float(text)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise MessageError(f"{where} gave {shown(raw)}, expected a number")
    try:
        value = float(raw)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise MessageError(f"{where} gave a number that is not finite")
    return value


def shown(raw: Any) -> str:
    """Return a value for a message to people: short, whatever it is."""
    text = repr(raw)
    return text if len(text) <= MAX_TEXT else f"{type(raw).__name__} {text[:40]}..."


def rounded(value: float, decimals: int, *, toward_zero: bool) -> float:
    """Return ``value`` with so many decimals.

    Towards zero, a value that is a whole number of steps but for the noise of floating point keeps it.
    """
    if not toward_zero:
        return round(value, decimals) + 0.0
    steps = value * 10.0**decimals
    noise = 16.0 * math.ulp(steps)  # a few multiplications lie behind it
    return math.trunc(steps + math.copysign(noise, steps)) / 10.0**decimals + 0.0


def as_number(value: float, decimals: int | None) -> int | float:
    """Return ``value`` as JSON shall show it: without a fraction where none was asked for."""
    return int(value) if decimals == 0 else value + 0.0


def as_digits(value: float, decimals: int | None) -> str:
    """Return ``value`` as plain digits, never with an exponent: small boxes do not read those."""
    if decimals is not None:
        return f"{value + 0.0:.{decimals}f}"
    text = format(Decimal(repr(value + 0.0)), "f")
    return text.removesuffix(".0")
