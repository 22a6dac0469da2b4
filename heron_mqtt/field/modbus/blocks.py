"""Which registers are read in one request: as many as the protocol and the device's gaps allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heron_mqtt.field.modbus.registers import MAX_READ, MAX_READ_BITS, RegisterArea

BITS: frozenset[RegisterArea] = frozenset({"coil", "discrete"})


@dataclass(frozen=True, slots=True)
class RegisterSpan:
    """Registers that hold one value.

    Attributes:
        name: Of the value.
        area: Which of the four Modbus tables.
        address: Of the first, as in the protocol, from 0.
        count: How many.
    """

    name: str
    area: RegisterArea
    address: int
    count: int

    @property
    def end(self) -> int:
        """The address behind the last."""
        return self.address + self.count


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """One request.

    Attributes:
        area: Which of the four Modbus tables.
        address: Of the first register.
        count: How many.
        spans: What is in it.
    """

    area: RegisterArea
    address: int
    count: int
    spans: tuple[RegisterSpan, ...]


def read_blocks(
    spans: Iterable[RegisterSpan],
    *,
    max_gap: int = 0,
    max_registers: int = MAX_READ,
    boundaries: Sequence[int] = (),
) -> list[ReadBlock]:
    """Return the fewest requests that read all spans, in order of area and address.

    Args:
        spans: What is to be read; none crosses a boundary or is longer than a request.
        max_gap: How many unused registers may be read between two used ones.
        max_registers: How many one request may ask for; of bits 2000.
        boundaries: Addresses: no request holds registers on both sides of one.
    """
    found: list[ReadBlock] = []
    group: list[RegisterSpan] = []
    for span in sorted(spans, key=lambda s: (s.area, s.address)):
        if group and not _fits(group, span, max_gap, max_registers, boundaries):
            found.append(_block(group))
            group = []
        group.append(span)
    if group:
        found.append(_block(group))
    return found


def _fits(
    group: list[RegisterSpan], span: RegisterSpan, max_gap: int, most: int, boundaries: Sequence[int]
) -> bool:
    first, end = group[0], max(s.end for s in group)
    if span.area in BITS:
        most = MAX_READ_BITS
    return (
        span.area == first.area
        and span.address - end <= max_gap
        and span.end - first.address <= most
        and not any(first.address < b < span.end for b in boundaries)
    )


def _block(group: list[RegisterSpan]) -> ReadBlock:
    first = group[0]
    return ReadBlock(first.area, first.address, max(s.end for s in group) - first.address, tuple(group))
