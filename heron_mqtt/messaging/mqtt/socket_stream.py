"""The socket under the MQTT client: opened without blocking, read and written in large pieces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from heron_mqtt.messaging.mqtt.packets import read_length

QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
READ_BYTES = 1 << 16
MAX_PACKET_BYTES = (1 << 20) + (1 << 17)  # the codec's limit on a payload and the longest topic


class PacketTooLarge(ConnectionError):
    """The broker announced a packet beyond ``MAX_PACKET_BYTES``."""


class Stream:
    """A connected, non-blocking socket, cut into MQTT packets.

    One system call reads all that has arrived (``fill``) and one writes all that was sent since
    (``flush``). What waits to be written is bounded by the send queue's window.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._in = b""
        self._at = 0
        self._out = bytearray()
        self._ended = False
        self._error: OSError | None = None

    # -- what the event loop calls -----------------------------------------------------------------

    def fill(self) -> None:
        """Take what the kernel has received; an end or an error of the connection is kept."""
        try:
            data = self._sock.recv(READ_BYTES)
            while data and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                data += self._sock.recv(self._sock.pending())  # decrypted already: the selector cannot see it
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as exc:
            self._error = exc
            return
        self._acknowledge_at_once()
        self._in = self._in[self._at :] + data if self._at < len(self._in) else data
        self._at = 0
        self._ended = not data

    def _acknowledge_at_once(self) -> None:
        """Keep Linux from delaying its TCP acknowledgement, up to 40 ms, in the hope of data to go with it.

        A broker whose own TCP_NODELAY is off (mosquitto's default) holds its next small packet back until
        then. The option lasts until the kernel thinks otherwise: set it after every read.
        """
        if QUICKACK is not None:
            with contextlib.suppress(OSError):  # the connection has ended: the next read says so
                self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def next_packet(self) -> tuple[int, bytes] | None:
        """Return the first byte of the next packet and what follows its length; None = not all there yet.

        Raises:
            PacketTooLarge: It is beyond ``MAX_PACKET_BYTES``.
            Malformed: It does not say how long it is.
        """
        data, at = self._in, self._at
        length = read_length(data, at + 1) if len(data) > at + 1 else None
        if length is None:
            return None
        size, begin = length
        if size > MAX_PACKET_BYTES:
            raise PacketTooLarge(f"a packet of {size} bytes is over {MAX_PACKET_BYTES}")
        if begin + size > len(data):
            return None
        self._at = begin + size
        return data[at], data[begin : begin + size]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come; ``why`` says why."""
        return self._ended or self._error is not None

    def flush(self) -> bool:
        """Give the kernel what was sent; return whether it took everything."""
        if not self._out:
            return True
        try:
            del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as exc:
            self._error = exc
            self._out.clear()
        return not self._out

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


async def open_stream(host: str, port: int, tls: ssl.SSLContext | None) -> Stream:
    """Connect to the first address of ``host`` that answers. The caller sets the time limit.

    Raises:
        OSError: Nobody answers, or the name is unknown, or the TLS handshake fails.
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
            if tls is not None:
                sock = await _handshake(sock, tls, host)
            return Stream(sock)
        except OSError as exc:
            sock.close()
            if isinstance(exc, ssl.SSLError):
                raise  # somebody is there; another address would only hide why
            failure = exc
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{host} has no address")


async def _handshake(sock: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    wrapped = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                await _ready(wrapped, loop.add_reader, loop.remove_reader)
            except ssl.SSLWantWriteError:
                await _ready(wrapped, loop.add_writer, loop.remove_writer)
    except BaseException:
        wrapped.close()
        raise


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
