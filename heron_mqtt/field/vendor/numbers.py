"""Numbers in and out of payloads: finite, bounded, and written without surprises."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from heron_mqtt.errors import MessageError

MAX_TEXT = 64


def finite(raw: Any, where: str) -> float:
    """Return a number that a payload gave as a finite float.

    Raises:
        MessageError: It is something else; names ``where``.
    """
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise MessageError(f"{where} gave {shown(raw)}, expected a number")
    try:
        value = float(raw)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise MessageError(f"{where} gave a number that is not finite")
    return value


_SEPARATORS = {" ": " \u00a0\u202f\u2009", "'": "'\u2019"}
"""What else is printed for a separator of thousands."""


_BEGINS_SUFFIX = '%\u2030\u00b0([{<"|;*$\u20ac\u00a3\u00a5'
"""What a suffix may begin with, beside letters; nothing with which a number could continue."""
_GOES_ON = re.compile(
    r"[eE][+\-\u2212]?\d*$"  # an exponent that was cut off, or stands apart
    r"|(?<=0)[xXbBoO][0-9a-fA-F]+$"  # another base
    r"|(?<=\d)[a-fA-F]+\d[0-9a-fA-F]*$"  # hexadecimal digits
)


class NumberText:
    """Reads numbers that are written as text.

    Args:
        decimal: The decimal sign.
        thousands: What may stand between groups of three digits; None = nothing.
        suffix: What may stand behind the number: a text, several texts, or a table with the factor of each.
            True = any text that does not continue the number; None = nothing.
    """

    def __init__(
        self, decimal: str, thousands: str | None, suffix: bool | str | list[str] | Mapping[str, float] | None
    ) -> None:
        self._decimal = decimal
        self._group = None if thousands is None else f"[{re.escape(_SEPARATORS.get(thousands, thousands))}]"
        whole = r"\d+" if self._group is None else rf"(?:\d{{1,3}}(?:{self._group}\d{{3}})+|\d+)"
        point = re.escape(decimal)
        self._pattern = re.compile(
            rf"[+\-\u2212]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?", re.ASCII
        )
        self._any = suffix is True
        listed = [suffix] if isinstance(suffix, str) else suffix
        if isinstance(listed, bool) or listed is None:
            self._factors: dict[str, float] = {}
        elif isinstance(listed, Mapping):
            self._factors = dict(listed)
        else:
            self._factors = dict.fromkeys(listed, 1.0)
        self._is_table = isinstance(suffix, Mapping)

    def parse(self, raw: str, where: str) -> float:
        """Return the number that a text holds.

        Raises:
            MessageError: It holds none; names ``where``.
        """
        text = raw.strip()
        match = self._pattern.match(text) if len(text) <= MAX_TEXT else None
        if match is None:
            raise MessageError(f"{where} gave {shown(raw)}, expected a number")
        behind = text[match.end() :].strip()
        factor: float | None
        if self._any and behind:
            is_suffix = behind[0].isalpha() or behind[0] in _BEGINS_SUFFIX
            factor = 1.0 if is_suffix and not _GOES_ON.match(text, text.index(behind, match.end())) else None
        else:
            factor = 1.0 if not behind and not self._is_table else self._factors.get(behind)
        if factor is None and not behind:
            raise MessageError(
                f"{where} gave {shown(raw)}, expected one of {', '.join(self._factors)} behind it"
            )
        if factor is None:
            hint = (
                f"one of {', '.join(self._factors)}"
                if self._factors
                else "a unit; the text after it may be part of the number"
                if self._any
                else "nothing; give 'suffix' if it is a unit"
            )
            raise MessageError(f"{where} gave {shown(raw)}, expected a number and behind it {hint}")
        digits = match[0].replace("\u2212", "-")
        if self._group is not None:
            digits = re.sub(self._group, "", digits)
        return finite(float(digits.replace(self._decimal, ".")) * factor, where)


def interpolated(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Return the value at ``x`` on straight lines between points; beyond them that of the first or last."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def clamped(value: float, limits: tuple[float, float] | None, tolerance: float | None, where: str) -> float:
    """Return ``value`` within its limits; a little beyond them it is the limit.

    Args:
        value: What was read.
        limits: Lowest and highest; None = none.
        tolerance: How much beyond; None = 5 % of the range.
        where: What gave it, for the error.

    Raises:
        MessageError: It is further out.
    """
    if limits is None:
        return value
    low, high = limits
    slack = 0.05 * (high - low) if tolerance is None else tolerance
    if not low - slack <= value <= high + slack:
        raise MessageError(f"{where} gave {value:g}: outside {low:g} to {high:g} by more than {slack:g}")
    return min(max(value, low), high)


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
    return math.trunc(steps + math.copysign(noise, steps)) / 10.0**decimals


def rounded_within(value: float, decimals: int, low: float, high: float) -> float:
    """Return ``value`` with so many decimals, to the nearest, but not beyond ``low`` and ``high``.

    A value that is beyond them itself is rounded towards them.
    """
    nearest = rounded(value, decimals, toward_zero=False)
    steps = value * 10.0**decimals
    noise = 16.0 * math.ulp(steps)
    if nearest > high:
        return math.floor(steps + noise) / 10.0**decimals
    if nearest < low:
        return math.ceil(steps - noise) / 10.0**decimals
    return nearest


def as_number(value: float, decimals: int | None) -> int | float:
    """Return ``value`` as JSON shall show it: without a fraction where none was asked for."""
    return int(value) if decimals == 0 else value + 0.0


def as_digits(value: float, decimals: int | None) -> str:
    """Return ``value`` as plain digits, never with an exponent: small devices do not read those."""
    if decimals is not None:
        return f"{value + 0.0:.{decimals}f}"
    text = format(Decimal(repr(value + 0.0)), "f")
    return text.removesuffix(".0")
