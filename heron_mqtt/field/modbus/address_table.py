"""Where a device on Modbus is: ``[microgrids.X.devices.y.modbus]``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from heron_mqtt.config import Table
from heron_mqtt.field.modbus.registers import Framing

MODBUS_PORT = 502


class DeviceModbusTable(Table):
    """Where the device is; several units may be behind one address, over one connection."""

    address: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="HOST or HOST:PORT; port 502 if left out."
    )
    unit: int = Field(1, ge=0, le=255, description="Modbus unit id.")
    framing: Framing = Field("tcp", description="rtu: a gateway that passes RTU frames on over TCP.")
    connect_delay_s: float = Field(
        0.0,
        ge=0.0,
        le=60.0,
        description="Wait so long after connecting, s, and hold the connection through unanswered requests.",
    )
    timeout_s: float = Field(3.0, gt=0.0, le=60.0, description="Bound of connecting and of an answer, s.")

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, text: str) -> str:
        host_and_port(text)
        return text

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.address)


def host_and_port(text: str) -> tuple[str, int]:
    """Return host and port of HOST or HOST:PORT.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # an IPv6 address may stand alone, in brackets
        host, port = text, str(MODBUS_PORT)
    if not host or "/" in host or "@" in host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r}: expected HOST or HOST:PORT")
    return host.strip("[]"), int(port)
