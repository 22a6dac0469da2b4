"""The registers of one model, read as numbers and written as registers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heron_mqtt.errors import HeronError
from heron_mqtt.field.sunspec.layouts import LAYOUTS, Point

NOT_IMPLEMENTED: dict[str, int] = {
    "uint16": 0xFFFF,
    "int16": 0x8000,
    "enum16": 0xFFFF,
    "bitfield16": 0xFFFF,
    "sunssf": 0x8000,
    "uint32": 0xFFFF_FFFF,
    "int32": 0x8000_0000,
    "bitfield32": 0xFFFF_FFFF,
}
"""What a register holds if the inverter does not have the point. Source: SunSpec Device Information Model."""

MAX_SCALE = 10  # sunssf ranges from -10 to 10
_SIGNED = {"int16": 0x8000, "sunssf": 0x8000, "int32": 0x8000_0000}
_LARGEST = {"uint16": 0xFFFE, "uint32": 0xFFFF_FFFE, "int16": 0x7FFF, "int32": 0x7FFF_FFFF}


class SunSpecError(HeronError):
    """The registers of an inverter are not what SunSpec says, or it cannot do what is asked."""


class Block:
    """One model as it was read.

    Args:
        model: Its id.
        address: Where its id register stands.
        registers: All of it, id and length first.
    """

    def __init__(self, model: int, address: int, registers: Sequence[int]) -> None:
        self.model = model
        self.address = address
        self._registers = registers

    def point(self, name: str) -> Point:
        """Return where a point stands."""
        return LAYOUTS[self.model][name]

    def raw(self, name: str) -> int | None:
        """Return the number in a point's registers, not scaled; None if the inverter does not have it."""
        point = self.point(name)
        words = self._registers[point.offset : point.offset + point.size]
        if len(words) < point.size:  # an older revision of the model is shorter
            return None
        bits = 0
        for word in words:
            bits = bits << 16 | word
        if bits == NOT_IMPLEMENTED[point.type]:
            return None
        half = _SIGNED.get(point.type, 0)
        return bits - 2 * half if half and bits >= half else bits

    def value(self, name: str) -> float | None:
        """Return a point in its unit; None if the inverter does not have it.

        Raises:
            SunSpecError: Its scale factor is out of range.
        """
        raw = self.raw(name)
        if raw is None:
            return None
        exponent = self._exponent(name)
        if exponent is None:
            return None
        return raw * 10.0**exponent if exponent >= 0 else raw / 10.0**-exponent

    def text(self, name: str) -> str:
        """Return a string point."""
        point = self.point(name)
        words = self._registers[point.offset : point.offset + point.size]
        data = b"".join(word.to_bytes(2, "big") for word in words)
        return data.split(b"\0")[0].decode("utf-8", "replace").strip()

    def has(self, *names: str) -> bool:
        """Whether the inverter has all of these points."""
        return all(self.raw(name) is not None for name in names)

    def counts(self, name: str, value: float) -> int:
        """Return ``value`` in the point's own steps, towards zero: never more than was asked for."""
        exponent = self._exponent(name)
        if exponent is None:
            raise SunSpecError(f"model {self.model}: the scale factor of {name} is not implemented")
        steps = value / 10.0**exponent if exponent >= 0 else value * 10.0**-exponent
        return math.trunc(steps + math.copysign(16.0 * math.ulp(steps), steps))

    def step(self, name: str) -> float:
        """Return what one step of a point is worth, in its unit."""
        exponent = self._exponent(name)
        if exponent is None:
            raise SunSpecError(f"model {self.model}: the scale factor of {name} is not implemented")
        return 10.0**exponent

    def words(self, name: str, raw: int) -> list[int]:
        """Return the registers for a number that is not scaled.

        Raises:
            SunSpecError: It does not fit.
        """
        point = self.point(name)
        largest = _LARGEST.get(point.type, 0xFFFE)
        smallest = -largest if point.type in _SIGNED else 0
        if not smallest <= raw <= largest:
            raise SunSpecError(f"model {self.model}: {name} = {raw} does not fit into {point.type}")
        bits = raw % (1 << 16 * point.size)
        return [bits >> 16 * i & 0xFFFF for i in reversed(range(point.size))]

    def _exponent(self, name: str) -> int | None:
        sf = self.point(name).sf
        if sf is None:
            return 0
        exponent = self.raw(sf)
        if exponent is not None and abs(exponent) > MAX_SCALE:
            raise SunSpecError(f"model {self.model}: scale factor {sf} is {exponent}, outside [-10, 10]")
        return exponent
