"""The page's server: a handful of files, and a WebSocket on which snapshots go out; nothing comes in.

The browser is not trusted: a request must name a host that we are (a page of somebody else's that resolves to
us is refused), a socket must come from our own page, and what a browser sends ends its connection.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from heron_mqtt.app.live_view import LiveView
from heron_mqtt.errors import ConfigError

EVERY_S = 0.4
"""Between two snapshots: what changed in between is in the next one."""
MAX_BROWSERS = 16
MAX_BYTES = 1_024  # of what a browser may send; it has nothing to say
TAIL = 200  # messages in one snapshot at most
LOCAL = {"localhost", "127.0.0.1", "[::1]", "::1"}

FILES = {
    "/": "index.html",
    "/style.css": "style.css",
    "/main.js": "main.js",
    "/format.js": "format.js",
    "/views/overview.js": "views/overview.js",
    "/views/devices.js": "views/devices.js",
    "/views/messages.js": "views/messages.js",
    "/views/events.js": "views/events.js",
    "/uPlot.js": "../../record/report/assets/uPlot.iife.min.js",
    "/uPlot.css": "../../record/report/assets/uPlot.min.css",
}
"""Every path that there is, and its file; no other one is looked at."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Dashboard:
    """Serves the page of one broker.

    Args:
        view: What it shows; entered.
        host: Address to listen on.
        port: 0 = a free one.
    """

    def __init__(self, view: LiveView, host: str, port: int) -> None:
        self._view = view
        self._host = host
        self._port = port
        self._browsers = 0
        self._snapshot: dict[str, Any] = {}
        self._files = {path: _read(name) for path, name in FILES.items()}
        self._metrics = _metrics(lambda: self._snapshot)

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
            )
        except OSError as exc:
            raise ConfigError(f"--port {self._port}: cannot be listened on: {exc.strerror or exc}") from None
        async with server:
            port = next(iter(server.sockets)).getsockname()[1]
            shown = f"[{self._host}]" if ":" in self._host else self._host
            on_ready(f"http://{shown}:{port}/")
            while True:
                self._snapshot = self._view.snapshot()
                await asyncio.sleep(EVERY_S)

    # -- the files ---------------------------------------------------------------------------------

    def _respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no WebSocket; None lets the WebSocket begin."""
        if not self._is_ours(request.headers.get("Host", "")):
            return _answer(HTTPStatus.FORBIDDEN, b"this host is not served here\n", "text/plain")
        path = urlsplit(request.path).path
        if path == "/live":
            origin = request.headers.get("Origin")
            if origin is None or urlsplit(origin).netloc != request.headers.get("Host"):
                return _answer(HTTPStatus.FORBIDDEN, b"only its own page may read this\n", "text/plain")
            if self._browsers >= MAX_BROWSERS:
                return _answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many browsers\n", "text/plain")
            return None
        if path == "/metrics":
            if self._metrics is None:
                why = b"metrics need prometheus-client: pip install 'heron-mqtt[metrics]'\n"
                return _answer(HTTPStatus.NOT_IMPLEMENTED, why, "text/plain")
            text, kind = self._metrics()
            return _answer(HTTPStatus.OK, text, kind)
        if path not in self._files:
            return _answer(HTTPStatus.NOT_FOUND, b"no such page\n", "text/plain")
        kind = mimetypes.guess_type(FILES[path])[0] or "application/octet-stream"
        return _answer(HTTPStatus.OK, self._files[path], f"{kind}; charset=utf-8")

    def _is_ours(self, host: str) -> bool:
        """Whether a request names us: any name where we listen for others, else this machine alone."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name in LOCAL or name.strip("[]") == self._host or self._host not in LOCAL

    # -- the socket --------------------------------------------------------------------------------

    async def _browser(self, connection: ServerConnection) -> None:
        self._browsers += 1
        listening = asyncio.create_task(_until_it_speaks(connection), name="a browser's own words")
        try:
            shown = 0
            while not listening.done():
                tail = self._view.newer(shown)[-TAIL:]
                shown = tail[-1]["n"] if tail else shown
                text = json.dumps({**self._snapshot, "messages": tail}, allow_nan=False)
                await connection.send(text)  # waits for a browser that does not read; others do not
                await asyncio.wait([listening], timeout=EVERY_S)
        except ConnectionClosed:
            pass
        finally:
            self._browsers -= 1
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def _until_it_speaks(connection: ServerConnection) -> None:
    """Return when a browser has left, or has sent something, which it has no business to do."""
    try:
        await connection.recv()
        await connection.close(1008, "this page only reads")
    except ConnectionClosed:
        pass


def _metrics(snapshot: Callable[[], dict[str, Any]]) -> Callable[[], tuple[bytes, str]] | None:
    """Return what makes the metrics and their type; None where the extra is not installed."""
    try:
        from heron_mqtt.dashboard.metrics import CONTENT_TYPE, BrokerMetrics
    except ImportError:
        return None
    metrics = BrokerMetrics(snapshot)
    return lambda: (metrics.text(), CONTENT_TYPE)


def _answer(status: HTTPStatus, body: bytes, kind: str) -> Response:
    headers = Headers({**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))})
    headers["Connection"] = "close"
    return Response(status.value, status.phrase, headers, body)


def _read(name: str) -> bytes:
    root = resources.files("heron_mqtt")
    parts = ["dashboard", "static", *name.split("/")]
    while ".." in parts:
        at = parts.index("..")
        del parts[at - 1 : at + 1]
    return root.joinpath(*parts).read_bytes()


Serve = Callable[[LiveView], Coroutine[Any, Any, None]]


async def serve_dashboard(
    url: str, env_id: str | None, host: str, port: int, on_ready: Callable[[str], None]
) -> None:
    """Connect to a broker and serve its page until cancelled.

    Raises:
        ConfigError: URL, environment or address are wrong.
        BrokerError: The broker is not there or refuses.
    """
    async with LiveView(url, env_id) as view:
        await view.settle()
        await Dashboard(view, host, port).run(on_ready)
