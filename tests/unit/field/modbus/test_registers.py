"""Registers: pieces, texts, connections that are held or made anew; what pymodbus does not do by itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from pymodbus.exceptions import ModbusIOException

from heron_mqtt.field.modbus.place import SerialLine, TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, ModbusFault, Registers, _client


@pytest.mark.parametrize("place", [TcpAddress("127.0.0.1", 1), SerialLine("/dev/ttyS0")])
async def test_nothing_is_written_twice_and_no_connection_made_behind_our_back(place: Any) -> None:
    client = _client(place, 1.5, "tcp")
    assert client.ctx.retries == 0
    assert client.ctx.comm_params.reconnect_delay == 0.0
    assert client.ctx.comm_params.timeout_connect == 1.5
    client.close()


class Answer:
    """What pymodbus answers with."""

    transaction_id = 0

    def __init__(
        self, words: list[int] | None = None, code: int | None = None, transaction_id: int = 0
    ) -> None:
        self.registers = self.bits = words or []
        self.transaction_id = transaction_id
        self._is_error = code is not None
        if code:
            self.exception_code = code

    def isError(self) -> bool:
        return self._is_error


class Client:
    """A client of pymodbus: what it was asked, and what becomes of it.

    Attributes:
        ends: By request, in order: words, an answer, or an exception. With none left it answers zeros.
    """

    def __init__(self) -> None:
        self.connected = False
        self.connects: list[Any] = []  # what becomes of connecting; with none left it connects
        self.ends: list[Any] = []
        self.asked: list[tuple[Any, ...]] = []
        self.transaction_id = 0
        self.closed = 0

    async def connect(self) -> bool:
        end = self.connects.pop(0) if self.connects else True
        if isinstance(end, BaseException):
            raise end
        self.connected = bool(end)
        return self.connected

    def close(self) -> None:
        self.connected = False
        self.closed += 1

    def __getattr__(self, name: str) -> Any:
        async def ask(*args: Any, count: int = 0, device_id: int) -> Any:
            self.asked.append((name, *args, count, device_id))
            end = self.ends.pop(0) if self.ends else [0] * count
            if isinstance(end, BaseException):
                if isinstance(end, ConnectionResetError):
                    self.connected = False
                raise end
            return end if isinstance(end, Answer) else Answer(end, transaction_id=self.transaction_id)

        return ask


def connection(**options: Any) -> tuple[Client, ModbusConnection]:
    made, client = ModbusConnection(TcpAddress("box"), timeout_s=0.5, **options), Client()
    made._client = client  # type: ignore[assignment]
    return client, made


SILENT = ModbusIOException("No response received after 0 retries")


async def fault(asked: Awaitable[Any]) -> str:
    """Return the text of the fault that a request ends with."""
    with pytest.raises(ModbusFault) as caught:
        await asked
    return str(caught.value)


async def test_long_areas_are_read_in_pieces_that_the_protocol_allows() -> None:
    client, made = connection()
    unit = Registers(made, 7)
    assert await unit.read(100, 125) == [0] * 125
    assert client.asked == [("read_holding_registers", 100, 125, 7)]
    client.asked.clear()
    assert len(await unit.read(100, 251, "input")) == 251
    assert client.asked == [
        ("read_input_registers", at, n, 7) for at, n in ((100, 125), (225, 125), (350, 1))
    ]
    client.asked.clear()
    assert len(await unit.read(0, 2001, "coil")) == 2001
    assert client.asked == [("read_coils", 0, 2000, 7), ("read_coils", 2000, 1, 7)]
    client.asked.clear()
    client.ends = [[True, False, True, False, False, False, False, False]]  # padded to a byte
    assert await unit.read(5, 3, "discrete") == [1, 0, 1]
    assert client.asked == [("read_discrete_inputs", 5, 3, 7)]
    assert await unit.read(5, 0) == []


async def test_registers_are_written_together_one_by_function_6_where_that_is_wanted() -> None:
    client, made = connection()
    unit = Registers(made, 7)
    await unit.write(10, [1])
    await unit.write(10, [1, 2])
    await unit.write(10, [1], single=True)
    await unit.write(10, [1, 2], single=True)
    await unit.write_coil(3, True)
    assert client.asked == [
        ("write_registers", 10, [1], 0, 7),
        ("write_registers", 10, [1, 2], 0, 7),
        ("write_register", 10, 1, 0, 7),
        ("write_registers", 10, [1, 2], 0, 7),
        ("write_coil", 3, True, 0, 7),
    ]


async def test_the_last_register_is_read_and_none_beyond_it() -> None:
    client, made = connection()
    unit = Registers(made, 7)
    assert await unit.read(65_535, 1) == [0]
    assert await unit.read(65_411, 125) == [0] * 125
    client.asked.clear()
    with pytest.raises(ModbusFault) as caught:
        await unit.read(65_535, 2)
    assert str(caught.value) == "box:502 unit 7: reading 2 registers at 65535: there are none beyond 65535"
    assert caught.value.code == 2
    assert client.asked == []


async def test_what_went_wrong_is_told_with_what_was_asked_and_where() -> None:
    client, made = connection()
    unit = Registers(made, 7)
    reading = "box:502 unit 7: reading 2 registers at 10"
    for end, text in (
        (Answer(code=2), f"{reading}: Modbus exception 2 (illegal data address)"),
        (Answer(code=11), f"{reading}: Modbus exception 11 (gateway target does not respond)"),
        (Answer(code=9), f"{reading}: Modbus exception 9"),
        (Answer(code=0), f"{reading}: Modbus exception 0"),
        ([1], f"{reading} gave 1"),
        ([1, 2, 3], f"{reading} gave 3"),
        (SILENT, f"{reading}: no answer within 0.5 s"),
        (TimeoutError(), f"{reading}: no answer within 0.5 s"),
        (ModbusIOException("cut"), f"{reading}: no answer (Modbus Error: [Input/Output] cut)"),
        (ConnectionResetError("reset"), f"{reading}: no answer (reset)"),
    ):
        client.ends = [end]
        assert await fault(unit.read(10, 2)) == text
    for asked, text in (
        (lambda: unit.read(3, 1, "input"), "reading 1 input registers at 3"),
        (lambda: unit.read(3, 1, "coil"), "reading 1 coils at 3"),
        (lambda: unit.read(3, 1, "discrete"), "reading 1 discrete inputs at 3"),
        (lambda: unit.write(3, [4, 5]), "writing 2 registers at 3"),
        (lambda: unit.write(3, [4], single=True), "writing 1 registers at 3"),
        (lambda: unit.write_coil(3, False), "writing coil 3"),
    ):
        client.ends = [Answer(code=4)]
        assert await fault(asked()) == f"box:502 unit 7: {text}: Modbus exception 4 (device failure)"


@pytest.mark.parametrize("end", [OSError("unreachable"), TimeoutError(), False, None])
async def test_nobody_at_the_address_is_told_by_unit(end: Any) -> None:
    client, made = connection()
    unit = Registers(made, 7)
    expected = "box:502 unit 7: no answer; is Modbus TCP switched on there?"
    for asked in (unit.connect, lambda: unit.read(0, 1)):
        client.connects = [end]
        assert await fault(asked()) == expected
    assert (made.connections, client.closed, made.connected) == (0, 2, False)
    await unit.connect()
    await unit.connect()
    assert (made.connections, unit.connections, made.connected) == (1, 1, True)
    unit.close()
    assert not made.connected


async def test_a_serial_port_that_refuses_its_settings_or_is_not_there_or_not_ours_is_told(
    tmp_path: Path,
) -> None:
    there = tmp_path / "port"
    there.touch()
    for port, end, text in (
        (
            str(there),
            ValueError("bad parity"),
            f"the serial port refuses SerialLine(port='{there}', baud=9600, ",
        ),
        (
            str(there),
            False,
            "the serial port cannot be opened; may you use it (group dialout), does another ",
        ),
        ("/dev/heron-none", False, "there is no such serial port; is the adapter plugged in?"),
    ):
        made, client = ModbusConnection(SerialLine(port)), Client()
        made._client = client  # type: ignore[assignment]
        client.connects = [end]
        assert (await fault(Registers(made, 1).read(0, 1))).startswith(f"{port} unit 1: {text}")
        assert client.closed == 1


async def test_how_long_a_unit_is_silent_counts_from_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    client, made = connection()
    unit, other = Registers(made, 7), Registers(made, 8)
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    assert unit.silent_s == math.inf
    await unit.read(0, 1)
    now += 3.0
    assert unit.silent_s == 3.0
    client.ends = [SILENT]
    await fault(unit.read(0, 1))
    assert (unit.silent_s, other.silent_s) == (3.0, math.inf)
    client.ends = [Answer(code=4)]
    await fault(unit.read(0, 1))
    assert unit.silent_s == 3.0, "a refusal is no answer to go by"


@pytest.mark.parametrize(
    ("is_shared", "delay_s", "numbers", "closed"),
    [
        (False, 0.0, True, [1, 2, 3, 4]),
        (True, 0.0, True, [0, 0, 1, 1]),
        (True, 0.0, False, [1, 2, 3, 4]),
        (False, 0.001, True, [0, 0, 1, 1]),
        (False, 0.001, False, [1, 2, 3, 4]),
    ],
)
async def test_a_connection_is_held_through_two_silences_where_a_late_answer_would_be_told_apart(
    is_shared: bool, delay_s: float, numbers: bool, closed: list[int]
) -> None:
    client, made = connection(connect_delay_s=delay_s)
    client.transaction_id = 7 if numbers else 0
    units = [Registers(made, 7), Registers(made, 8)] if is_shared else [Registers(made, 7)]
    for unit in units:
        await unit.read(0, 1)
    times = []
    for _ in closed[:3]:
        client.ends = [SILENT]
        made._line._units[7].rests_until = 0.0
        await fault(units[0].read(0, 1))
        times.append(client.closed)
    assert times == closed[:3]
    made._line._units[7].rests_until = 0.0
    await units[0].read(0, 1)
    client.ends = [SILENT]
    made._line._units[7].rests_until = 0.0
    await fault(units[0].read(0, 1))
    assert client.closed == closed[3], "an answer, and silences are counted anew"


async def test_a_connection_that_was_made_anew_for_the_silence_of_one_unit_is_new_for_that_unit_alone() -> (
    None
):
    client, made = connection()
    near, dead = Registers(made, 7), Registers(made, 8)
    await near.read(0, 1)
    await dead.read(0, 1)
    assert (near.connections, dead.connections) == (1, 1)
    client.ends = [SILENT]
    await fault(dead.read(0, 1))
    await near.read(0, 1)
    assert (made.connections, near.connections, dead.connections) == (2, 1, 2)
    client.ends = [ConnectionResetError("reset")]  # the device ended it: who knows why
    await fault(near.read(0, 1))
    await near.read(0, 1)
    assert (made.connections, near.connections, dead.connections) == (3, 2, 3)
    client.ends = [ModbusIOException("cut")]
    await fault(near.read(0, 1))
    await near.read(0, 1)
    assert (made.connections, near.connections, dead.connections) == (4, 3, 4)
    made.close()
    await near.read(0, 1)
    assert (made.connections, near.connections, dead.connections) == (5, 4, 5)


async def test_a_connection_that_was_lost_to_the_silence_of_several_units_is_new_for_each() -> None:
    client, made = connection()
    client.transaction_id = 7
    units = [Registers(made, n) for n in (7, 8)]
    for unit in units:
        await unit.read(0, 1)
    for unit in (units[0], units[1], units[1]):
        made._line._units[7].rests_until = made._line._units[8].rests_until = 0.0
        client.ends = [SILENT]
        await fault(unit.read(0, 1))
    await units[0].read(0, 1)
    assert [unit.connections for unit in units] == [2, 2]


async def test_a_request_that_was_cancelled_leaves_no_connection_for_its_late_answer() -> None:
    client, made = connection()
    unit = Registers(made, 7)
    await unit.read(0, 1)
    client.ends = [asyncio.CancelledError()]
    with pytest.raises(asyncio.CancelledError):
        await unit.read(0, 1)
    assert client.closed == 1
    await unit.read(0, 1)
    assert (made.connections, made.connections_of(7), made.connections_of(8)) == (2, 2, 1)


async def test_a_cancel_in_the_moment_of_connecting_leaves_no_half_made_connection() -> None:
    client, made = connection(connect_delay_s=0.01)

    async def connect() -> bool:
        client.connected = True
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # it comes with the result
        return True

    client.connect, before = connect, client.connect  # type: ignore[method-assign]
    task = asyncio.create_task(made.connect(7))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (client.connected, made.connections) == (False, 0)
    client.connect = before  # type: ignore[method-assign]
    for unit in (7, 8):
        assert await Registers(made, unit).read(0, 1) == [0]
    assert made.connections == 1


async def test_a_unit_that_rests_is_told_with_how_long() -> None:
    client, made = connection()
    near, dead = Registers(made, 7), Registers(made, 8)
    await near.read(0, 1)
    for _ in range(2):
        client.ends = [SILENT]
        await fault(dead.read(0, 1))
    for asked, what in ((lambda: dead.read(0, 1), "reading 1 registers at 0: "), (dead.connect, "")):
        made.close()
        text = await fault(asked())
        assert text == f"box:502 unit 8: {what}no answer before; asked again in 0.5 s"


async def test_silences_of_one_unit_after_another_are_told_apart_by_the_connections_that_they_cost() -> None:
    client, made = connection()
    near, dead = Registers(made, 7), Registers(made, 8)
    await near.read(0, 1)
    await dead.read(0, 1)
    client.ends = [SILENT, SILENT]
    await fault(dead.read(0, 1))
    await fault(near.read(0, 1))
    await near.read(0, 1)
    assert (made.connections, near.connections, dead.connections) == (3, 2, 2)


async def test_each_exception_of_the_protocol_has_its_name() -> None:
    client, made = connection()
    names = {1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure"}
    names |= {5: "acknowledge", 6: "device busy", 8: "memory parity error", 10: "gateway path unavailable"}
    names |= {11: "gateway target does not respond"}
    for code in range(1, 13):
        client.ends = [Answer(code=code)]
        name = f" ({names[code]})" if code in names else ""
        with pytest.raises(ModbusFault) as caught:
            await Registers(made, 7).read(0, 1)
        assert str(caught.value).endswith(f": Modbus exception {code}{name}")
        assert caught.value.code == code


async def test_nothing_is_asked_before_the_delay_after_connecting_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, made = connection(connect_delay_s=5.0)
    loop, now, slept = asyncio.get_running_loop(), [64.0], []

    async def sleep(for_s: float) -> None:
        slept.append(for_s)

    monkeypatch.setattr(loop, "time", lambda: now[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    for at_s, waited in ((64.0, [5.0]), (66.0, [3.0]), (69.0, []), (99.0, [])):
        now[0] = at_s
        slept.clear()
        await Registers(made, 7).read(0, 1)
        assert slept == waited, at_s
    made.close()
    await Registers(made, 7).read(0, 1)
    assert slept == [5.0]
    assert len(client.asked) == 5


@pytest.mark.parametrize(
    ("place", "framing", "framer", "is_so"),
    [
        (TcpAddress("box", 1502), "tcp", "FramerSocket", {"host": "box", "port": 1502}),
        (TcpAddress("box"), "rtu", "FramerRTU", {"host": "box", "port": 502}),
        (
            SerialLine("/dev/ttyS9", 19_200, "even", 2),
            "tcp",
            "FramerRTU",
            {"host": "/dev/ttyS9", "baudrate": 19_200, "bytesize": 8, "parity": "E", "stopbits": 2},
        ),
        (SerialLine("/dev/ttyS9"), "rtu", "FramerRTU", {"baudrate": 9600, "parity": "N", "stopbits": 1}),
    ],
)
async def test_a_client_speaks_as_its_place_and_framing_say(
    place: Any, framing: Any, framer: str, is_so: dict[str, Any]
) -> None:
    client = _client(place, 1.5, framing)
    params = client.ctx.comm_params
    assert {name: getattr(params, name) for name in is_so} == is_so
    assert type(client.ctx.framer).__name__ == framer
    client.close()
