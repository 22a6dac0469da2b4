"""Numbers and texts in 16-bit registers: how many they take, and the order of their words and bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Literal

RegisterType = Literal[
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float32",
    "float64",
    "bcd16",
    "bcd32",
    "string",
    "bool",
]
RegisterValue = int | float | str | bool

_LETTERS = {
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}
FLOATS = frozenset({"float32", "float64"})
BCD_DIGITS: Mapping[str, int] = {"bcd16": 4, "bcd32": 8}
"""Binary coded decimals: a digit in each four bits."""


def register_count(type_: RegisterType, length: int = 1) -> int:
    """Return how many registers a value takes; ``length`` is that of a string."""
    if type_ in {"string", "bool"}:
        return length if type_ == "string" else 1
    if type_ in BCD_DIGITS:
        return BCD_DIGITS[type_] // 4
    return struct.calcsize(f">{_LETTERS[type_]}") // 2


def integer_range(type_: RegisterType) -> tuple[int, int]:
    """Return the least and the greatest number of an integer type."""
    bits = 16 * register_count(type_)
    return (0, (1 << bits) - 1) if type_[0] == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def decode(
    words: Sequence[int], type_: RegisterType, *, swap_words: bool = False, swap_bytes: bool = False
) -> RegisterValue:
    """Return the value in registers.

    Args:
        words: 16 bits each, as they were read; of a coil 0 or 1.
        type_: What they hold.
        swap_words: The word with the least significant bits comes first.
        swap_bytes: Within each word the byte with the least significant bits comes first.

    Returns:
        A float may be NaN or infinite: what the device says. A BCD with a digit beyond 9 is a text, its
        digits in hexadecimal: so say many devices that there is no value. A string has lost NULs and spaces
        around it; bytes that are no ASCII stand for themselves (latin-1).
    """
    if type_ == "bool":
        return words[0] != 0
    data = _bytes(words, swap_words=swap_words, swap_bytes=swap_bytes)
    if type_ == "string":
        return data.decode("latin-1").split("\0")[0].strip()
    if type_ in BCD_DIGITS:
        digits = data.hex()
        return int(digits) if digits.isdecimal() else f"0x{digits}"
    (value,) = struct.unpack(f">{_LETTERS[type_]}", data)
    return float(value) if type_ in FLOATS else int(value)


def encode(
    value: RegisterValue,
    type_: RegisterType,
    *,
    length: int = 1,
    swap_words: bool = False,
    swap_bytes: bool = False,
) -> list[int]:
    """Return the registers that hold a value; arguments as for ``decode``.

    Raises:
        ValueError: It does not fit; says what does.
    """
    if type_ == "bool":
        if value not in {0, 1}:
            raise ValueError(f"{value!r} is neither true nor false")
        return [int(value)]
    if type_ == "string":
        data = str(value).encode("latin-1", "replace")
        if len(data) > 2 * length:
            raise ValueError(f"{value!r} is longer than {2 * length} characters")
        data = data.ljust(2 * length, b"\0")
    elif isinstance(value, str):
        raise ValueError(f"{value!r} is not a number")
    elif type_ in BCD_DIGITS:
        digits = BCD_DIGITS[type_]
        if not (math.isfinite(value) and 0 <= value < 10**digits and value == int(value)):
            raise ValueError(f"{value:g} is no {type_}, which holds whole numbers of up to {digits} digits")
        data = bytes.fromhex(str(int(value)).zfill(digits))
    elif type_ in FLOATS:
        try:
            data = struct.pack(f">{_LETTERS[type_]}", float(value))
        except OverflowError:
            raise ValueError(f"{value:g} is too large for {type_}") from None
    else:
        low, high = integer_range(type_)
        if not (math.isfinite(value) and low <= value <= high and value == int(value)):
            raise ValueError(f"{value:g} is no {type_}, which holds whole numbers from {low} to {high}")
        data = struct.pack(f">{_LETTERS[type_]}", int(value))
    words = [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]
    data = _bytes(words, swap_words=swap_words, swap_bytes=swap_bytes)
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def _bytes(words: Sequence[int], *, swap_words: bool, swap_bytes: bool) -> bytes:
    """Return the bytes of words; swapping twice is not swapping."""
    ordered = reversed(words) if swap_words else words
    return b"".join(word.to_bytes(2, "little" if swap_bytes else "big") for word in ordered)
