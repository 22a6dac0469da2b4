"""Units behind one Modbus address: a dead or slow one costs the others little, and a write goes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import Framing, ModbusConnection, ModbusFault, Registers
from heron_mqtt.field.modbus.shared_line import SharedLine, Turn, UnitRests
from support.sunspec_server import BATTERY, PV, EmulatedInverter
from support.waiting import until

BASE = 40_000


# -- whose turn it is, to the moment ---------------------------------------------------------------


class Bound:
    """The time limit of a request, as ``asyncio.timeout`` gives it."""

    def __init__(self, at_s: float | None) -> None:
        self.at_s = at_s
        self.is_over = False

    def when(self) -> float | None:
        return self.at_s

    def expired(self) -> bool:
        return self.is_over

    def reschedule(self, at_s: float) -> None:
        self.at_s = at_s


class Line:
    """A line whose clock a test moves."""

    def __init__(self, timeout_s: float, now: SimpleNamespace) -> None:
        self.line = SharedLine(timeout_s)
        self.now = now

    async def ask(self, unit: int, *, took_s: float | None = 0.0, is_write: bool = False) -> None:
        """Ask a unit, which takes so long to answer, or is silent (None)."""
        async with self.line.turn(unit, is_write=is_write) as turn:
            bound: Any = Bound(None)
            self.line.begin(bound)
            self.now.s += took_s or 0.0
            (self.line.silent if took_s is None else self.line.answered)(turn)
            assert turn.bound is None

    async def rests_s(self, unit: int) -> float:
        """Return how long a unit that was silent is left alone, s; 0 = it is asked."""
        try:
            async with self.line.turn(unit, is_write=False):
                return 0.0
        except UnitRests as rests:
            return rests.for_s if str(rests) == f"not asked for {rests.for_s:g} s" else -1.0


@pytest.fixture
async def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the clock of the event loop, ``s``, for a test to move."""
    loop = asyncio.get_running_loop()
    now = SimpleNamespace(s=1024.0)
    monkeypatch.setattr(loop, "time", lambda: now.s)
    return now


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_unit_rests_after_its_second_silence_longer_each_time_up_to_five_seconds(
    now: SimpleNamespace,
) -> None:
    line = Line(1.0, now)
    await line.ask(1)
    await line.ask(2)
    await line.ask(2, took_s=None)
    assert await line.rests_s(2) == 0.0, "one silence may be a request that was swallowed"
    for rest_s in (1.0, 2.0, 4.0, 5.0, 5.0):
        await line.ask(2, took_s=None)
        assert await line.rests_s(2) == rest_s
        now.s += rest_s - 0.5
        assert await line.rests_s(2) == 0.5
        assert await line.rests_s(1) == 0.0, "the others do not rest"
        now.s += 0.5
        assert await line.rests_s(2) == 0.0
    await line.ask(2)
    await line.ask(2, took_s=None)
    assert await line.rests_s(2) == 0.0, "an answer ends it, and silences are counted anew"


async def test_the_rest_of_a_unit_with_a_short_time_limit_is_doubled_ten_times_at_most(
    now: SimpleNamespace,
) -> None:
    line = Line(2.0**-10, now)
    await line.ask(1)
    for silences, rest_s in ((11, 0.5), (1, 1.0), (1, 1.0), (5, 1.0)):
        for _ in range(silences):
            await line.ask(2, took_s=None)
            now.s += 8.0
        now.s -= 8.0
        assert await line.rests_s(2) == rest_s
        now.s += 8.0


async def test_a_unit_alone_never_rests_nor_waits(now: SimpleNamespace) -> None:
    line = Line(1.0, now)
    for _ in range(4):
        await line.ask(1, took_s=None)
    assert not line.line.is_shared
    assert await line.rests_s(1) == 0.0
    await line.ask(1, took_s=3.0)
    await asyncio.wait_for(line.ask(1), 1.0)
    await line.ask(2)
    assert line.line.is_shared


@pytest.mark.parametrize(("took_s", "waits"), [(0.0625, False), (0.1, False), (0.125, True), (2.0, True)])
async def test_a_slow_unit_is_read_no_sooner_than_its_answer_took_and_written_at_once(
    took_s: float, waits: bool, now: SimpleNamespace
) -> None:
    line, now.s = Line(1.0, now), 0.0  # so that a tenth of a second is one to the last digit
    await line.ask(1)
    await line.ask(2, took_s=took_s)
    await line.ask(2, is_write=True, took_s=took_s)
    reading = asyncio.create_task(line.ask(2))
    await settle()
    assert reading.done() is not waits
    now.s += took_s - 1 / 64
    await settle()
    assert reading.done() is not waits
    now.s += 1 / 64
    await settle()
    assert reading.done()


async def test_a_slow_unit_that_was_silent_since_is_asked_without_waiting(now: SimpleNamespace) -> None:
    line = Line(1.0, now)
    await line.ask(1)
    await line.ask(2, took_s=None)  # rests half a second, and is asked all the same
    asked = asyncio.create_task(line.ask(2))
    await settle()
    assert asked.done()


async def test_writes_go_before_reads_and_units_that_answer_before_silent_ones_each_in_turn(
    now: SimpleNamespace,
) -> None:
    line = Line(1.0, now)
    await line.ask(1)
    for silences in range(1, 5):  # 3 was silent twice, 4 three times
        await line.ask(2, took_s=None) if silences == 1 else None
        await line.ask(3, took_s=None) if silences <= 2 else None
        await line.ask(4, took_s=None) if silences <= 3 else None
        now.s += 8.0
    done: list[str] = []

    async def asks(unit: int, *, is_write: bool, name: str) -> None:
        async with line.line.turn(unit, is_write=is_write):
            done.append(name)

    async with asyncio.TaskGroup() as tasks, line.line.turn(1, is_write=False):
        for unit, is_write, name in (
            (4, False, "4 read"),
            (3, False, "3 read"),
            (2, False, "2 read"),
            (4, True, "4 write"),
            (2, True, "2 write"),
            (1, False, "1 read"),
            (1, False, "1 read again"),
            (1, True, "1 write"),
        ):
            tasks.create_task(asks(unit, is_write=is_write, name=name))
            await settle()
    assert done == [
        *("1 write", "1 read", "1 read again", "2 write", "2 read", "4 write"),
        *("4 read", "3 read"),  # more than two silences count as two
    ]


async def test_one_that_stops_waiting_when_it_was_its_turn_already_passes_it_on(now: SimpleNamespace) -> None:
    line = Line(1.0, now)
    async with line.line.turn(1, is_write=False):
        waiting = [asyncio.create_task(line.ask(unit)) for unit in (1, 2, 3)]
        await settle()
        waiting[1].cancel()
        await settle()
    waiting[0].cancel()  # it has been told that it is its turn, and has not run yet
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [task.cancelled() for task in waiting] == [True, True, False]
    await asyncio.wait_for(line.ask(1), 1.0)


# -- who is hurried ----------------------------------------------------------------------------------


async def hurried(
    now: SimpleNamespace,
    *,
    silences: int = 1,
    other: int = 2,
    other_silences: int = 0,
    is_write: bool = True,
    begun_ago_s: float = 0.0,
    limit_s: float | None = 8.0,
    is_begun: bool = True,
    is_over: bool = False,
) -> tuple[float | None, Turn]:
    """Return in how many seconds the request to a silent unit ends once another one waits."""
    line = Line(1.0, now)
    for unit, times in ((1, silences), (other, other_silences)):
        line.line._units.setdefault(unit, type("", (), {"silences": 0, "rests_until": 0.0})())
        line.line._units[unit].silences = max(times, line.line._units[unit].silences)
    bound: Any = Bound(None if limit_s is None else now.s + limit_s)
    async with line.line.turn(1, is_write=False) as turn:
        if is_begun:
            line.line.begin(bound)
            now.s += begun_ago_s
        bound.is_over = is_over
        waiting = asyncio.create_task(line.ask(other, is_write=is_write))
        await settle()
        if not is_begun:
            assert turn.bound is None
            line.line.begin(bound)
        ends_s = None if bound.at_s is None else bound.at_s - now.s
    await waiting
    return ends_s, turn


async def test_a_silent_unit_gives_way_after_a_quarter_of_a_second_to_a_write_and_half_a_second_to_a_read(
    now: SimpleNamespace,
) -> None:
    for how, ends_s in (
        ({}, 0.25),
        ({"is_write": False}, 0.5),
        ({"begun_ago_s": 0.125}, 0.125),
        ({"begun_ago_s": 3.0}, 0.0),
        ({"is_write": False, "begun_ago_s": 0.125}, 0.375),
        ({"silences": 2, "other_silences": 1}, 0.25),
        ({"silences": 7, "other_silences": 1}, 0.25),
        ({"is_begun": False}, 0.25),
        ({"is_begun": False, "is_write": False}, 0.5),
        ({"limit_s": None}, 0.25),
    ):
        found, turn = await hurried(now, **how)  # type: ignore[arg-type]
        assert found == ends_s, how
        assert turn.hurried, how


async def test_nobody_is_hurried_for_itself_for_a_unit_no_better_or_beyond_its_own_limit(
    now: SimpleNamespace,
) -> None:
    for how, ends_s in (
        ({"silences": 0}, 8.0),
        ({"other": 1}, 8.0),
        ({"silences": 1, "other_silences": 1}, 8.0),
        ({"silences": 2, "other_silences": 2}, 8.0),
        ({"silences": 3, "other_silences": 2}, 8.0),  # more than two silences count as two
        ({"limit_s": 0.25}, 0.25),
        ({"limit_s": 0.125}, 0.125),
        ({"is_over": True}, 8.0),
    ):
        found, turn = await hurried(now, **how)  # type: ignore[arg-type]
        assert found == ends_s, how
        assert not turn.hurried, how


# -- over a wire -----------------------------------------------------------------------------------


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
