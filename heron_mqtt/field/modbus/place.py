"""The place of a Modbus device: a TCP address, or a serial line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MODBUS_PORT = 502
MAX_SERIAL_UNIT = 247
MIN_BAUD, MAX_BAUD = 300, 4_000_000
Parity = Literal["none", "even", "odd"]


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An address with Modbus TCP, or of a gateway that passes RTU frames on.

    Attributes:
        host: Name or address.
        port: TCP port.
    """

    host: str
    port: int = MODBUS_PORT

    def __str__(self) -> str:
        """Return it as users write it."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SerialLine:
    """A serial port with Modbus RTU: eight data bits, always.

    Attributes:
        port: ``/dev/ttyUSB0``, ``/dev/serial/by-id/...`` or ``COM3``.
        baud: Bits a second.
        parity: As set in the device. Modbus over Serial Line V1.02 asks for even; many devices have none.
        stop_bits: 1 or 2.
    """

    port: str
    baud: int = 9600
    parity: Parity = "none"
    stop_bits: int = 1

    def __str__(self) -> str:
        """Return the port."""
        return self.port


ModbusPlace = TcpAddress | SerialLine


def is_serial_port(text: str) -> bool:
    """Whether a text names a serial port, and no host."""
    return text.startswith("/") or re.fullmatch(r"COM\d+", text, re.IGNORECASE) is not None


def tcp_address(text: str) -> TcpAddress:
    """Return the address in HOST or HOST:PORT.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # an IPv6 address may stand alone, in brackets
        host, port = text, str(MODBUS_PORT)
    if not host or "/" in host or "@" in host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r}: expected HOST or HOST:PORT")
    return TcpAddress(host.strip("[]"), int(port))
