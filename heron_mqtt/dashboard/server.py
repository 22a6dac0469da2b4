"""The page's server: a handful of files, and sockets on which data go out.

The browser is not trusted: a request must name a host that we are (a page of somebody else's that resolves to
us is refused), a socket must come from our own page, and what a browser sends ends its connection. Only with
``--control`` there is a socket on which requests come in: see ``heron_mqtt.dashboard.control.source``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from heron_mqtt.app.live_view import LiveView
from heron_mqtt.app.record_view import RecordView
from heron_mqtt.dashboard.live_source import LiveSource
from heron_mqtt.dashboard.pages import FILES, StaticFiles, answer
from heron_mqtt.dashboard.record_source import RecordSource
from heron_mqtt.dashboard.sockets import Serve
from heron_mqtt.errors import ConfigError

MAX_SOCKETS = 32
MAX_BYTES = 8_192  # of what a browser may send: a request with its reason
LOCAL = {"localhost", "127.0.0.1", "[::1]", "::1"}


class Source(Protocol):
    """What the page shows."""

    @property
    def sockets(self) -> Mapping[str, Serve]:
        """By path, what serves a socket."""

    def refuse(self, path: str, headers: Headers) -> Response | None:
        """Refuse a socket before it begins; None = it may begin."""

    def respond(self, path: str, query: str, headers: Headers) -> Response | None:
        """Answer what is no file and no socket; None = no such path."""


class Dashboard:
    """Serves a page.

    Args:
        source: What it shows.
        host: Address to listen on.
        port: 0 = a free one.
    """

    def __init__(self, source: Source, host: str, port: int) -> None:
        self._source = source
        self._host = host
        self._port = port
        self._open = 0
        self._files = StaticFiles(FILES)

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until cancelled.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        try:
            server = await serve(
                self._browser,
                self._host,
                self._port,
                process_request=self._respond,
                max_size=MAX_BYTES,
                max_queue=4,
                server_header=None,
                open_timeout=10,
                compression=None,  # it costs more than it saves on one machine
            )
        except OSError as exc:
            raise ConfigError(f"--port {self._port}: cannot be listened on: {exc.strerror or exc}") from None
        async with server:
            port = next(iter(server.sockets)).getsockname()[1]
            shown = f"[{self._host}]" if ":" in self._host else self._host
            on_ready(f"http://{shown}:{port}/")
            await asyncio.Event().wait()

    def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no WebSocket; None lets the WebSocket begin."""
        if not self._is_ours(request.headers.get("Host", "")):
            return answer(HTTPStatus.FORBIDDEN, "this host is not served here\n")
        parts = urlsplit(request.path)
        if parts.path in self._source.sockets:
            origin = request.headers.get("Origin")
            if origin is None or urlsplit(origin).netloc != request.headers.get("Host"):
                return answer(HTTPStatus.FORBIDDEN, "only its own page may read this\n")
            if self._open >= MAX_SOCKETS:
                return answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many browsers\n")
            return self._source.refuse(parts.path, request.headers)
        found = self._files.answer(parts.path)
        found = found or self._source.respond(parts.path, parts.query, request.headers)
        return found or answer(HTTPStatus.NOT_FOUND, "no such page\n")

    def _is_ours(self, host: str) -> bool:
        """Whether a request names us: any name where we listen for others, else this machine alone."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name in LOCAL or name.strip("[]") == self._host or self._host not in LOCAL

    async def _browser(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        parts = urlsplit(connection.request.path)
        self._open += 1
        try:
            await self._source.sockets[parts.path](connection, parts.query)
        except (ConnectionClosed, TimeoutError):
            pass
        finally:
            self._open -= 1


async def serve_dashboard(
    url: str,
    env_id: str | None,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    control: tuple[Path, Path] | None = None,
) -> None:
    """Connect to a broker and serve its page until cancelled.

    Args:
        url: Of the broker.
        env_id: The environment; None = all.
        host: Address to listen on.
        port: 0 = a free one.
        on_ready: Told the address of the page.
        control: Files of the users and of their rights; None = the page only reads: there is no path and no
            object by which anything could be published.

    Raises:
        ConfigError: URL, environment, address or files are wrong.
        BrokerError: The broker is not there or refuses.
    """
    if control is not None and host not in LOCAL:
        raise ConfigError(
            f"--control with --host {host}: passwords would cross the network readable; listen on this "
            "machine, and let a tunnel (ssh -L) or a proxy with TLS bring people here"
        )
    async with LiveView(url, env_id) as view:
        await view.settle()
        source: Source = LiveSource(view)
        if control is None:
            return await Dashboard(source, host, port).run(on_ready)
        from heron_mqtt.dashboard.control.commands import Commands
        from heron_mqtt.dashboard.control.people import People
        from heron_mqtt.dashboard.control.source import ControlledSource

        people = People(*control)
        try:
            source = ControlledSource(LiveSource(view), people, Commands(url, view))
            return await Dashboard(source, host, port).run(on_ready)
        finally:
            people.close()


async def serve_record(path: str, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the page of a record until cancelled.

    Raises:
        DataError: The file is not there, or no record.
        ConfigError: The address cannot be listened on.
    """
    view = RecordView(path)
    try:
        await Dashboard(RecordSource(view), host, port).run(on_ready)
    finally:
        view.close()
