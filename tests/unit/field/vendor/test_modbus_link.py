"""ModbusLink: how registers are read in turn and written in order, and when the device counts as there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers
from heron_mqtt.field.vendor import load_mapping, modbus_link
from heron_mqtt.field.vendor.link import NotTaken, RegisterPoll
from heron_mqtt.field.vendor.modbus_link import ModbusLink
from heron_mqtt.field.vendor.outgoing import RegisterCommand
from heron_mqtt.field.vendor.register_map import RegisterWrite
from support.modbus_box import ModbusBox, f32, i32
from support.waiting import until

TABLE: dict[str, Any] = {
    "modbus": {"period_s": 0.1, "max_gap": 4},
    "registers": {
        "watts": {"address": 100, "area": "input", "type": "int32"},
        "level": {"address": 104, "area": "input"},
        "volts": {"address": 200, "area": "input", "type": "float32"},
        "mode": {"address": 10},
        "relay": {"address": 7, "area": "coil"},
    },
    "quantities": {"p_mw": {"formula": "watts + level + volts", "unit": "W"}},
}
UNIT: dict[str, dict[int, list[int]]] = {
    "input": {100: i32(1500), 102: [0, 0], 104: [615], 200: f32(231.5)},
    "holding": {10: [0, 0, 0]},
    "coil": {7: [0]},
}


SILENCES = pytest.mark.parametrize("rig", [0.2], indirect=True)
"""How long an answer is waited for, s, where some do not come."""


class Rig:
    """A box and what leads to it; nothing is read in turn until it is entered."""

    def __init__(self, box: ModbusBox, link: ModbusLink) -> None:
        self.box, self.link = box, link
        self.map = link._map

    async def read(self) -> RegisterPoll:
        [group] = self.map.groups(self.link._names)
        return await self.link.read(group, self.map.blocks(group.names))

    async def write(
        self, *writes: RegisterWrite, read_back: bool = False, releases: bool = False, in_s: float = 1.0
    ) -> None:
        not_after = asyncio.get_running_loop().time() + in_s
        await self.link.send(RegisterCommand(writes, read_back, releases), not_after=not_after)

    def written(self) -> list[tuple[int, int, list[int]]]:
        return [(f, address, words) for _, f, address, words in self.box.requests if f in {5, 6, 16}]


@pytest.fixture(params=[5.0])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    box = await ModbusBox({1: UNIT}).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=request.param)
    mapping = load_mapping(TABLE, agent="MG1", device="ess", source="test")
    with contextlib.closing(connection):
        yield Rig(box, ModbusLink(Registers(connection, 1), mapping, monotonic=lambda: 7.0))
    await box.stop()


def power(*words: int, single: bool = False) -> RegisterWrite:
    return RegisterWrite(("mode", "power"), "holding", 10, words, single)


async def test_what_is_read_says_when_and_what_the_registers_hold(rig: Rig) -> None:
    poll = await rig.read()
    assert (poll.source, poll.at_s, poll.unread) == ("registers", 7.0, {})
    assert poll.values == {"watts": 1500, "level": 615, "volts": 231.5}
    assert poll.shown == {
        "watts": "0000 05dc = 1500",
        "level": "0267 = 615",
        "volts": "4367 8000 = 231.5",
    }
    assert [(address, count) for _, address, count in rig.box.reads()] == [(100, 5), (200, 2)]


@SILENCES
async def test_an_exception_harms_its_request_and_silence_ends_the_turn(rig: Rig) -> None:
    rig.box.lies.refuse = {100: 2}
    poll = await rig.read()
    assert poll.values == {"volts": 231.5}
    [(why, names)] = poll.unread.items()
    assert names == ("watts", "level")
    assert "Modbus exception 2 (illegal data address)" in why
    rig.box.lies.silent = True
    before = len(rig.box.requests)
    poll = await rig.read()
    assert poll.values == {}
    [(why, names)] = poll.unread.items()
    assert names == ("watts", "level", "volts")
    assert "no answer" in why
    assert len(rig.box.requests) == before + 1


@SILENCES
async def test_it_is_there_once_it_answers_and_away_after_two_silences(rig: Rig) -> None:
    returns: list[int] = []
    end = rig.link.on_return(lambda: returns.append(1))
    assert not rig.link.connected
    await rig.read()
    assert (rig.link.connected, len(returns)) == (True, 0)
    await rig.read()
    assert len(returns) == 0
    rig.box.lies.swallow = 1
    await rig.read()
    assert rig.link.connected, "one may be swallowed"
    await rig.read()
    assert len(returns) == 1, "what was away may have been started anew"
    await rig.read()
    assert len(returns) == 1
    rig.box.lies.swallow = 2
    await rig.read()
    await rig.read()
    assert not rig.link.connected
    rig.box.lies.refuse = {100: 2}
    await rig.read()
    assert (rig.link.connected, len(returns)) == (True, 2), "an exception is an answer"
    end()
    rig.box.lies.swallow = 1
    await rig.read()
    await rig.read()
    assert len(returns) == 2


async def test_over_a_new_connection_it_may_have_been_started_anew(rig: Rig) -> None:
    returns: list[int] = []
    rig.link.on_return(lambda: returns.append(1))
    await rig.read()
    rig.link._registers.close()
    await rig.read()
    assert (len(returns), rig.link.connected) == (1, True)


async def test_registers_are_written_in_order_each_as_it_wants(rig: Rig) -> None:
    relay = RegisterWrite(("relay",), "coil", 7, (1,), single=False)
    await rig.write(power(2, 200), relay, power(3, single=True))
    assert rig.written() == [
        (16, 10, [2, 200]),
        (5, 7, [0xFF00]),
        (6, 10, [3]),
    ]
    assert rig.link.connected, "it has answered"


async def test_what_is_refused_or_read_back_otherwise_ends_the_message(rig: Rig) -> None:
    rig.box.lies.forgets = {11}
    with pytest.raises(NotTaken) as refused:
        await rig.write(power(2, 200), read_back=True)
    wanted = "mode, power: the device holds 0002 0000 where 0002 00c8 was written"
    assert str(refused.value) == wanted
    rig.box.lies.refuse = {10: 3}
    with pytest.raises(NotTaken, match=r"^mode, power: 127\.0\.0\.1:.*exception 3 \(illegal data value\)"):
        await rig.write(power(2), RegisterWrite(("x",), "holding", 12, (1,), single=False))
    assert rig.written()[-1] == (16, 10, [2])


async def test_a_release_that_is_acknowledged_while_the_setpoint_stands_is_refused_each_time(
    rig: Rig,
) -> None:
    await rig.write(power(2, 200))
    rig.box.lies.forgets = {11}
    for _ in range(2):
        with pytest.raises(NotTaken) as refused:
            await rig.write(power(0, 0), releases=True)
        assert str(refused.value) == (
            "it has acknowledged its release, but mode, power: the device holds 0000 00c8 where 0000 0000 "
            "was written, as before"
        )
    rig.box.lies.forgets = set()
    await rig.write(power(0, 0), releases=True)
    assert rig.link.unproven is None


async def test_a_release_may_show_a_moment_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus_link, "SHOWN_WITHIN_S", 5.0)
    await rig.write(power(2, 200))
    rig.box.lies.forgets = {10, 11}
    releasing = asyncio.create_task(rig.write(power(0, 0), releases=True))
    await until(lambda: len(rig.box.reads()) > 1, "it is looked at again")
    rig.box.put(10, 0, 0)
    await releasing
    assert rig.link.unproven is None


async def test_a_release_that_reads_otherwise_is_taken_and_said_to_be_without_a_proof(rig: Rig) -> None:
    """A register of commands may read as nothing, or as the state that a command leads to."""
    await rig.write(power(2, 200))
    rig.box.on_write = lambda address, _: rig.box.put(10, 7) if address == 10 else None
    await rig.write(power(0), releases=True)
    held = "the device holds 0007 where 0000 was written"
    assert rig.link.unproven == f"mode, power: {held}"
    await rig.write(RegisterWrite(("power",), "holding", 11, (0,), single=False), releases=True)
    assert rig.link.unproven == f"mode, power: {held}", "of a release of two messages, too"
    await rig.write(power(3, 300))
    assert rig.link.unproven is None, "it holds a setpoint"
    rig.box.on_write = None
    await rig.write(power(0, 0), releases=True)
    assert rig.link.unproven is None


@SILENCES
async def test_a_release_that_cannot_be_read_back_is_taken_and_said_to_be_without_a_proof(rig: Rig) -> None:
    await rig.write(power(2, 200))
    writes = rig.link._registers.write

    async def then_silent(*args: Any, **kwargs: Any) -> None:
        await writes(*args, **kwargs)
        rig.box.lies.silent = True

    rig.link._registers.write = then_silent  # type: ignore[method-assign]
    await rig.write(power(0, 0), releases=True)
    assert rig.link.unproven is not None
    assert rig.link.unproven.startswith("mode, power: cannot be read back: ")


async def test_what_is_not_read_back_within_its_time_is_taken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modbus_link, "SHOWN_WITHIN_S", 0.05)
    rig.box.lies.slow = {10: 0.5}
    monkeypatch.setattr(rig.link._registers, "write", lambda *_, **__: asyncio.sleep(0))
    await rig.write(power(0, 0), releases=True)
    assert rig.link.unproven == "its registers were not read in time"


async def test_a_busy_device_is_asked_again_after_a_pause_until_the_message_is_too_old(rig: Rig) -> None:
    rig.box.lies.busy = 1
    begun = asyncio.get_running_loop().time()
    await rig.write(power(2))
    assert asyncio.get_running_loop().time() - begun >= 0.24
    assert len(rig.written()) == 2
    rig.box.lies.busy = 9
    with pytest.raises(NotTaken) as refused:
        await rig.write(power(5), in_s=0.01)
    assert str(refused.value) == (
        "mode, power: not written in time: the device, or what leads to it, is busy"
    )
    assert len(rig.written()) == 3


async def test_what_is_too_old_is_not_written_at_all(rig: Rig) -> None:
    with pytest.raises(NotTaken, match="not written in time"):
        await rig.write(power(5), in_s=-1.0)
    assert rig.written() == []


async def test_a_refusal_that_nobody_waits_for_is_no_error_of_the_program(rig: Rig) -> None:
    said: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(context))
    rig.box.lies.refuse = {10: 3}
    rig.link.send(RegisterCommand((power(2),)), not_after=loop.time() + 1.0)
    assert len(rig.link._tasks) == 1
    await until(lambda: not rig.link._tasks, "the refusal")
    gc.collect()
    assert said == []


async def test_it_is_read_in_its_period_and_not_after_the_end(rig: Rig) -> None:
    polls: list[RegisterPoll] = []
    more: list[RegisterPoll] = []
    async with rig.link:
        (end,) = rig.link.listen((), lambda *_: None, polls.append)
        rig.link.listen((), lambda *_: None, more.append)
        await until(lambda: polls, "the first")
        first, begun = len(polls), asyncio.get_running_loop().time()
        await until(lambda: len(polls) >= first + 4, "more")
        assert asyncio.get_running_loop().time() - begun >= 0.25
        end()
        told = len(polls)
        await until(lambda: len(more) > told, "one more")
        assert len(polls) == told
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("registers 127")]
    told = len(more)
    await asyncio.sleep(0.1)
    assert len(more) == told


@SILENCES
async def test_a_device_that_is_away_is_asked_once_a_second(rig: Rig) -> None:
    rig.box.lies.silent = True
    async with rig.link:
        await until(lambda: rig.box.requests, "the first")
        await asyncio.sleep(0.3)
        assert len(rig.box.requests) == 1


async def test_all_registers_are_read_to_show_them(rig: Rig) -> None:
    mapping = load_mapping(TABLE, agent="MG1", device="ess", source="test")
    assert rig.link._names == {"watts", "level", "volts"}
    assert ModbusLink(rig.link._registers, mapping, everything=True)._names is None
    assert rig.link.peer == f"the device at 127.0.0.1:{rig.box.port} unit 1"
