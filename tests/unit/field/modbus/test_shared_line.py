"""Units behind one Modbus address: a dead or slow one costs the others little, and a write goes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import Framing, ModbusConnection, ModbusFault, Registers
from support.sunspec_server import BATTERY, PV, EmulatedInverter
from support.waiting import until

BASE = 40_000


class Pair:
    """Two units behind one address, with a connection to both."""

    def __init__(self, framing: Framing, timeout_s: float) -> None:
        self.near = EmulatedInverter(BATTERY, framing=framing, unit=1)
        self.dead = EmulatedInverter(PV, unit=2)
        self.near.beside.append(self.dead)
        self._framing, self._timeout_s = framing, timeout_s

    async def open(self) -> tuple[Registers, Registers]:
        """Return the registers of both, which have answered."""
        await self.near.start()
        self.connection = ModbusConnection(
            TcpAddress("127.0.0.1", self.near.port), timeout_s=self._timeout_s, framing=self._framing
        )
        units = Registers(self.connection, 1), Registers(self.connection, 2)
        for unit in units:
            await unit.read(BASE, 2)
        return units

    async def close(self) -> None:
        """Disconnect, and stop the server."""
        self.connection.close()
        await self.near.stop()


@pytest.fixture(params=["tcp", "rtu"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    pair = Pair(request.param, 0.3)
    yield pair
    await pair.close()


async def silences(unit: Registers, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ModbusFault, match="no answer"):
            await unit.read(BASE, 2)


async def test_a_silent_unit_leads_no_other_one_to_a_new_connection(pair: Pair) -> None:
    near, dead = await pair.open()
    before = near.connections, dead.connections
    pair.dead.silent = True
    await silences(dead, 2)
    assert (await near.read(BASE, 2))[0] == 0x5375
    assert near.connections == before[0]
    if pair.near.accepted == 1:  # held: the numbers of requests tell a late answer apart
        assert dead.connections == before[1]
    else:
        assert dead.connections > before[1]


async def test_a_connection_that_the_device_ended_is_a_new_one_for_every_unit(pair: Pair) -> None:
    units = await pair.open()
    before = [unit.connections for unit in units]
    await pair.near.stop()
    await pair.near.start()
    await until(lambda: not pair.connection.connected, "the end of the connection")
    for unit, was in zip(units, before, strict=True):
        await unit.read(BASE, 2)
        assert unit.connections > was


async def test_a_unit_that_was_silent_twice_is_left_alone_for_a_while_and_then_asked(pair: Pair) -> None:
    near, dead = await pair.open()
    pair.dead.silent = True
    await silences(dead, 2)
    asked = len(pair.dead.requests)
    with pytest.raises(ModbusFault, match=r"unit 2.*no answer before; asked again in 0\.\d s"):
        await dead.write(BASE + 2, [1])
    assert len(pair.dead.requests) == asked
    assert (await near.read(BASE, 2))[0] == 0x5375
    pair.dead.silent = False

    async def is_back() -> bool:
        try:
            return (await dead.read(BASE, 2))[0] == 0x5375
        except ModbusFault:
            return False

    async with asyncio.timeout(20.0):
        while not await is_back():
            await asyncio.sleep(0.05)


async def test_a_write_goes_before_reads_that_wait_longer() -> None:
    pair = Pair("tcp", 1.0)
    near, other = await pair.open()
    done: list[str] = []

    async def noted(name: str, work: object) -> None:
        await work  # type: ignore[misc]
        done.append(name)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(noted("first", other.read(BASE, 2)))
            for i in range(3):
                tasks.create_task(noted(f"read {i}", other.read(BASE, 2)))
            tasks.create_task(noted("write", near.write(BASE + 2, [1])))
    finally:
        await pair.close()
    assert done == ["first", "write", "read 0", "read 1", "read 2"]


async def test_a_connection_is_made_before_reads_that_wait_longer() -> None:
    pair = Pair("tcp", 1.0)
    near, other = await pair.open()
    done: list[str] = []

    async def read() -> None:
        await near.read(BASE, 2)
        done.append("read")

    async def connect() -> None:
        await other.connect()
        done.append("connected")

    pair.connection.close()
    async with asyncio.TaskGroup() as waiting, pair.connection._line.turn(1, is_write=False):
        for work in (read(), connect()):
            waiting.create_task(work)
            await asyncio.sleep(0.0)
    assert done == ["connected", "read"]
    await pair.close()


async def test_what_a_silent_unit_is_asked_gives_way_to_a_write() -> None:
    pair = Pair("tcp", 8.0)
    near, dead = await pair.open()
    pair.dead.swallows = 1
    connection = pair.connection
    try:
        connection._line._units[2].silences = 1  # without the 8 s of a first one
        asking = asyncio.create_task(dead.read(BASE, 2))
        await until(lambda: len(pair.dead.requests) == 2, "the question to the silent unit")
        async with asyncio.timeout(6.0):
            await near.write(BASE + 2, [1])
        with pytest.raises(ModbusFault, match="no answer yet, and other units wait"):
            await asking
    finally:
        await pair.close()


async def test_a_unit_alone_is_asked_at_once_after_any_silence() -> None:
    box = await EmulatedInverter(PV).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5)
    unit = Registers(connection, 1)
    try:
        box.swallows = 4
        await silences(unit, 4)
        assert (await unit.read(BASE, 2))[0] == 0x5375
    finally:
        connection.close()
        await box.stop()


async def test_one_that_stops_waiting_leaves_the_line_to_the_next() -> None:
    pair = Pair("tcp", 0.5)
    near, other = await pair.open()
    try:
        waiting = [asyncio.create_task(unit.read(BASE, 2)) for unit in (near, other, near, other)]
        await asyncio.sleep(0)
        for task in waiting[:3]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (await asyncio.wait_for(near.read(BASE, 2), 5.0))[0] == 0x5375
    finally:
        await pair.close()
