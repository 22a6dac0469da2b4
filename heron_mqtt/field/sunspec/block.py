"""The registers of one model, read as numbers and written as registers."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

from heron_mqtt.errors import HeronError
from heron_mqtt.field.sunspec.layouts import Point, PointGroup, layout

NOT_IMPLEMENTED: dict[str, int] = {
    "uint16": 0xFFFF,
    "int16": 0x8000,
    "enum16": 0xFFFF,
    "bitfield16": 0xFFFF,
    "raw16": 0xFFFF,
    "count": 0xFFFF,
    "pad": 0x8000,
    "sunssf": 0x8000,
    "uint32": 0xFFFF_FFFF,
    "int32": 0x8000_0000,
    "enum32": 0xFFFF_FFFF,
    "bitfield32": 0xFFFF_FFFF,
    "ipaddr": 0,
    "uint64": 0xFFFF_FFFF_FFFF_FFFF,
    "int64": 0x8000_0000_0000_0000,
    "bitfield64": 0xFFFF_FFFF_FFFF_FFFF,
    "acc16": 0,
    "acc32": 0,
    "acc64": 0,
}
"""What a register holds if the inverter does not have the point. Source: SunSpec Device Information Model."""

MAX_SCALE = 10  # sunssf ranges from -10 to 10
_SIGNED = {"int16": 0x8000, "sunssf": 0x8000, "int32": 0x8000_0000, "int64": 0x8000_0000_0000_0000}
_LARGEST = {"uint16": 0xFFFE, "uint32": 0xFFFF_FFFE, "int16": 0x7FFF, "int32": 0x7FFF_FFFF}
_FLOATS = {"float32": ">f", "float64": ">d"}
_TEXTS = frozenset({"string", "eui48", "ipv6addr"})


class SunSpecError(HeronError):
    """The registers of an inverter are not what SunSpec says, or it cannot do what is asked."""


class Block:
    """One model as it was read, or one of the groups in it.

    Args:
        model: Its id.
        address: Where its id register stands.
        registers: All of it, id and length first; may be shorter than the definition.
        group: Which group of the definition; None = the model itself.
        start: Where the group begins, registers from the model's id.
        around: What the group stands in.
    """

    def __init__(
        self,
        model: int,
        address: int,
        registers: Sequence[int],
        group: PointGroup | None = None,
        start: int = 0,
        around: Block | None = None,
    ) -> None:
        group = group or layout(model)
        if group is None:
            raise SunSpecError(f"model {model}: SunSpec defines no model of that number")
        self.model = model
        self.address = address
        self.group = group
        self._registers = registers
        self._start = start
        self._around = around

    def point(self, name: str) -> Point:
        """Return where a point stands in its group."""
        return self.group.points[name]

    def at(self, name: str) -> int:
        """Return the address of a point's first register."""
        return self.address + self._start + self.point(name).offset

    def raw(self, name: str) -> int | None:
        """Return the number in a point's registers, not scaled; None if the inverter does not have it."""
        point = self.point(name)
        words = self._words_of(point)
        if words is None:
            return None
        bits = 0
        for word in words:
            bits = bits << 16 | word
        if bits == NOT_IMPLEMENTED.get(point.type):
            return None
        half = _SIGNED.get(point.type, 0)
        return bits - 2 * half if half and bits >= half else bits

    def value(self, name: str) -> float | None:
        """Return a point in its unit; None if the inverter does not have it.

        Raises:
            SunSpecError: Its scale factor is out of range.
        """
        packed = _FLOATS.get(self.point(name).type)
        if packed is not None:
            return self._float(name, packed)
        raw = self.raw(name)
        if raw is None:
            return None
        exponent = self.exponent(name)
        if exponent is None:
            return None
        return float(f"{raw}e{exponent}")  # the nearest, which a product with a rounded power is not

    def text(self, name: str) -> str:
        """Return a string point."""
        words = self._words_of(self.point(name)) or ()
        data = b"".join(word.to_bytes(2, "big") for word in words)
        return data.split(b"\0")[0].decode("utf-8", "replace").strip()

    def has(self, *names: str) -> bool:
        """Whether the inverter has all of these points."""
        return all(self.raw(name) is not None for name in names)

    def counts(self, name: str, value: float) -> int:
        """Return ``value`` in the point's own steps, towards zero: never more than was asked for."""
        if value == 0.0:
            return 0  # in any scale, also one that the inverter does not tell just now
        steps = value / self.step(name)
        whole = round(steps)  # a step less would be lost where the division is only rounded below it
        return whole if math.isclose(steps, whole, rel_tol=1e-14) else math.trunc(steps)

    def step(self, name: str) -> float:
        """Return what one step of a point is worth, in its unit.

        Raises:
            SunSpecError: Its scale factor is not implemented, or out of range.
        """
        exponent = self.exponent(name)
        if exponent is None:
            raise SunSpecError(f"model {self.model}: the scale factor of {name} is not implemented")
        return float(f"1e{exponent}")

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

    def parts(self) -> list[Block]:
        """Return the groups behind the points, each as often as it stands there, as far as they were read."""
        found: list[Block] = []
        start = self._start + self.group.own_size
        for group in self.group.groups:
            for _ in range(self._count(group)):
                if start + group.own_size > len(self._registers):
                    break
                part = Block(self.model, self.address, self._registers, group, start, self)
                found.append(part)
                start += part._size()
        return found

    def shown(self) -> Iterator[tuple[str, str]]:
        """Yield name and value of every point that the inverter has, for people."""
        for name, point in self.group.points.items():
            if point.type in {"sunssf", "pad"} or (self._around is None and name in {"ID", "L"}):
                continue
            text = self._shown(name, point)
            if text is not None:
                yield name, text
        numbers: dict[str, int] = {}
        for part in self.parts():
            n = numbers[part.group.name] = numbers.get(part.group.name, 0) + 1
            for name, text in part.shown():
                yield f"{part.group.name}[{n}].{name}", text

    # -- reading -----------------------------------------------------------------------------------

    def _shown(self, name: str, point: Point) -> str | None:
        if point.type in _TEXTS:
            return self.text(name) or None
        try:
            value = self.value(name)
        except SunSpecError as exc:
            return str(exc)
        if value is None:
            return None
        raw = None if point.type in _FLOATS else self.raw(name)
        if point.type.startswith("bitfield") and raw is not None:
            bits = [point.words.get(i, str(i)) for i in range(64) if raw >> i & 1]
            return f"{raw:#x}" + (f" {', '.join(bits)}" if bits else "")
        word = point.words.get(raw) if raw is not None and point.type.startswith("enum") else None
        return f"{value:.10g}" + (f" {word}" if word else "")

    def _words_of(self, point: Point) -> Sequence[int] | None:
        begin = self._start + point.offset
        words = self._registers[begin : begin + point.size]
        return words if len(words) == point.size else None  # an older revision of the model is shorter

    def _float(self, name: str, packed: str) -> float | None:
        words = self._words_of(self.point(name))
        if words is None:
            return None
        (value,) = struct.unpack(packed, b"".join(word.to_bytes(2, "big") for word in words))
        return float(value) if math.isfinite(value) else None

    def exponent(self, name: str) -> int | None:
        """Return the power of ten that a point is scaled by; None = the inverter does not tell it now.

        Raises:
            SunSpecError: It is out of range.
        """
        sf = self.point(name).sf
        if sf is None:
            return 0
        exponent = sf if isinstance(sf, int) else self._above(sf)
        if exponent is not None and abs(exponent) > MAX_SCALE:
            raise SunSpecError(f"model {self.model}: scale factor {sf} is {exponent}, outside [-10, 10]")
        return exponent

    def _above(self, name: str) -> int | None:
        """Return the number of a point here, or in what is around."""
        if name in self.group.points:
            return self.raw(name)
        return None if self._around is None else self._around._above(name)

    # -- groups ------------------------------------------------------------------------------------

    def _count(self, group: PointGroup) -> int:
        """Return how often a group stands behind the points at most."""
        if isinstance(group.count, str):
            return self._above(group.count) or 0
        return group.count or len(self._registers)  # 0: as often as fits

    def _size(self) -> int:
        parts = self.parts()
        return self.group.own_size + sum(part._size() for part in parts)
