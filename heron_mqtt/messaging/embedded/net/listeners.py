"""The sockets the broker listens on: MQTT over TCP or TLS, a local socket beside TCP, and WebSocket."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from typing import TYPE_CHECKING

from heron_mqtt.cancellation import end_tasks
from heron_mqtt.errors import AddressInUse, ConfigError
from heron_mqtt.messaging.embedded.net.tls import TlsAcceptor, tls_context
from heron_mqtt.messaging.embedded.net.transports import StreamTransport, Transport, WebSocketTransport
from heron_mqtt.messaging.local_socket import listen_locally

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.server import Server as WebSocketServer
    from websockets.asyncio.server import ServerConnection

    from heron_mqtt.messaging.embedded.net.transports import Endpoint
    from heron_mqtt.messaging.embedded.options import BrokerOptions

_BACKLOG = 1_024  # 500 clients that connect at once are accepted without a retransmitted SYN
_CLOSED_S = 0.3
_READ_BUFFER_BYTES = 8 * 1024


class Listeners:
    """Binds and serves; the addresses are known from `bind` on.

    Args:
        options: Already checked.
        accept: Makes the endpoint of a new link, or returns None to turn it away.
        may_enter: Returns whether there is room for one more, beside so many in their TLS handshake.
        turned_away: Told which peer did not get through its TLS handshake, and why.

    Raises:
        ConfigError: A certificate cannot be used.
    """

    def __init__(
        self,
        options: BrokerOptions,
        accept: Callable[[Transport], Endpoint | None],
        may_enter: Callable[[int], bool],
        turned_away: Callable[[str, str], None],
    ) -> None:
        self._options = options
        self._accept = accept
        self._tls = tls_context(options) if options.tls_cert is not None else None
        self._make_transport = functools.partial(
            StreamTransport, accept, memoryview(bytearray(_READ_BUFFER_BYTES))
        )
        self._acceptor: TlsAcceptor | None = None
        if self._tls is not None:
            timeout_s = options.limits.connect_timeout_s
            self._acceptor = TlsAcceptor(self._tls, self._make_transport, may_enter, turned_away, timeout_s)
        self._socket: socket.socket | None = None
        self._local_socket: socket.socket | None = None
        self._websocket_socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._local_server: asyncio.Server | None = None
        self._websocket_server: WebSocketServer | None = None
        self.port = 0
        self.websocket_port = 0

    @property
    def url(self) -> str:
        """``mqtt://host:port``, or ``mqtts://`` with TLS."""
        return f"mqtt{'s' if self._tls else ''}://{_in_url(self._options.host)}:{self.port}"

    @property
    def websocket_url(self) -> str | None:
        """``ws://host:port``, ``wss://`` with TLS, or None."""
        if self._options.websocket_port is None:
            return None
        return f"ws{'s' if self._tls else ''}://{_in_url(self._options.host)}:{self.websocket_port}"

    def bind(self) -> None:
        """Bind the sockets.

        Raises:
            AddressInUse: A port is taken.
            ConfigError: The host is not an address of this machine.
        """
        try:
            self._socket = _bind(self._options.host, self._options.port)
            self.port = self._socket.getsockname()[1]
            if self._tls is None:
                self._local_socket = listen_locally(self._options.host, self.port, _BACKLOG)
            if self._options.websocket_port is not None:
                self._websocket_socket = _bind(self._options.host, self._options.websocket_port)
                self.websocket_port = self._websocket_socket.getsockname()[1]
        except BaseException:
            self.stop()
            raise

    async def serve(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        factory = self._acceptor.protocol if self._acceptor is not None else self._make_transport
        assert self._socket is not None, "bind comes before serve"
        self._server = await loop.create_server(factory, sock=self._socket, backlog=_BACKLOG)
        if self._local_socket is not None:
            self._local_server = await loop.create_unix_server(
                self._make_transport, sock=self._local_socket, backlog=_BACKLOG
            )
        if self._websocket_socket is not None:
            from websockets.asyncio.server import serve
            from websockets.typing import Origin, Subprotocol

            # A web page may open a WebSocket to this machine from anywhere: browsers announce themselves
            # by an Origin, and only listed ones are let in. Other clients send none.
            origins = [None, *(Origin(origin) for origin in self._options.websocket_origins)]
            self._websocket_server = await serve(
                self._serve_websocket,
                sock=self._websocket_socket,
                ssl=self._tls,
                subprotocols=[Subprotocol("mqtt")],  # MQTT-6.0.0-3: others are refused
                origins=origins,
                compression=None,
                logger=_silent(),
                max_size=self._options.limits.max_packet_bytes + 64 * 1024,
                max_queue=4,
                ping_interval=None,  # MQTT's own keepalive watches the client
                open_timeout=self._options.limits.connect_timeout_s,
                close_timeout=0.5,
            )

    async def _serve_websocket(self, connection: ServerConnection) -> None:
        await WebSocketTransport(connection).serve(self._accept)

    def stop(self) -> None:
        """Accept no more connections."""
        if self._acceptor is not None:
            self._acceptor.close()
        for server, bound in (
            (self._server, self._socket),
            (self._local_server, self._local_socket),
            (self._websocket_server, self._websocket_socket),
        ):
            if server is not None:
                server.close()  # closes its socket, the WebSocket's in a moment
            elif bound is not None:
                bound.close()

    async def closed(self) -> None:
        """Wait, but not long, for the servers to be done."""
        every = (self._server, self._local_server, self._websocket_server)
        servers = [server for server in every if server is not None]
        if servers:
            waiting = [asyncio.ensure_future(server.wait_closed()) for server in servers]
            await asyncio.wait(waiting, timeout=_CLOSED_S)
            await end_tasks(waiting)


def _silent() -> logging.Logger:
    """Return a logger for a library that logs a traceback whenever a client is wrong."""
    logger = logging.getLogger("heron_mqtt.broker.websocket")
    logger.setLevel(logging.CRITICAL)
    return logger


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ConfigError(f"host: {host} is not an address, expected for example 127.0.0.1 ({exc})") from exc
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
        bound.setblocking(False)
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} on {host} is taken; choose another, or 0 for any free one"
            ) from exc
        raise ConfigError(f"host: cannot listen on {host}:{port}: {exc.strerror}") from exc
    return bound


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
