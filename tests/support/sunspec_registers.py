"""Registers of an emulated SunSpec inverter without a wire: what is read and written is there at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heron_mqtt.field.modbus.registers import ILLEGAL_ADDRESS, ModbusFault
from heron_mqtt.field.sunspec.block import Block
from support.sunspec_server import EmulatedInverter


def block_of(model: int, points: dict[str, Any], *, address: int = 40_002) -> Block:
    """Return a model with these points; no other is implemented.

    Args:
        model: Its id.
        points: Name ("Prt[1].DCW" of a group that repeats) -> number as it stands in its registers.
        address: Where it stands.
    """
    return Block(model, address, EmulatedInverter({model: points}, has_end=False).image[2:])


class ImageRegisters:
    """The registers of one emulated inverter, as ``Registers`` of a connection that costs no time.

    Attributes:
        box: The inverter; its server is not started.
        requests: Address and number of registers of each read.
        written: Point and number of each write request: ``["WMaxLimPct=6500"]``.
        connections: How many there have been.
        connected: Whether there is one; it is made when needed.
        silent_s: How long ago it answered, s.
        fault: What every request meets with, connecting too; None = it is answered.
        read_fault: What reading meets with.
        write_fault: What writing meets with.
    """

    address = "box unit 1"

    def __init__(self, models: dict[int, dict[str, Any]]) -> None:
        self.box = EmulatedInverter(models)
        self.requests: list[tuple[int, int]] = []
        self.written: list[list[str]] = []
        self.connections = 0
        self.connected = False
        self.silent_s = 0.0
        self.fault: ModbusFault | None = None
        self.read_fault: ModbusFault | None = None
        self.write_fault: ModbusFault | None = None

    async def connect(self) -> None:
        """Connect, if there is no connection."""
        if self.fault is not None:
            raise self.fault
        self.connections += not self.connected
        self.connected = True

    async def read(self, address: int, count: int) -> list[int]:
        """Return registers."""
        await self.connect()
        if self.read_fault is not None:
            raise self.read_fault
        self.requests.append((address, count))
        at = address - self.box.base
        if at < 0 or at + count > len(self.box.image):
            raise ModbusFault(f"{self.address}: there are none at {address}", ILLEGAL_ADDRESS)
        return self.box.image[at : at + count]

    async def write(self, address: int, words: Sequence[int]) -> None:
        """Write registers, and note which points they are."""
        await self.connect()
        if self.write_fault is not None:
            raise self.write_fault
        at = address - self.box.base
        self.box.image[at : at + len(words)] = words
        self.box.follow()
        self.written.append(
            [
                f"{name}={self.box[model, name]}"
                for (model, name), (begin, _) in self.box.places().items()
                if at <= begin < at + len(words)
            ]
        )

    def take_written(self) -> list[list[str]]:
        """Return what was written since the last call."""
        written, self.written = self.written, []
        return written
