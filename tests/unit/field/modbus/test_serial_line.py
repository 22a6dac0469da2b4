"""Modbus RTU on a serial port: a pair of pseudo-terminals stands for the cable."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heron_mqtt.config import validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.modbus.place import SerialLine, TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, ModbusFault, Registers
from support.modbus_box import ModbusBox, f32

UNITS: dict[int, dict[str, dict[int, list[int]]]] = {
    1: {"holding": {10: [1, 2, 3]}, "input": {0: f32(230.5)}, "coil": {0: [1, 0, 1]}},
    7: {"holding": {10: [70, 71]}},
}


@pytest.fixture
async def line() -> AsyncIterator[tuple[ModbusBox, SerialLine]]:
    box = ModbusBox(UNITS)
    port = await box.start_serial()
    yield box, SerialLine(port, baud=19200)
    await box.stop_serial()


@contextlib.contextmanager
def connected(place: SerialLine, timeout_s: float = 0.5) -> Any:
    connection = ModbusConnection(place, timeout_s=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


async def test_units_on_one_line_are_read_and_written(line: tuple[ModbusBox, SerialLine]) -> None:
    box, place = line
    with connected(place) as connection:
        first, second = Registers(connection, 1), Registers(connection, 7)
        assert await first.read(10, 3) == [1, 2, 3]
        assert await second.read(10, 2) == [70, 71]
        assert await first.read(0, 2, "input") == f32(230.5)
        assert await first.read(0, 3, "coil") == [1, 0, 1]
        await first.write(10, [500])
        await first.write(11, [501], single=True)
        await first.write(10, [600, 601])
        await first.write_coil(1, True)
        assert [box[10], box[11]] == [600, 601]
        assert await first.read(0, 3, "coil") == [1, 1, 1]


async def test_an_exception_and_a_silent_unit_harm_no_other_request(
    line: tuple[ModbusBox, SerialLine],
) -> None:
    _, place = line
    with connected(place, timeout_s=0.2) as connection:
        unit = Registers(connection, 1)
        with pytest.raises(ModbusFault, match=r"exception 2 \(illegal data address\)"):
            await unit.read(99, 1)
        with pytest.raises(ModbusFault, match=r"unit 3: reading 1 registers at 10: no answer within"):
            await Registers(connection, 3).read(10, 1)
        assert await unit.read(10, 1) == [1]


async def test_a_port_that_is_not_there_is_one_line() -> None:
    with (
        connected(SerialLine("/dev/heron-no-port")) as connection,
        pytest.raises(ModbusFault, match=r"/dev/heron-no-port.*: there is no such serial port"),
    ):
        await Registers(connection, 1).read(0, 1)


async def test_a_port_that_cannot_do_what_it_is_told_is_one_line(line: tuple[ModbusBox, SerialLine]) -> None:
    _, place = line  # a pseudo-terminal knows no parity
    with (
        connected(SerialLine(place.port, parity="even")) as connection,
        pytest.raises(ModbusFault, match=r"the serial port refuses .*parity='even'"),
    ):
        await Registers(connection, 1).read(10, 1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "address or serial: one of them must be given"),
        ({"address": "box", "serial": "/dev/ttyS0"}, "address or serial: one of them"),
        ({"address": "/dev/ttyUSB0"}, "is a serial port; say serial"),
        ({"address": "box", "baud": 9600}, "baud: goes with serial"),
        ({"serial": "/dev/ttyUSB0", "framing": "rtu"}, "framing: goes with address"),
        ({"serial": "/dev/ttyUSB0", "unit": 0}, "0 is a broadcast"),
        ({"serial": "/dev/ttyUSB0", "parity": "mark"}, "parity"),
    ],
)
def test_a_place_that_is_half_an_address_and_half_a_line_is_refused(
    given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(DeviceModbusTable, given, "site.toml")


def test_a_table_is_the_place_that_it_names() -> None:
    line = {"serial": "/dev/ttyUSB0", "baud": 19200, "parity": "even", "stop_bits": 2}
    assert validate(DeviceModbusTable, line, "x").place == SerialLine("/dev/ttyUSB0", 19200, "even", 2)
    assert validate(DeviceModbusTable, {"address": "[::1]:1502"}, "x").place == TcpAddress("::1", 1502)
