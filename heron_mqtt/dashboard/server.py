"""The page's server: a handful of files, and sockets on which data go out.

The browser is not trusted. A request must have one of our host names, so that a page of another site that
resolves to our address is refused. A socket must come from our own page. A browser that sends data is
disconnected. Only with ``--control`` there is a socket that accepts requests: see
``heron_mqtt.dashboard.control.source``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import SplitResult, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from heron_mqtt.app.gc_freeze import frozen_gc
from heron_mqtt.app.live_view import LiveView
from heron_mqtt.dashboard.connection_limit import ConnectionLimit
from heron_mqtt.dashboard.live_source import LiveSource
from heron_mqtt.dashboard.own_names import LOCAL, OwnNames
from heron_mqtt.dashboard.pages import FILES, StaticFiles, answer
from heron_mqtt.dashboard.sockets import Serve
from heron_mqtt.errors import ConfigError

MAX_SOCKETS = 32
"""Of people who have not logged in; who has is let in beyond them."""
MAX_SOCKETS_OF_PEOPLE = 64
READ = ("host", "origin", "cookie", "connection", "upgrade", "sec-", "x-heron-")
"""How the names of headers begin that are read."""
LISTS = {"connection", "upgrade", "sec-websocket-extensions", "sec-websocket-protocol"}
"""Those of them that may stand more than once."""
MAX_BYTES = 8_192  # of what a browser may send: a request with its reason
log = logging.getLogger("heron_mqtt.dashboard.http")


class Source(Protocol):
    """What the page shows."""

    @property
    def sockets(self) -> Mapping[str, Serve]:
        """By path, what serves a socket."""

    def refuse(self, path: str, headers: Headers) -> Response | None:
        """Refuse a socket before it begins; None = it may begin."""

    def has_logged_in(self, headers: Headers) -> bool:
        """Whether a request comes from a person who has logged in."""

    def respond(self, path: str, query: str, headers: Headers) -> Response | None:
        """Answer what is no file and no socket; None = no such path."""


class Dashboard:
    """Serves a page.

    Args:
        source: What it shows.
        host: Address to listen on.
        port: 0 = a free one.
        tls: To serve it by TLS; None = plain.
        served_as: Further names by which people reach it.
    """

    def __init__(
        self,
        source: Source,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        served_as: Iterable[str] = (),
    ) -> None:
        self._tls = tls
        self._names = OwnNames(host, served_as, is_secured=tls is not None)
        self._source = source
        self._host = host
        self._port = port
        self._sockets, self._sockets_of_people = 0, 0
        self._files = StaticFiles(FILES)

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until cancelled.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        log.addFilter(_is_no_handshake_failure)
        limit = ConnectionLimit(self._tls)
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
                logger=log,
                create_connection=cast("type[ServerConnection]", limit.connection),
                compression=None,  # it costs more than it saves on one machine
            )
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                why = f"is taken on {self._host}; choose another, or 0 for any free one"
            else:
                why = f"cannot be listened on at {self._host}: {os.strerror(exc.errno) if exc.errno else exc}"
            raise ConfigError(f"port {self._port} of the page: {why}") from None
        async with server:
            port = next(iter(server.sockets)).getsockname()[1]
            shown = f"[{self._host}]" if ":" in self._host else self._host
            on_ready(f"{'http' if self._tls is None else 'https'}://{shown}:{port}/")
            try:
                await asyncio.Event().wait()
            finally:
                limit.close()

    def _respond(self, _connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no WebSocket; None lets the WebSocket begin."""
        try:
            return self._answer(request)
        except Exception:  # a bug: websockets keeps it to itself, and answers 500
            log.exception("no answer to a request for %.200s", request.path)
            raise

    def _answer(self, request: Request) -> Response | None:
        if (why := _malformed(request)) is not None:
            return answer(HTTPStatus.BAD_REQUEST, f"{why}\n")
        if not self._names.include(request.headers.get("Host", "")):
            why = "this host name is not served here: --served-as NAME adds it\n"
            return answer(HTTPStatus.FORBIDDEN, why)
        parts, origin = _split(request.path), _split(request.headers.get("Origin", ""))
        if parts is None or origin is None:
            return answer(HTTPStatus.BAD_REQUEST, "this is no address\n")
        if parts.path in self._source.sockets:
            if not origin.netloc or origin.netloc != request.headers.get("Host"):
                return answer(HTTPStatus.FORBIDDEN, "only its own page may read this\n")
            if not self._has_room(request.headers):
                return answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many browsers\n")
            return self._source.refuse(parts.path, request.headers)
        found = self._files.answer(parts.path)
        found = found or self._source.respond(parts.path, parts.query, request.headers)
        return found or answer(HTTPStatus.NOT_FOUND, "no such page\n")

    def _has_room(self, headers: Headers) -> bool:
        """Whether one more socket may begin: readers do not take the sockets of those who have logged in."""
        if self._sockets < MAX_SOCKETS:
            return True
        return self._sockets_of_people < MAX_SOCKETS_OF_PEOPLE and self._source.has_logged_in(headers)

    async def _browser(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        parts = urlsplit(connection.request.path)
        is_of_person = self._source.has_logged_in(connection.request.headers)
        self._sockets_of_people += is_of_person
        self._sockets += not is_of_person
        try:
            await self._source.sockets[parts.path](connection, parts.query)
        except (ConnectionClosed, TimeoutError):
            pass
        finally:
            self._sockets_of_people -= is_of_person
            self._sockets -= not is_of_person


def _malformed(request: Request) -> str | None:
    """Return why a request cannot be read; None = it can.

    What is read of it must be there once: two readers, a proxy and we, could take different ones. And it
    must be ASCII: ``websockets`` hands on other bytes as characters that cannot be encoded again. Only a
    cookie may have others, which can be of any program on the same host.
    """
    if not request.path.isascii():
        return "the address is not ASCII"
    for name in request.headers:
        said = name.lower()
        if not said.startswith(READ):
            continue
        values = request.headers.get_all(name)
        if len(values) > 1 and said not in LISTS:
            return f"{said} stands {len(values)} times; expected once"
        if said != "cookie" and not all(value.isascii() for value in values):
            return f"{said} is not ASCII"
    return None


def _split(address: str) -> SplitResult | None:
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _is_no_handshake_failure(record: logging.LogRecord) -> bool:
    """Whether a record is to be kept: any client can send what is no request, and would fill the log."""
    return record.msg != "opening handshake failed"


async def serve_dashboard(
    url: str,
    env_id: str | None,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    control: tuple[Path, Path] | None = None,
    tls: ssl.SSLContext | None = None,
    served_as: Iterable[str] = (),
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
        tls: To serve it by TLS; None = plain, which control takes on this machine alone.
        served_as: See ``OwnNames``.

    Raises:
        ConfigError: URL, environment, address or files are wrong.
        BrokerError: The broker is not there or refuses.
    """
    if control is not None and host not in LOCAL and tls is None:
        raise ConfigError(
            f"--control with --host {host}: passwords would cross the network readable; give --tls-cert and "
            "--tls-key, or listen on this machine and use a tunnel (ssh -L)"
        )
    async with LiveView(url, env_id) as view:
        await view.settle()
        source: Source = LiveSource(view)
        if control is None:
            with frozen_gc():
                return await Dashboard(source, host, port, tls, served_as).run(on_ready)
        from heron_mqtt.dashboard.control.commands import Commands
        from heron_mqtt.dashboard.control.control_users import ControlUsers
        from heron_mqtt.dashboard.control.source import ControlledSource

        people = ControlUsers(*control)
        try:
            source = ControlledSource(LiveSource(view), people, Commands(url, view), is_tls=tls is not None)
            with frozen_gc():
                return await Dashboard(source, host, port, tls, served_as).run(on_ready)
        finally:
            people.close()


async def serve_record(
    path: str,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    tls: ssl.SSLContext | None = None,
    served_as: Iterable[str] = (),
) -> None:
    """Serve the page of a record until cancelled.

    Raises:
        DataError: The file is not there, or no record.
        ConfigError: The address cannot be listened on.
    """
    from heron_mqtt.app.record_view import (
        RecordView,
    )  # with the whole simulation behind it: not for a live page
    from heron_mqtt.dashboard.record_source import RecordSource

    view = RecordView(path)
    try:
        await Dashboard(RecordSource(view), host, port, tls, served_as).run(on_ready)
    finally:
        view.close()
