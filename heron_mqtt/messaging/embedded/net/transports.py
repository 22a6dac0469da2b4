"""The two ways bytes come and go: a stream (TCP, TLS or a local socket) and WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

from websockets.exceptions import ConnectionClosed

from heron_mqtt.cancellation import unless_cancelled
from heron_mqtt.messaging.local_socket import peer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.server import ServerConnection

# A connection gets one such slice a turn of the event loop, so that a flood delays others by no more
# than the time one slice takes (about 25 messages of 300 bytes, 0.4 ms).
READ_SLICE_BYTES = 8 * 1024
# Above HIGH a client counts as not reading and its messages wait in its bounded queue.
WRITE_HIGH_BYTES = 128 * 1024
WRITE_LOW_BYTES = 32 * 1024


class Transport(Protocol):
    """Where a connection's bytes go."""

    peer: str
    paused: bool

    def write(self, data: bytes) -> None:
        """Send, never waiting."""

    def unsent(self) -> int:
        """Return the bytes handed to `write` that are still in this process."""

    def pause_reading(self) -> None:
        """Stop feeding bytes."""

    def resume_reading(self) -> None:
        """Feed bytes again."""

    def close(self) -> None:
        """Close after what was written has been sent."""

    def abort(self) -> None:
        """Close now."""

    def certificate(self) -> dict[str, Any] | None:
        """Return the verified client certificate as `ssl.SSLSocket.getpeercert` does, or None."""


class Endpoint(Protocol):
    """Where a link's bytes come to; each method is called in the event loop."""

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""

    def lost(self, exc: Exception | None) -> None:
        """Note that the link is gone; called once."""

    def writing_paused(self) -> None:
        """Note that the client does not keep up."""

    def writing_resumed(self) -> None:
        """Note that the client has caught up."""


class StreamTransport(asyncio.BufferedProtocol):
    """A connection over TCP, TLS, or the local socket.

    Args:
        accept: Makes the endpoint, or returns None to turn the connection away.
        buffer: Receives every read of every connection: each slice is consumed before the next read. A
            view, because asyncio's TLS reads into slices of it, and a slice of a bytearray is a copy.
    """

    def __init__(self, accept: Callable[[Transport], Endpoint | None], buffer: memoryview) -> None:
        self.peer = ""
        self.paused = False
        self._accept = accept
        self._buffer = buffer
        self._endpoint: Endpoint | None = None
        self._transport: asyncio.Transport | None = None
        self._early = b""  # what came with the last packet of a TLS handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        if connection.family in {socket.AF_INET, socket.AF_INET6}:
            peer = transport.get_extra_info("peername")
            self.peer = f"{peer[0]}:{peer[1]}" if peer else "unknown"
            # Without TCP_NODELAY each QoS 1 hop can wait 40 ms for a delayed acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client with keepalive 0 whose host vanished is found by TCP itself.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        else:  # a program of this machine, which counts as its loopback address does
            self.peer = f"127.0.0.1:process-{peer_of(connection)[0]}"
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self._endpoint = self._accept(self)
        if self._endpoint is None:
            self._transport.abort()
        elif self._early:
            early, self._early = self._early, b""
            self._endpoint.feed(early)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._endpoint is not None:
            self._endpoint.feed(bytes(self._buffer[:nbytes]))
        elif self._transport is None:
            self._early += self._buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.lost(exc)

    def pause_writing(self) -> None:
        self.paused = True
        if self._endpoint is not None:
            self._endpoint.writing_paused()

    def resume_writing(self) -> None:
        self.paused = False
        if self._endpoint is not None:
            self._endpoint.writing_resumed()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def certificate(self) -> dict[str, Any] | None:
        if self._transport is None:
            return None
        return cast("dict[str, Any] | None", self._transport.get_extra_info("peercert"))


class WebSocketTransport:
    """A WebSocket connection. Writing never waits: a task sends what has been collected.

    Args:
        connection: The accepted connection.
    """

    def __init__(self, connection: ServerConnection) -> None:
        peer = connection.remote_address
        self.peer = f"{peer[0]}:{peer[1]}" if peer else "unknown"
        self.paused = False
        self._connection = connection
        self._endpoint: Endpoint | None = None
        self._pending: list[bytes] = []
        self._unsent = 0
        self._sending = 0
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._closing = False

    async def serve(self, accept: Callable[[Transport], Endpoint | None]) -> None:
        """Feed the endpoint until the connection ends; always returns with the connection closed."""
        endpoint = self._endpoint = accept(self)
        if endpoint is None:
            self._connection.transport.abort()
            return
        sender = asyncio.create_task(self._send(), name=f"websocket-sender {self.peer}")
        try:
            while not self._closing:
                await self._readable.wait()
                data = await unless_cancelled(self._connection.recv())
                if isinstance(data, str):  # MQTT-6.0.0-1: binary frames only
                    break
                for start in range(0, len(data), READ_SLICE_BYTES):
                    endpoint.feed(data[start : start + READ_SLICE_BYTES])
                    await asyncio.sleep(0)  # one slice a turn, as for TCP
                    await self._readable.wait()
        except ConnectionClosed:
            pass
        finally:
            endpoint.lost(None)
            self._closing = True
            self._wake.set()
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                async with asyncio.timeout(1.0):
                    await sender
            self._connection.transport.abort()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                data = b"".join(self._pending)
                self._pending.clear()
                await unless_cancelled(self._connection.send(data))
                self._unsent -= len(data)
                if self.paused and self._unsent <= WRITE_LOW_BYTES:
                    self.paused = False
                    if self._endpoint is not None:
                        self._endpoint.writing_resumed()
            if self._closing:
                await self._connection.close()
                return

    def write(self, data: bytes) -> None:
        if self._closing:
            return
        self._pending.append(data)
        self._unsent += len(data)
        self._wake.set()
        if not self.paused and self._unsent > WRITE_HIGH_BYTES:
            self.paused = True
            if self._endpoint is not None:
                self._endpoint.writing_paused()

    def unsent(self) -> int:
        return self._unsent

    def pause_reading(self) -> None:
        self._readable.clear()

    def resume_reading(self) -> None:
        self._readable.set()

    def close(self) -> None:
        self._closing = True
        self._readable.set()
        self._wake.set()

    def abort(self) -> None:
        self._closing = True
        self._readable.set()
        self._connection.transport.abort()

    def certificate(self) -> dict[str, Any] | None:
        return cast("dict[str, Any] | None", self._connection.transport.get_extra_info("peercert"))
