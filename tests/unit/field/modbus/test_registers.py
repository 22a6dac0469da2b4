"""Registers: what pymodbus must not do by itself."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.modbus.place import SerialLine, TcpAddress
from heron_mqtt.field.modbus.registers import _client


@pytest.mark.parametrize("place", [TcpAddress("127.0.0.1", 1), SerialLine("/dev/ttyS0")])
async def test_nothing_is_written_twice_and_no_connection_made_behind_our_back(place: Any) -> None:
    client = _client(place, 1.5, "tcp")
    assert client.ctx.retries == 0
    assert client.ctx.comm_params.reconnect_delay == 0.0
    assert client.ctx.comm_params.timeout_connect == 1.5
    client.close()
