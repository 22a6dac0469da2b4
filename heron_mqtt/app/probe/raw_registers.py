"""The registers of an unknown device, read as every type, to find the table of its registers."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from typing import cast

from heron_mqtt.app.vendor_links import connection_to
from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.modbus.encoding import RegisterType, decode
from heron_mqtt.field.modbus.registers import ModbusFault, RegisterArea, Registers

MAX_SHOWN = 500  # registers of one call
AT_ONCE = 32  # registers in one request; a part that cannot be read is halved
PAIRS: tuple[tuple[str, RegisterType, bool], ...] = (
    ("int32", "int32", False),
    ("int32 swapped", "int32", True),
    ("float32", "float32", False),
    ("float32 swapped", "float32", True),
)
"""Two registers together, from this one on: heading, type, and whether the words are swapped."""


@dataclass(frozen=True, slots=True)
class RegisterRange:
    """Registers to look at.

    Attributes:
        area: Which of the four Modbus tables.
        first: Address of the first, from 0.
        last: Address of the last.
    """

    area: RegisterArea
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RawRegister:
    """One register as it is.

    Attributes:
        area: Which of the four Modbus tables.
        address: From 0.
        word: 16 bits; of a coil or discrete input 0 or 1. None = it cannot be read.
        means: Type -> value, with the next register where the type takes two.
    """

    area: RegisterArea
    address: int
    word: int | None
    means: dict[str, int | float | str]


def register_range(text: str) -> RegisterRange:
    """Return what AREA:FIRST-LAST, or AREA:ADDRESS, says.

    Raises:
        ConfigError: It says something else, or too much.
    """
    match = re.fullmatch(r"(holding|input|coil|discrete):(\d{1,5})(?:-(\d{1,5}))?", text)
    if match is None:
        raise ConfigError(
            f"--registers {text}: expected holding:0-49 (or input, coil, discrete), addresses from 0"
        )
    first, last = int(match[2]), int(match[3] or match[2])
    if not first <= last <= 65_535 or last - first >= MAX_SHOWN:
        raise ConfigError(
            f"--registers {text}: expected the lower address first, none over 65535, {MAX_SHOWN} registers "
            "at most"
        )
    return RegisterRange(cast(RegisterArea, match[1]), first, last)


async def read_raw(table: DeviceModbusTable, wanted: RegisterRange) -> list[RawRegister]:
    """Return what stands in registers; what cannot be read is in the list without a word.

    Raises:
        ConfigError: pymodbus is not installed.
        NotReady: The device does not answer.
    """
    words: dict[int, int] = {}
    with contextlib.closing(connection_to(table)) as connection:
        registers = Registers(connection, table.unit)
        waiting = [
            (at, min(AT_ONCE, wanted.last - at + 1)) for at in range(wanted.first, wanted.last + 1, AT_ONCE)
        ]
        while waiting:
            at, count = waiting.pop(0)
            try:
                found = await registers.read(at, count, wanted.area)
            except ModbusFault as exc:
                if exc.code is None:
                    raise NotReady(str(exc)) from None
                if count > 1:
                    half = count // 2
                    waiting[:0] = [(at, half), (at + half, count - half)]
                continue
            words.update(enumerate(found, start=at))
    return [_raw(wanted.area, at, words) for at in range(wanted.first, wanted.last + 1)]


def _raw(area: RegisterArea, at: int, words: dict[int, int]) -> RawRegister:
    word, following = words.get(at), words.get(at + 1)
    if word is None or area in {"coil", "discrete"}:
        return RawRegister(area, at, word, {})
    text = "".join(chr(b) if 32 <= b < 127 else "." for b in word.to_bytes(2, "big"))
    means: dict[str, int | float | str] = {"uint16": word, "int16": decode([word], "int16"), "text": text}
    if following is not None:
        for heading, type_, swapped in PAIRS:
            value = decode([word, following], type_, swap_words=swapped)
            if not isinstance(value, float) or math.isfinite(value):
                means[heading] = value
    return RawRegister(area, at, word, means)
