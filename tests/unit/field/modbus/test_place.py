"""Where Modbus is spoken: addresses and serial ports, as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.config import validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.modbus.place import SerialLine, TcpAddress, is_serial_port, tcp_address
from support.rows import each_row


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("box", "box", 502),
        ("192.168.1.50:1", "192.168.1.50", 1),
        ("box:65535", "box", 65_535),
        ("[::1]", "::1", 502),
        ("[::1]:1502", "::1", 1502),
    ],
)
def test_an_address_is_a_host_and_a_port_or_the_port_of_modbus(text: str, host: str, port: int) -> None:
    assert tcp_address(text) == TcpAddress(host, port)
    assert str(TcpAddress(host, port)) == f"{host}:{port}"
    assert TcpAddress("box") == TcpAddress("box", 502)


@each_row("text", ["", ":502", "box:0", "box:65536", "box:", "box:x", "box:-1", "a/b", "me@box"])
def test_what_is_no_address_is_told_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        tcp_address(text)
    assert str(caught.value) == f"{text!r}: expected HOST or HOST:PORT"


@pytest.mark.parametrize(
    ("text", "is_port"),
    [
        ("/dev/ttyUSB0", True),
        ("COM3", True),
        ("com12", True),
        ("COM", False),
        ("COM3:1", False),
        ("box", False),
    ],
)
def test_a_serial_port_is_a_path_or_one_of_windows(text: str, is_port: bool) -> None:
    assert is_serial_port(text) is is_port


def test_a_serial_line_has_the_settings_that_most_devices_have() -> None:
    line = SerialLine("/dev/ttyS0")
    assert (line.baud, line.parity, line.stop_bits, str(line)) == (9600, "none", 1, "/dev/ttyS0")


BROADCAST = "unit: {} on a serial port: 0 is a broadcast that no device answers; expected 1 to 247"


@each_row(
    ("given", "problem"),
    [
        ({}, "address or serial: one of them must be given"),
        ({"address": "box", "serial": "/dev/ttyS0"}, "address or serial: one of them must be given"),
        ({"address": "/dev/ttyS0"}, "'/dev/ttyS0' is a serial port; say serial = '/dev/ttyS0'"),
        ({"address": "box:0"}, "'box:0': expected HOST or HOST:PORT"),
        ({"address": "box", "baud": 9600}, "baud: goes with serial, this device is at an address"),
        ({"address": "box", "parity": "none"}, "parity: goes with serial, this device is at an address"),
        ({"address": "box", "stop_bits": 1}, "stop_bits: goes with serial, this device is at an address"),
        (
            {"serial": "/dev/ttyS0", "framing": "tcp"},
            "framing: goes with address; a serial port is always RTU",
        ),
        (
            {"serial": "/dev/ttyS0", "framing": "rtu"},
            "framing: goes with address; a serial port is always RTU",
        ),
        ({"serial": "/dev/ttyS0", "unit": 0}, BROADCAST.format(0)),
        ({"serial": "/dev/ttyS0", "unit": 248}, BROADCAST.format(248)),
    ],
)
def test_a_table_that_is_half_an_address_and_half_a_line_is_refused(
    given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(DeviceModbusTable, given, "site.toml")
    assert str(caught.value).endswith(problem)


@pytest.mark.parametrize(
    ("given", "place", "shown"),
    [
        ({"address": "box"}, TcpAddress("box", 502), "box"),
        ({"address": "box:1502", "unit": 0}, TcpAddress("box", 1502), "box:1502"),
        ({"address": "box", "unit": 255, "framing": "rtu"}, TcpAddress("box", 502), "box"),
        ({"serial": "COM3", "unit": 1}, SerialLine("COM3"), "COM3"),
        ({"serial": "/dev/ttyS0", "unit": 247}, SerialLine("/dev/ttyS0"), "/dev/ttyS0"),
        (
            {"serial": "/dev/ttyS0", "baud": 300, "parity": "even", "stop_bits": 2},
            SerialLine("/dev/ttyS0", 300, "even", 2),
            "/dev/ttyS0",
        ),
    ],
)
def test_a_table_is_the_place_that_it_names_and_shows_it_as_it_was_given(
    given: dict[str, Any], place: Any, shown: str
) -> None:
    table = validate(DeviceModbusTable, given, "site.toml")
    assert (table.place, table.shown_place) == (place, shown)
