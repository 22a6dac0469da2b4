"""Where a device on Modbus is: ``[microgrids.X.devices.y.modbus]``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from heron_mqtt.config import Table
from heron_mqtt.field.modbus.place import (
    MAX_BAUD,
    MAX_SERIAL_UNIT,
    MIN_BAUD,
    ModbusPlace,
    Parity,
    SerialLine,
    is_serial_port,
    tcp_address,
)
from heron_mqtt.field.modbus.registers import Framing

_OF_A_LINE = ("baud", "parity", "stop_bits")


class DeviceModbusTable(Table):
    """The device's Modbus address. Units with the same address or serial line share a connection."""

    address: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="HOST or HOST:PORT; port 502 if left out."
    )
    serial: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="Instead of address: a serial port with Modbus RTU, such as /dev/ttyUSB0 or COM3."
    )
    baud: int = Field(9600, ge=MIN_BAUD, le=MAX_BAUD, description="Of the serial port, bits a second.")
    parity: Parity = Field("none", description="Of the serial port: none, even or odd.")
    stop_bits: Literal[1, 2] = Field(1, description="Of the serial port.")
    unit: int = Field(1, ge=0, le=255, description="Modbus unit id; on a serial port 1 to 247.")
    framing: Framing = Field("tcp", description="rtu: a gateway that forwards RTU frames over TCP.")
    connect_delay_s: float = Field(
        0.0,
        ge=0.0,
        le=60.0,
        description="Wait after connecting, s; the connection is then kept through unanswered requests.",
    )
    timeout_s: float = Field(3.0, gt=0.0, le=60.0, description="Timeout of connecting and of each answer, s.")

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, text: str | None) -> str | None:
        if text is not None:
            if is_serial_port(text):
                raise ValueError(f"{text!r} is a serial port; say serial = {text!r}")
            tcp_address(text)
        return text

    @model_validator(mode="after")
    def _is_one_place(self, info: ValidationInfo) -> Self:
        if (self.address is None) == (self.serial is None):
            raise ValueError("address or serial: one of them must be given")
        if self.serial is None:
            idle = [key for key in _OF_A_LINE if key in self.given_keys(info)]
            if idle:
                raise ValueError(f"{idle[0]}: goes with serial, this device is at an address")
        elif "framing" in self.given_keys(info):
            raise ValueError("framing: goes with address; a serial port is always RTU")
        elif not 1 <= self.unit <= MAX_SERIAL_UNIT:
            raise ValueError(
                f"unit: {self.unit} on a serial port: 0 is a broadcast that no device answers; expected 1 to "
                f"{MAX_SERIAL_UNIT}"
            )
        return self

    @property
    def place(self) -> ModbusPlace:
        """The address, or the serial line."""
        if self.serial is not None:
            return SerialLine(self.serial, self.baud, self.parity, self.stop_bits)
        assert self.address is not None  # one of them is given
        return tcp_address(self.address)

    @property
    def shown_place(self) -> str:
        """Where it is, as it was given."""
        return self.serial or self.address or ""
