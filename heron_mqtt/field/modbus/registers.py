"""Registers of the units behind one Modbus address or serial line. The only file that imports pymodbus."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from heron_mqtt.cancellation import unless_cancelled
from heron_mqtt.errors import ConfigError, HeronError
from heron_mqtt.field.modbus.place import ModbusPlace, SerialLine, TcpAddress
from heron_mqtt.field.modbus.shared_line import SharedLine, Turn, UnitRests
from heron_mqtt.field.modbus.unnumbered import AmbiguousAnswer, UnnumberedAnswers

if TYPE_CHECKING:
    from pymodbus.client.base import ModbusBaseClient
    from pymodbus.pdu import ModbusPDU

MAX_READ = 125  # registers in one request; Modbus application protocol, function 3
MAX_READ_BITS = 2000
REGISTERS = 1 << 16  # of each table; Modbus application protocol, section 4.3
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, BUSY = 1, 2, 6
EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target does not respond",
}
"""Modbus Application Protocol V1.1b3, section 7."""
UNANSWERED_UNTIL_CLOSED = 3
FRAMES_AT_ONCE = 4  # frames of full size that may be there at once: some devices and gateways answer twice

_REFUSALS: tuple[type[Exception], ...] = (ValueError,)  # of a serial port that cannot do what it is told
if sys.platform != "win32":
    import termios

    _REFUSALS += (termios.error,)  # no OSError

Framing = Literal["tcp", "rtu"]
RegisterArea = Literal["holding", "input", "coil", "discrete"]
"""The four tables of the Modbus data model."""


_NOUNS: dict[RegisterArea, str] = {
    "holding": "registers",
    "input": "input registers",
    "coil": "coils",
    "discrete": "discrete inputs",
}


class ModbusFault(HeronError):
    """The device did not answer, or answered with an exception.

    Args:
        text: What happened, for people.
        code: Modbus exception code, if it answered with one.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        self.code = code
        super().__init__(text)


class ModbusConnection:
    """One connection to an address or serial line for all its units; made when needed and made again.

    Requests wait for each other, writes before reads; a unit that is silent or slow does not hold up the
    others: see ``SharedLine``. After a request without an answer the connection is closed, so that a late
    answer can never be taken for the answer to another request. RTU frames have no numbers:
    ``UnnumberedAnswers`` distinguishes their answers. If the framing numbers the requests, a late answer is
    recognised. Then the connection is kept after a few unanswered requests in two cases. Several units share
    it, or it has a ``connect_delay_s``: a device that loses requests after connecting would lose the next
    ones too.

    Args:
        place: The address or serial line.
        timeout_s: Bound of connecting, and of each answer.
        framing: Of an address: "tcp" (MBAP header), or "rtu" for gateways that pass RTU frames on (CRC, no
            header). A serial line is always RTU.
        connect_delay_s: How long to wait between connecting and the first request, s.

    Raises:
        ConfigError: pymodbus (for a serial line also pyserial) is not installed.
    """

    def __init__(
        self,
        place: ModbusPlace,
        *,
        timeout_s: float = 3.0,
        framing: Framing = "tcp",
        connect_delay_s: float = 0.0,
    ) -> None:
        self._client = _client(place, timeout_s, framing)
        is_rtu = framing == "rtu" or isinstance(place, SerialLine)
        self._unnumbered = UnnumberedAnswers(str(place)) if is_rtu else None
        _bound_bad_answers(self._client, self._unnumbered)
        self._place = place
        self._timeout_s = timeout_s
        self._connect_delay_s = connect_delay_s
        self._line = SharedLine(timeout_s)
        # Of a connection. It may be made although who asked for it was cancelled in that moment.
        self._unanswered = 0
        self._has_request_numbers = False
        self._may_ask_at = -math.inf
        self._unanswered_units: set[int] = set()
        self._closed_for: int | None = None  # the unit for whose silence alone we closed it
        self._made_for: Counter[int] = Counter()
        self.address = str(place)
        self.connections = 0
        """How many connections there have been."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return bool(self._client.connected)

    def connections_of(self, unit: int) -> int:
        """Return how many connections there have been that may lead to a unit that restarted.

        A connection that was made again only because another unit was silent says nothing about this unit.
        """
        others = sum(made for other, made in self._made_for.items() if other != unit)
        return self.connections - others

    async def connect(self, unit: int) -> None:
        """Connect now, if there is no connection; reading and writing do it when needed.

        Raises:
            ModbusFault: No answer within the timeout.
        """
        if self._client.connected:
            return
        try:
            async with self._line.turn(unit, is_write=True):
                await self._connect()
        except UnitRests as rests:
            raise _resting(self.address, rests) from None

    async def ask(
        self,
        what: str,
        request: Callable[[ModbusBaseClient], Awaitable[Any]],
        *,
        unit: int,
        is_write: bool,
    ) -> ModbusPDU:
        """Return the answer to a request.

        Args:
            what: What is asked, for errors.
            request: Sends it.
            unit: Who is asked.
            is_write: Whether it writes.

        Raises:
            ModbusFault: No answer, or an exception.
        """
        try:
            async with self._line.turn(unit, is_write=is_write) as turn:
                await self._connect()
                answer = await self._answer(what, request, turn)
        except UnitRests as rests:
            raise _resting(what, rests) from None
        if answer.isError():
            code = int(getattr(answer, "exception_code", 0))
            named = f" ({EXCEPTIONS[code]})" if code in EXCEPTIONS else ""
            raise ModbusFault(f"{what}: Modbus exception {code}{named}", code)
        return answer

    async def _answer(
        self, what: str, request: Callable[[ModbusBaseClient], Awaitable[Any]], turn: Turn
    ) -> ModbusPDU:
        from pymodbus.exceptions import ModbusException

        try:
            async with asyncio.timeout(2.0 * self._timeout_s) as bound:  # pymodbus bounds itself; to be sure
                self._line.begin(bound)
                answer: ModbusPDU = await unless_cancelled(request(self._client))
        except (ModbusException, OSError, TimeoutError) as exc:
            in_time = isinstance(exc, TimeoutError) or "No response received" in str(exc)
            self._lose(turn.unit, is_silence=in_time)
            if in_time:
                self._line.silent(turn)
            why = f" within {self._timeout_s:g} s" if in_time else f" ({exc})"
            if turn.hurried:
                why = " yet, and other units wait"
            raise ModbusFault(f"{what}: no answer{why}") from None
        except asyncio.CancelledError:
            self._lose(turn.unit, is_silence=True)  # the answer to this request may still come
            raise
        self._line.answered(turn)
        self._unanswered = 0
        self._unanswered_units.clear()
        self._has_request_numbers = bool(answer.transaction_id)
        if self._unnumbered is not None:
            await self._settle(what, answer, turn, self._unnumbered)
        return answer

    async def _settle(self, what: str, answer: ModbusPDU, turn: Turn, unnumbered: UnnumberedAnswers) -> None:
        """Have the line to ourselves until no second answer can be taken for the next request's."""
        try:
            await unnumbered.settle(answer)
        except AmbiguousAnswer as exc:
            self._lose(turn.unit, is_silence=False)
            why = "and RTU frames do not show to which request they belong"
            raise ModbusFault(f"{what}: {exc}, {why}") from None
        except asyncio.CancelledError:
            self._lose(turn.unit, is_silence=True)
            raise

    def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        self._client.close()

    def _lose(self, unit: int, *, is_silence: bool) -> None:
        """Close the connection after a request without an answer, unless it is to be held and can be."""
        self._unanswered += 1
        self._unanswered_units.add(unit)
        to_hold = self._connect_delay_s > 0.0 or self._line.is_shared
        is_held = to_hold and self._has_request_numbers
        is_whole = is_silence and bool(self._client.connected)
        if not is_held or self._unanswered >= UNANSWERED_UNTIL_CLOSED:
            self._client.close()
            self._closed_for = unit if is_whole and self._unanswered_units == {unit} else None

    async def _connect(self) -> None:
        if not self._client.connected:
            closed_for, self._closed_for = self._closed_for, None
            self._unanswered, self._has_request_numbers = 0, False
            self._unanswered_units.clear()
            try:
                async with asyncio.timeout(self._timeout_s):
                    connected = await unless_cancelled(self._client.connect())
            except (OSError, TimeoutError):
                connected = False
            except asyncio.CancelledError:
                self._client.close()  # it may be there already, and was not counted or waited for
                raise
            except _REFUSALS as exc:
                self._client.close()
                raise ModbusFault(f"{self.address}: the serial port refuses {self._place!r}: {exc}") from None
            if not connected:
                self._client.close()
                raise ModbusFault(f"{self.address}: {_why_not_there(self._place)}")
            self.connections += 1
            if self._unnumbered is not None:
                self._unnumbered.begin()
            if closed_for is not None:
                self._made_for[closed_for] += 1
            self._may_ask_at = asyncio.get_running_loop().time() + self._connect_delay_s
        wait_s = self._may_ask_at - asyncio.get_running_loop().time()  # also after a cancel while it waited
        if wait_s > 0.0:
            await asyncio.sleep(wait_s)


class Registers:
    """Registers of one unit.

    Args:
        connection: To the address; shared with other units.
        unit: Unit id, 0 to 255.
    """

    def __init__(self, connection: ModbusConnection, unit: int) -> None:
        self._connection = connection
        self._unit = unit
        self.address = f"{connection.address} unit {unit}"
        self._heard_at = -math.inf

    @property
    def silent_s(self) -> float:
        """How long ago this unit answered last, s; infinite if it never did."""
        return asyncio.get_running_loop().time() - self._heard_at

    @property
    def connections(self) -> int:
        """How many connections there have been; a new one may lead to a device that restarted."""
        return self._connection.connections_of(self._unit)

    async def connect(self) -> None:
        """Connect now; reading and writing do it when needed.

        Raises:
            ModbusFault: No answer within the timeout.
        """
        try:
            await self._connection.connect(self._unit)
        except ModbusFault as exc:
            raise self._of_unit(exc) from None

    def close(self) -> None:
        """Close the connection, which may be shared. Idempotent; a later call connects again."""
        self._connection.close()

    async def read(self, address: int, count: int, area: RegisterArea = "holding") -> list[int]:
        """Return registers (bits as 0 and 1), in as many requests as it takes.

        Raises:
            ModbusFault: No answer, an exception, or too few registers.
        """
        found: list[int] = []
        most = MAX_READ_BITS if area in {"coil", "discrete"} else MAX_READ
        noun = _NOUNS[area]
        while len(found) < count:
            at, n = address + len(found), min(count - len(found), most)
            what = f"{self.address}: reading {n} {noun} at {at}"
            if at + n > REGISTERS:  # a device that misstates its own length would lead us there
                raise ModbusFault(f"{what}: there are none beyond {REGISTERS - 1}", ILLEGAL_ADDRESS)
            answer = await self._ask(what, partial(self._read, area, at, n), is_write=False)
            if area in {"coil", "discrete"}:
                words = [int(bit) for bit in answer.bits[:n]]  # padded to whole bytes
            else:
                words = list(answer.registers)
            if len(words) != n:
                raise ModbusFault(f"{what} gave {len(words)}")
            found += words
        return found

    async def write(self, address: int, words: Sequence[int], *, single: bool = False) -> None:
        """Write neighbouring holding registers in one request.

        Args:
            address: Of the first.
            words: 16 bits each.
            single: Write one register by function 6 rather than 16: some devices know only that.

        Raises:
            ModbusFault: No answer, or an exception.
        """
        values, unit = list(words), self._unit
        what = f"{self.address}: writing {len(values)} registers at {address}"
        if single and len(values) == 1:
            await self._ask(
                what, lambda client: client.write_register(address, values[0], device_id=unit), is_write=True
            )
        else:
            await self._ask(
                what, lambda client: client.write_registers(address, values, device_id=unit), is_write=True
            )

    async def write_coil(self, address: int, value: bool) -> None:
        """Write one coil.

        Raises:
            ModbusFault: No answer, or an exception.
        """
        what = f"{self.address}: writing coil {address}"
        await self._ask(
            what, lambda client: client.write_coil(address, value, device_id=self._unit), is_write=True
        )

    def _read(self, area: RegisterArea, at: int, n: int, client: ModbusBaseClient) -> Awaitable[Any]:
        match area:
            case "holding":
                return client.read_holding_registers(at, count=n, device_id=self._unit)
            case "input":
                return client.read_input_registers(at, count=n, device_id=self._unit)
            case "coil":
                return client.read_coils(at, count=n, device_id=self._unit)
            case "discrete":
                return client.read_discrete_inputs(at, count=n, device_id=self._unit)

    async def _ask(
        self, what: str, request: Callable[[ModbusBaseClient], Awaitable[Any]], *, is_write: bool
    ) -> ModbusPDU:
        try:
            answer = await self._connection.ask(what, request, unit=self._unit, is_write=is_write)
        except ModbusFault as exc:
            raise self._of_unit(exc) from None
        self._heard_at = asyncio.get_running_loop().time()
        return answer

    def _of_unit(self, fault: ModbusFault) -> ModbusFault:
        """Return a fault of the connection as one of this unit."""
        text = str(fault)
        if text.startswith(self.address):
            return fault
        return ModbusFault(text.replace(self._connection.address, self.address, 1), fault.code)


def _resting(what: str, rests: UnitRests) -> ModbusFault:
    return ModbusFault(f"{what}: no answer before; asked again in {rests.for_s:.1f} s")


def _why_not_there(place: ModbusPlace) -> str:
    if isinstance(place, TcpAddress):
        return "no answer; is Modbus TCP switched on there?"
    if not Path(place.port).exists():
        return "there is no such serial port; is the adapter plugged in?"
    return "the serial port cannot be opened; may you use it (group dialout), does another program use it?"


def require(place: ModbusPlace | None = None) -> None:
    """Make sure that what Modbus needs is there.

    Args:
        place: The address or serial line; a serial line needs more.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pymodbus.client  # noqa: F401
    except ImportError:
        raise ConfigError("this needs pymodbus: pip install 'heron-mqtt[modbus]'") from None
    if isinstance(place, SerialLine) and find_spec("serial") is None:
        raise ConfigError("a serial port needs pyserial: pip install 'heron-mqtt[modbus]'")


def _client(place: ModbusPlace, timeout_s: float, framing: Framing) -> ModbusBaseClient:
    require(place)
    from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
    from pymodbus.framer import FramerType

    # it neither reconnects nor repeats by itself: a repeated write could come after a newer one
    if isinstance(place, SerialLine):
        return AsyncModbusSerialClient(
            place.port,
            framer=FramerType.RTU,
            baudrate=place.baud,
            bytesize=8,
            parity=place.parity[0].upper(),
            stopbits=place.stop_bits,
            timeout=timeout_s,
            retries=0,
            reconnect_delay=0,
        )
    framer = FramerType.RTU if framing == "rtu" else FramerType.SOCKET
    return AsyncModbusTcpClient(
        place.host, port=place.port, framer=framer, timeout=timeout_s, retries=0, reconnect_delay=0
    )


def _bound_bad_answers(client: ModbusBaseClient, unnumbered: UnnumberedAnswers | None) -> None:
    """Let frames that are no answer, and answers that come twice, harm their own request at most.

    pymodbus compares unit and number; where there is no number, ``unnumbered`` compares the rest.
    """
    from pymodbus.exceptions import ModbusException

    manager = client.ctx
    manager.max_buffer_size *= FRAMES_AT_ONCE  # with more bytes than that it forgets all of them
    take = manager.callback_data
    if unnumbered is not None:
        take = partial(_take_unnumbered, manager, unnumbered)
        manager.trace_pdu = partial(_note_request, unnumbered)

    def callback_data(data: bytes, addr: tuple[Any, ...] | None = None) -> int:
        try:
            return take(data, addr)
        except ModbusException:  # to asyncio it would be a bug, and the request would wait for its timeout
            if not manager.response_future.done():
                manager.response_future.set_exception(ConnectionError("what it sent cannot be decoded"))
            return len(data)

    manager.callback_data = callback_data  # type: ignore[method-assign]


def _note_request(unnumbered: UnnumberedAnswers, sending: bool, pdu: ModbusPDU) -> ModbusPDU:
    if sending:
        unnumbered.asked(pdu)
    return pdu


def _take_unnumbered(
    manager: Any, unnumbered: UnnumberedAnswers, data: bytes, addr: tuple[Any, ...] | None = None
) -> int:
    """Do what pymodbus does with what has come, for a frame that answers the request and no other.

    It looks at the first frame, which may be a late one, and drops what stands behind it, as the answer may.
    """
    used = 0
    while used < len(data):
        frame = _first_frame(manager.framer, data[used:])
        size, pdu = manager.framer.handleFrame(frame, manager.request_dev_id, manager.request_transaction_id)
        used += int(size)
        if pdu and unnumbered.take(pdu, is_awaited=not manager.response_future.done()):
            manager.response_future.set_result(pdu)
        if size <= 0:
            break
    return used


def _first_frame(framer: Any, data: bytes) -> bytes:
    """Return the first RTU frame of several, or all where it is not known how long it is."""
    kind = framer.decoder.lookupPduClass(data) if len(data) >= framer.MIN_SIZE else None
    size = kind.calculateRtuFrameSize(data) if kind is not None else 0
    return data[:size] if 0 < size < len(data) else data
