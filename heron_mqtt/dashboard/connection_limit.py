"""Who comes in at the page's port: a bounded number, counted from the moment that the machine accepts them.

asyncio's own TLS server tells of a connection when its handshake is over: who never begins one would be
counted nowhere. Here all are accepted in plain, counted, and only then asked for TLS.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

MAX_CONNECTIONS = 256
"""With those that have not said anything yet: each is an open file, and so is the broker's."""
END_OF_REQUEST = b"\r\n\r\n"
HANDSHAKE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 10.0


class ConnectionLimit:
    """Lets connections in; where there are too many, the oldest that has not asked yet gives way.

    Args:
        tls: To speak TLS with them; None = plain.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._inside: dict[CountedConnection, asyncio.Transport] = {}  # oldest first
        self._handshakes: set[asyncio.Task[None]] = set()

    def connection(self, *args: Any, **kwargs: Any) -> ServerConnection:
        """Make the protocol of a new connection, as ``websockets.asyncio.server.serve`` asks for it."""
        return CountedConnection(self, *args, **kwargs)

    def enter(self, connection: CountedConnection, transport: asyncio.Transport) -> None:
        """Take a connection that was accepted."""
        if len(self._inside) >= MAX_CONNECTIONS and not self._one_gives_way():
            transport.abort()
            return
        self._inside[connection] = transport
        if self._tls is None:
            connection.begin(transport)
            return
        transport.pause_reading()
        handshake = self._handshake(self._tls, connection, transport)
        task = asyncio.get_running_loop().create_task(handshake, name="TLS handshake of a browser")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def left(self, connection: CountedConnection) -> None:
        """Take note of a connection that is over."""
        self._inside.pop(connection, None)

    def close(self) -> None:
        """Abort every handshake in progress."""
        for task in self._handshakes:
            task.cancel()

    def _one_gives_way(self) -> bool:
        for one, transport in self._inside.items():
            if one.state is State.CONNECTING and not transport.is_closing():
                transport.abort()
                return True
        return False

    async def _handshake(
        self, tls: ssl.SSLContext, connection: CountedConnection, transport: asyncio.Transport
    ) -> None:
        secured: asyncio.Transport | None = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                connection,
                tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        except OSError:  # with ssl.SSLError; any client can fail, and would fill the log with it
            pass
        finally:
            if secured is None:  # also where it had to give way
                transport.abort()
                self.left(connection)
        if secured is not None and connection in self._inside:
            connection.begin(secured)


class CountedConnection(ServerConnection):
    """A connection that begins when the limit lets it in.

    Args:
        limit: Counts it.
        args: Of ``ServerConnection``.
        kwargs: Of ``ServerConnection``.
    """

    def __init__(self, limit: ConnectionLimit, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit, self._has_begun = limit, False
        self._early = bytearray()  # what came in one piece with the end of the handshake
        self._has_asked, self._last = False, b""  # whether its request is whole; the last bytes before that

    def begin(self, transport: asyncio.Transport) -> None:
        """Serve it."""
        self._has_begun = True
        super().connection_made(transport)
        if self._early:
            early, self._early = bytes(self._early), bytearray()
            self.data_received(early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask to be let in."""
        self._limit.enter(self, cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Take what it says.

        Behind a request nothing may come before its answer. ``websockets`` would read it as frames, give the
        request no answer, and log an error of its own for each.
        """
        if not self._has_begun:
            self._early += data
        elif not self._has_asked:
            said = self._last + data
            end = said.find(END_OF_REQUEST)
            self._has_asked = end >= 0
            super().data_received(
                data[: end + len(END_OF_REQUEST) - len(self._last)] if self._has_asked else data
            )
            self._last = said[1 - len(END_OF_REQUEST) :]
        elif self.state is not State.CONNECTING:
            super().data_received(data)

    def eof_received(self) -> None:
        """Take the end of what it says."""
        if self._has_begun:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Be counted no longer."""
        self._limit.left(self)
        if self._has_begun:
            super().connection_lost(exc)
