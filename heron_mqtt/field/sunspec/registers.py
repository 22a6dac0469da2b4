"""Registers of one Modbus TCP device: read, written, reconnected. The only file that imports pymodbus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from heron_mqtt.errors import ConfigError, HeronError

if TYPE_CHECKING:
    from pymodbus.client import AsyncModbusTcpClient
    from pymodbus.pdu import ModbusPDU

MAX_READ = 125  # registers in one request; Modbus application protocol, function 3
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS = 1, 2


class ModbusFault(HeronError):
    """The device did not answer, or answered with an exception.

    Args:
        text: What happened, for people.
        code: Modbus exception code, if it answered with one.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        self.code = code
        super().__init__(text)


class Registers:
    """Holding registers of one unit, over one connection that is made when needed and made again.

    Calls wait for each other. After a request without an answer the connection is closed, so that a late
    answer can never be taken for another request's.

    Args:
        host: Name or address.
        port: TCP port.
        unit: Unit id, 0 to 255.
        timeout_s: Bound of connecting, and of each answer.

    Raises:
        ConfigError: pymodbus is not installed.
    """

    def __init__(self, host: str, port: int, unit: int, *, timeout_s: float = 3.0) -> None:
        self._client = _client(host, port, timeout_s)
        self._unit = unit
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self.address = f"{host}:{port} unit {unit}"
        self.connections = 0
        """How many connections there have been; a new one may lead to a device that restarted."""

    async def connect(self) -> None:
        """Connect now; reading and writing do it when needed.

        Raises:
            ModbusFault: Nobody answers within the timeout.
        """
        async with self._lock:
            await self._connect()

    async def read(self, address: int, count: int) -> list[int]:
        """Return registers, in as many requests as it takes.

        Raises:
            ModbusFault: No answer, an exception, or too few registers.
        """
        found: list[int] = []
        while len(found) < count:
            at, n = address + len(found), min(count - len(found), MAX_READ)
            answer = await self._ask(
                f"reading {n} registers at {at}",
                partial(self._client.read_holding_registers, at, count=n, device_id=self._unit),
            )
            words = list(answer.registers)
            if len(words) != n:
                raise ModbusFault(f"{self.address}: reading {n} registers at {at} gave {len(words)}")
            found += words
        return found

    async def write(self, address: int, words: Sequence[int]) -> None:
        """Write neighbouring registers in one request.

        Raises:
            ModbusFault: No answer, or an exception.
        """
        await self._ask(
            f"writing {len(words)} registers at {address}",
            lambda: self._client.write_registers(address, list(words), device_id=self._unit),
        )

    def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        self._client.close()

    async def _ask(self, what: str, request: Callable[[], Awaitable[ModbusPDU]]) -> ModbusPDU:
        from pymodbus.exceptions import ModbusException

        async with self._lock:
            await self._connect()
            try:
                async with asyncio.timeout(2.0 * self._timeout_s):  # pymodbus bounds itself; to be sure
                    answer = await request()
            except (ModbusException, OSError, TimeoutError) as exc:
                self._client.close()
                raise ModbusFault(f"{self.address}: {what}: no answer ({exc})") from None
            except asyncio.CancelledError:
                self._client.close()  # the answer to this request may still come
                raise
        if answer.isError():
            code = int(getattr(answer, "exception_code", 0))
            raise ModbusFault(f"{self.address}: {what}: Modbus exception {code}", code)
        return answer

    async def _connect(self) -> None:
        if self._client.connected:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                connected = await self._client.connect()
        except (OSError, TimeoutError):
            connected = False
        if not connected:
            self._client.close()
            raise ModbusFault(f"{self.address}: nobody answers; is Modbus TCP switched on there?")
        self.connections += 1


def _client(host: str, port: int, timeout_s: float) -> AsyncModbusTcpClient:
    try:
        from pymodbus.client import AsyncModbusTcpClient
    except ImportError:
        raise ConfigError("this needs pymodbus: pip install 'heron-mqtt[modbus]'") from None
    # it neither reconnects nor repeats by itself: a repeated write could come after a newer one
    return AsyncModbusTcpClient(host, port=port, timeout=timeout_s, retries=0, reconnect_delay=0)
