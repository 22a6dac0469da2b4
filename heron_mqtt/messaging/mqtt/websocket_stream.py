"""MQTT over WebSocket (``ws://``, ``wss://``): the same bytes, in binary frames (MQTT 3.1.1, section 6)."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.mqtt.socket_stream import (
    HandshakeFailed,
    Reading,
    Stream,
    connect_socket,
    read_socket,
    wait_readable,
    wait_writable,
)

MAX_FRAME_BYTES = 16 << 20
FRAME_BYTES = 1 << 16


async def open_websocket(options: MqttOptions, clock: Callable[[], float]) -> Stream:
    """Connect, and shake hands. The caller sets the time limit.

    Raises:
        OSError: No answer, or the name is unknown, or a handshake fails.
    """
    sock = await connect_socket(options.host, options.port, options.tls, options.server_name)
    try:
        framed = FramedSocket(sock, options.address)
        await framed.handshake()
    except BaseException:
        sock.close()
        raise
    return WebSocketStream(framed, clock)


class FramedSocket:
    """A non-blocking socket whose bytes travel in WebSocket frames; as far as ``Stream`` uses sockets.

    Args:
        sock: Connected, TLS and all.
        url: Of the WebSocket.
    """

    def __init__(self, sock: socket.socket, url: str) -> None:
        self._sock = sock
        self._url = url
        self._protocol = ClientProtocol(
            parse_uri(url), subprotocols=[Subprotocol("mqtt")], max_size=MAX_FRAME_BYTES
        )
        self._wire = bytearray()  # framed, and not yet taken by the kernel
        self._payload = b""
        self._is_closed = False

    async def handshake(self) -> None:
        """Request MQTT over WebSocket.

        Raises:
            HandshakeFailed: The answer is no, or no WebSocket's.
        """
        self._protocol.send_request(self._protocol.connect())
        self._collect()
        while not self.push():
            await wait_writable(self._sock)
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            await wait_readable(self._sock)
            with contextlib.suppress(BlockingIOError):
                if self._receive().is_ended:
                    break
        if self._protocol.state is not State.OPEN:
            exc = self._protocol.handshake_exc
            why = (
                str(exc) if isinstance(exc, InvalidHandshake) else "the answer is not from a WebSocket server"
            )
            raise HandshakeFailed(f"the WebSocket handshake failed: {why}; check port and path")

    def read(self) -> Reading:
        """Take what arrived.

        Raises:
            BlockingIOError: Nothing yet.
        """
        reading = None if self._payload or self._is_closed else self._receive()
        payload, self._payload = self._payload, b""
        if not payload and not self._is_closed and (reading is None or reading.error is None):
            raise BlockingIOError
        if reading is None:
            return Reading(payload, self._is_closed, False)
        return reading._replace(data=payload, is_ended=self._is_closed)

    def send(self, data: bytes | bytearray) -> int:
        """Take some bytes, at most a frame, and return how many; see ``push``.

        Raises:
            BlockingIOError: What was taken before is not sent yet.
        """
        if not self.push():
            raise BlockingIOError
        chunk = bytes(data[:FRAME_BYTES])
        self._protocol.send_binary(chunk)
        self._collect()
        self.push()
        return len(chunk)

    def push(self) -> bool:
        """Give the kernel what was framed; return whether it took everything."""
        while self._wire:
            try:
                del self._wire[: self._sock.send(self._wire)]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
        return True

    def setsockopt(self, *args: Any) -> None:
        """Set an option of the socket."""
        self._sock.setsockopt(*args)

    @property
    def family(self) -> int:
        """Return the address family."""
        return self._sock.family

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Send the WebSocket's close frame, if this is possible at once, and close."""
        with contextlib.suppress(Exception):
            self._protocol.send_close(1000)
            self._collect()
            self.push()
        self._sock.close()

    def _receive(self) -> Reading:
        reading = read_socket(self._sock)
        if reading.data:
            self._protocol.receive_data(reading.data)
        if reading.is_ended:
            self._protocol.receive_eof()
            self._is_closed = True
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                if event.opcode in {Opcode.BINARY, Opcode.CONT}:
                    self._payload += bytes(event.data)
                elif event.opcode is Opcode.CLOSE:
                    self._is_closed = True
        self._collect()
        self.push()
        return reading

    def _collect(self) -> None:
        for data in self._protocol.data_to_send():
            self._wire += data


class WebSocketStream(Stream):
    """A stream over a ``FramedSocket``."""

    def __init__(self, framed: FramedSocket, clock: Callable[[], float]) -> None:
        super().__init__(cast("socket.socket", framed), clock)
        self._framed = framed

    def _read(self) -> Reading:
        return self._framed.read()

    def _drain(self) -> bool:
        try:
            return self._framed.push()
        except OSError as exc:
            self._error = exc
            return True
