"""The socket under the MQTT client: opened without blocking, read and written in large pieces."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from heron_mqtt.messaging.mqtt.packets import PUBLISH, publish_head_bytes, read_length

QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
READ_BYTES = 1 << 16
FULL_BYTES = READ_BYTES // 2
"""A read of so much may have left something, or kept it away: windows can be below ``READ_BYTES``."""
TLS_RECORD_BYTES = 1 << 14  # RFC 8446, section 5.1
MAX_UNWRITTEN_BYTES = 1 << 18
MAX_PACKET_BYTES = (1 << 20) + (1 << 17)  # the codec's limit on a payload and the longest topic


class PacketTooLarge(ConnectionError):
    """The broker announced a packet beyond ``MAX_PACKET_BYTES`` that cannot be done without."""


class HandshakeFailed(ConnectionError):
    """The server uses another protocol than the URL says; the text names it."""


class Oversized(NamedTuple):
    """A message beyond ``MAX_PACKET_BYTES``: its bytes are skipped, the connection continues."""

    first: int
    head: bytes
    """Topic and packet id, as in the packet."""
    size: int


RawMessage = tuple[bytes, bytes, int]
"""Topic, payload, and 1 if the broker had kept it."""


class Reading(NamedTuple):
    """What one read of a socket has brought."""

    data: bytes
    is_ended: bool
    """Nothing comes after it."""
    is_full: bool
    """It brought ``FULL_BYTES`` or more."""
    error: OSError | None = None
    """What broke the connection after it."""


def read_socket(sock: socket.socket) -> Reading:
    """Take what has arrived, about ``READ_BYTES`` at most.

    One read of a TLS socket brings one record, and what is sent message by message comes in as many
    records: all that are there are taken.

    Raises:
        BlockingIOError: Nothing has arrived.
        OSError: The connection is broken.
    """
    is_tls = isinstance(sock, ssl.SSLSocket)
    try:
        data = sock.recv(READ_BYTES)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        raise BlockingIOError from None
    if not is_tls or not data:
        return Reading(data, not data, len(data) >= FULL_BYTES)
    records, size = [data], len(data)
    is_ended, error = False, None
    while size < READ_BYTES:
        try:
            data = sock.recv(READ_BYTES)  # a whole record: no part stays where the selector cannot see it
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            break
        except OSError as exc:
            error = exc
            break
        if not data:
            is_ended = True
            break
        records.append(data)
        size += len(data)
    return Reading(b"".join(records), is_ended, size >= FULL_BYTES, error)


class _Timed(NamedTuple):
    """A packet that must not be written later than its time; positions count from the first byte sent."""

    begin: int
    end: int
    not_after: float
    packet_id: int
    topic: str


class Stream:
    """A connected, non-blocking socket, cut into MQTT packets.

    One system call reads all that has arrived (``fill``) and one writes all that was sent since
    (``flush``). What waits to be written is bounded: the send queue hands nothing over that is not ``ready``
    to go.

    Args:
        sock: The socket.
        clock: Monotonic, s; the one that time limits are given by.
    """

    def __init__(self, sock: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self._sock = sock
        self._is_tcp = sock.family in {socket.AF_INET, socket.AF_INET6}
        self._clock = clock
        self.expired: Callable[[int, str], None] = lambda _packet_id, _topic: None
        """Called with packet id and topic of each packet that was dropped because its time had passed."""
        self._timed: deque[_Timed] = deque()
        self._earliest = math.inf  # of their times, or earlier
        self._written = 0  # bytes since the beginning
        self._blocked = False
        self._in = b""
        self._at = 0
        self._skip = 0  # bytes of an oversized message that are still to come
        self._out = bytearray()
        self._ended = False
        self._error: OSError | None = None
        self.is_drained = True
        """Whether the last ``fill`` took all that was there; False: more may be."""

    # -- what the event loop calls -----------------------------------------------------------------

    def fill(self) -> bool:
        """Take what the kernel has received; return whether that is anything.

        An end or an error of the connection is kept.
        """
        self.is_drained = True
        try:
            data, self._ended, is_full, error = self._read()
        except BlockingIOError:
            return False
        except OSError as exc:
            self._error = exc
            return False
        self.is_drained = not is_full
        self._error = self._error or error
        self._acknowledge_at_once()
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._in = self._in[self._at :] + data if self._at < len(self._in) else data
        self._at = 0
        return True

    def _read(self) -> Reading:
        """Take what has arrived; raises as ``read_socket``."""
        return read_socket(self._sock)

    def _acknowledge_at_once(self) -> None:
        """Keep Linux from delaying its TCP acknowledgement, up to 40 ms, in the hope of data to go with it.

        A broker whose own TCP_NODELAY is off (mosquitto's default) holds its next small packet back until
        then. The option lasts until the kernel thinks otherwise: set it after every read.
        """
        if QUICKACK is None or not self._is_tcp:
            return
        try:  # noqa: SIM105 - at every read: contextlib.suppress takes as long as the call itself
            self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        except OSError:  # the connection has ended: the next read says so
            pass

    def next_packet(self) -> tuple[int, bytes] | Oversized | None:
        """Return the first byte of the next packet and what follows its length; None = not all there yet.

        Raises:
            PacketTooLarge: It is beyond ``MAX_PACKET_BYTES``, and no message.
            Malformed: It does not say how long it is.
        """
        data, at = self._in, self._at
        end = len(data)
        if at + 2 > end:
            return None
        size, begin = data[at + 1], at + 2
        if size >= 0x80:
            length = read_length(data, at + 1)
            if length is None:
                return None
            size, begin = length
        if size > MAX_PACKET_BYTES:
            return self._begin_to_skip(data[at], size, begin)
        stop = begin + size
        if stop > end:
            return None
        self._at = stop
        return data[at], data[begin:stop]

    def next_packets(self) -> list[tuple[int, bytes] | Oversized]:
        """Return the packets that come next and are all there, as ``next_packet`` does; empty = none is.

        What is longer than 16 kB, oversized, or malformed comes alone.

        Raises:
            PacketTooLarge, Malformed: As ``next_packet``, once those before it were returned.
        """
        data, at, end = self._in, self._at, len(self._in)
        found: list[tuple[int, bytes] | Oversized] = []
        while at + 2 <= end:
            size, begin = data[at + 1], at + 2
            if size >= 0x80:
                if begin == end or data[begin] >= 0x80:
                    break
                size, begin = size & 0x7F | data[begin] << 7, begin + 1
            stop = begin + size
            if stop > end:
                break
            found.append((data[at], data[begin:stop]))
            at = stop
        self._at = at
        if not found and (packet := self.next_packet()) is not None:
            found.append(packet)
        return found

    def next_publishes(self) -> list[RawMessage]:
        """Return the messages at QoS 0 (MQTT 3.1.1) that come next and are all there.

        What is longer than 16 kB, or malformed, is left to ``next_packet``.
        """
        data, at, end = self._in, self._at, len(self._in)
        found: list[RawMessage] = []
        while at + 4 < end and data[at] & 0xF6 == PUBLISH:
            size, begin = data[at + 1], at + 2
            if size >= 0x80:
                if data[begin] >= 0x80:
                    break
                size, begin = size & 0x7F | data[begin] << 7, begin + 1
            stop, name = begin + size, begin + 2
            if size < 3 or stop > end:
                break
            payload = name + (data[begin] << 8 | data[begin + 1])
            if not name < payload <= stop:
                break
            found.append((data[name:payload], data[payload:stop], data[at] & 1))
            at = stop
        self._at = at
        return found

    def _begin_to_skip(self, first: int, size: int, begin: int) -> Oversized | None:
        if first & 0xF0 != PUBLISH:
            raise PacketTooLarge(f"a packet of {size} bytes is over {MAX_PACKET_BYTES}")
        there = self._in[begin : begin + size]
        needed = publish_head_bytes(first, there)
        if needed is None or len(there) < needed:
            return None
        self._at = begin + len(there)
        self._skip = size - len(there)
        return Oversized(first, there[:needed], size)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come; ``why`` says why."""
        return self._ended or self._error is not None

    def flush(self) -> bool:
        """Give the kernel what was sent; return whether it took everything."""
        if not self._drain():
            self._blocked = True
            return False
        self._drop_expired()
        if not self._out:
            self._blocked = False
            return True
        try:
            size = self._sock.send(self._out)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._blocked = True
            return False
        except OSError as exc:
            self._error = exc
            size = len(self._out)
        del self._out[:size]
        self._written += size
        while self._timed and self._timed[0].begin < self._written:  # begun: it cannot be taken back
            self._timed.popleft()
        self._blocked = bool(self._out) or not self._drain()
        return not self._blocked

    def _drain(self) -> bool:
        """Give the kernel what is between us and it; return whether nothing is left there."""
        return True

    def _drop_expired(self) -> None:
        if not self._timed:
            self._earliest = math.inf
            return
        if self._clock() <= self._earliest:
            return
        # what OpenSSL has encrypted already must be offered to it again, unchanged
        committed = TLS_RECORD_BYTES if self._blocked and isinstance(self._sock, ssl.SSLSocket) else 0
        now_s, dropped, kept = self._clock(), 0, deque[_Timed]()
        expired: list[_Timed] = []
        for packet in self._timed:
            begin, end = packet.begin - dropped - self._written, packet.end - dropped - self._written
            if packet.not_after < now_s and begin >= committed:
                del self._out[begin:end]
                dropped += end - begin
                expired.append(packet)
            else:
                kept.append(packet._replace(begin=packet.begin - dropped, end=packet.end - dropped))
        self._timed = kept
        for packet in expired:
            self.expired(packet.packet_id, packet.topic)

    @property
    def ready(self) -> bool:
        """Whether what is sent now would be written with the next ``flush``, as far as can be known."""
        return not self._blocked and len(self._out) < MAX_UNWRITTEN_BYTES

    @property
    def error(self) -> OSError | None:
        """What broke the connection, if something did."""
        return self._error

    def why(self) -> str:
        """Say how the connection ended."""
        if self._error is not None:
            return str(self._error)
        return "the broker closed the connection" if self._ended else ""

    # -- what paho calls ---------------------------------------------------------------------------

    def send(self, data: bytes | bytearray) -> int:
        """Take all of ``data``, to go out with the next ``flush``."""
        self._out += data
        return len(data)

    def send_timed(self, data: bytes | bytearray, not_after: float, packet_id: int, topic: str) -> None:
        """Take a whole packet to go out by ``not_after``; if its first byte has not, ``expired`` names it."""
        begin = self._written + len(self._out)
        self._out += data
        self._timed.append(_Timed(begin, begin + len(data), not_after, packet_id, topic))
        self._earliest = min(self._earliest, not_after)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Do nothing: this socket never blocks."""

    def close(self) -> None:
        """Send what still can be sent, and close."""
        if self._sock.fileno() != -1:
            self.flush()
            self._sock.close()


async def connect_socket(
    host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None = None
) -> socket.socket:
    """Connect to the first address of ``host`` that answers. The caller sets the time limit.

    Raises:
        OSError: No answer, or the name is unknown, or the TLS handshake fails.
    """
    loop = asyncio.get_running_loop()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # asks, in an executor thread
    failure: OSError | None = None
    for family, kind, proto, _, address in found:
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a QoS 1 hop
            await loop.sock_connect(sock, address)
            return sock if tls is None else await _handshake(sock, tls, server_name or host)
        except OSError as exc:
            sock.close()
            if isinstance(exc, ssl.SSLError):
                raise  # something answers; another address would only hide why
            failure = exc
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{host} has no address")


async def _handshake(sock: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    wrapped = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                await wait_readable(wrapped)
            except ssl.SSLWantWriteError:
                await wait_writable(wrapped)
    except BaseException:
        wrapped.close()
        raise


async def wait_readable(sock: socket.socket) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    await _ready(sock, loop.add_reader, loop.remove_reader)


async def wait_writable(sock: socket.socket) -> None:
    """Wait until something can be written."""
    loop = asyncio.get_running_loop()
    await _ready(sock, loop.add_writer, loop.remove_writer)


async def _ready(
    sock: socket.socket,
    watch: Callable[[int, Callable[[], None]], object],
    unwatch: Callable[[int], object],
) -> None:
    ready = asyncio.get_running_loop().create_future()
    descriptor = sock.fileno()
    watch(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        unwatch(descriptor)
