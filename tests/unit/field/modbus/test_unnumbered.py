"""Answers without a number: a second or late one is not taken for the next request's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heron_mqtt.field.modbus.place import SerialLine, TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, ModbusFault, Registers
from heron_mqtt.field.modbus.unnumbered import AmbiguousAnswer, UnnumberedAnswers, answers
from support.modbus_box import ModbusBox
from support.virtual import run_virtual
from support.waiting import until

UNITS = {1: {"holding": {10: [1, 2, 3, 4, 5, 6]}, "coil": {0: [1, 0, 1]}}}


class Pdu:
    def __init__(self, function: int, **fields: Any) -> None:
        self.function_code, self.address, self.count = function, 0, 0
        self.bits: list[bool] = []
        self.registers: list[int] = []
        self.exception_code = 0
        self.__dict__.update(fields)


@pytest.mark.parametrize(
    ("request_", "fits", "does_not"),
    [
        (Pdu(3, count=2), Pdu(3, registers=[1, 2]), Pdu(3, registers=[1])),
        (Pdu(3, count=2), Pdu(0x83, exception_code=2), Pdu(0x90, exception_code=2)),
        (Pdu(4, count=1), Pdu(4, registers=[0]), Pdu(3, registers=[0])),
        (Pdu(1, count=9), Pdu(1, bits=[False] * 16), Pdu(1, bits=[False] * 8)),
        (Pdu(16, address=10, count=2), Pdu(16, address=10, count=2), Pdu(16, address=10, count=1)),
        (Pdu(16, address=10, count=2), Pdu(16, address=10, count=2), Pdu(16, address=11, count=2)),
        (
            Pdu(6, address=10, registers=[7]),
            Pdu(6, address=10, registers=[5]),
            Pdu(6, address=11, registers=[7]),
        ),
        (Pdu(5, address=1), Pdu(5, address=1), Pdu(6, address=1)),
    ],
)
def test_an_answer_is_of_the_function_the_size_and_the_place_that_were_asked(
    request_: Pdu, fits: Pdu, does_not: Pdu
) -> None:
    assert answers(request_, fits)
    assert not answers(request_, does_not)


def test_a_line_that_is_never_quiet_is_not_waited_for_without_end() -> None:
    """Another master polls the same unit, or a box sends of itself: others have to be asked, too."""

    async def chatters() -> None:
        told = UnnumberedAnswers("box")
        told.begin()
        told.asked(Pdu(3, count=1))
        assert told.take(Pdu(3, registers=[1]), is_awaited=True)

        async def chatter() -> None:
            while True:
                await asyncio.sleep(0.4)
                told.take(Pdu(3, registers=[1]), is_awaited=False)

        chattering = asyncio.create_task(chatter())
        told.take(Pdu(3, registers=[1]), is_awaited=False)
        await asyncio.sleep(0.45)
        async with asyncio.timeout(3.0):
            with pytest.raises(AmbiguousAnswer, match="keep coming, 2 s long"):
                await told.settle(Pdu(3, registers=[1]))
        chattering.cancel()

    run_virtual(chatters())


async def test_two_answers_that_differ_are_none() -> None:
    told = UnnumberedAnswers("box")
    told.begin()
    for second, is_clear in (
        (Pdu(3, registers=[1]), True),
        (Pdu(4, registers=[1]), True),
        (Pdu(3, registers=[2]), False),
    ):
        told.asked(Pdu(3, count=1))
        answer = Pdu(3, registers=[1])
        assert told.take(answer, is_awaited=True)
        assert not told.take(second, is_awaited=False)
        with contextlib.nullcontext() if is_clear else pytest.raises(AmbiguousAnswer):
            await told.settle(answer)


@pytest.fixture
async def box() -> AsyncIterator[ModbusBox]:
    made = ModbusBox(UNITS, framing="rtu")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def registers(box: ModbusBox) -> AsyncIterator[Registers]:
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5, framing="rtu")
    yield Registers(connection, 1)
    connection.close()


@pytest.mark.parametrize("again_s", [0.0, 0.004, 0.03])
async def test_a_box_that_answers_everything_twice_is_read_as_it_is(
    box: ModbusBox, registers: Registers, again_s: float
) -> None:
    """Its answers are of one size: nothing but the time tells them apart."""
    box.lies.again_s = again_s
    read: list[int] = []
    for value in range(6):
        box.put(10, value)
        try:
            read += await registers.read(10, 1)
        except ModbusFault:  # a busy machine: one came behind the next request, and is not guessed at
            continue
        assert read[-1] == value
    assert len(read) >= 4


async def test_a_second_answer_that_comes_late_confirms_no_write(
    box: ModbusBox, registers: Registers
) -> None:
    """Of a read, while the box refuses the write."""
    for _ in range(4):
        await registers.read(10, 2)  # the first answers of a connection are waited for anyway
    box.lies.again_s = 0.08
    await registers.read(10, 2)
    box.lies.again_s = None
    box.lies.slow = {12: 0.2}
    box.lies.refuse = {12: 4}
    with pytest.raises(ModbusFault, match="exception 4"):
        await registers.write(12, [7, 8])


async def test_after_an_answer_that_nothing_asked_for_the_next_ones_are_waited_for(
    box: ModbusBox, registers: Registers
) -> None:
    """One that is too late for the first look is noticed by the first that comes between two requests."""
    box.lies.again_s = 0.1
    for _ in range(4):
        await registers.read(10, 1)
        await asyncio.sleep(0.15)
    for value in range(4):
        box.put(10, value)
        assert await registers.read(10, 1) == [value]


async def test_a_late_answer_on_a_serial_line_is_not_of_another_place() -> None:
    box = ModbusBox(UNITS)
    connection = ModbusConnection(SerialLine(await box.start_serial()), timeout_s=0.2)
    try:
        registers = Registers(connection, 1)
        await registers.read(10, 1)
        box.lies.slow = {10: 0.3}
        with pytest.raises(ModbusFault, match="no answer"):
            await registers.write(10, [9, 9])
        box.lies.slow = {}
        await until(lambda: box.requests[-1][1] == 16, "the write")
        assert await registers.read(12, 2) == [3, 4]
    finally:
        connection.close()
        await box.stop_serial()
