"""The page's data from a broker: snapshots and a tail of messages, made only while a page is open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from pydantic_core import to_json
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Response

from heron_mqtt.app.live_view import LiveView
from heron_mqtt.dashboard.pages import JSON, answer
from heron_mqtt.dashboard.sockets import Serve, until_closed_or

EVERY_S = 0.4
"""Between two snapshots: what changed in between is in the next one."""
PARTS_BY_VIEW: dict[str, set[str]] = {
    "overview": {"microgrids", "grid"},
    "devices": {"devices"},
    "messages": {"channels"},
    "events": {"events"},
    "control": {"devices"},
}
"""What of an environment is large, and goes only to a view that shows it."""
TAIL = 200  # messages in one part of the tail at most


class LiveSource:
    """What happens at a broker, for every browser the same.

    Args:
        view: Entered.
    """

    def __init__(self, view: LiveView) -> None:
        self._view = view
        self._made: dict[str, tuple[float, bytes]] = {}  # what is sent, and when it was made
        self.has_control = False
        """Whether people may log in, so that the page offers it."""
        self._metrics = _metrics(view.snapshot)
        self.sockets: Mapping[str, Serve] = {"/live": self._live, "/tail": self._tail}

    def refuse(self, _path: str, _headers: Headers) -> Response | None:
        """Refuse no socket: every visitor of the page may read."""
        return None

    def has_logged_in(self, _headers: Headers) -> bool:
        """Return that no user is logged in: there is no login."""
        return False

    def respond(self, path: str, query: str, _headers: Headers) -> Response | None:
        """Answer what is no file and no socket; None = no such path."""
        if path in {"/network", "/series"}:
            asked = {name: values[0] for name, values in parse_qs(query).items()}
            env_id = asked.get("env_id", "")
            series = path == "/series"
            found = (
                self._view.series(env_id, asked.get("device", "")) if series else self._view.network(env_id)
            )
            return None if found is None else answer(HTTPStatus.OK, json.dumps(found), JSON)
        if path != "/metrics":
            return None
        if self._metrics is None:
            why = "metrics need prometheus-client: pip install 'heron-mqtt[metrics]'\n"
            return answer(HTTPStatus.NOT_IMPLEMENTED, why)
        text, kind = self._metrics
        return answer(HTTPStatus.OK, self._newest(path, text), kind)

    def _newest(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return what is sent, at most ``EVERY_S`` old: made once for all who ask for it."""
        now_s = asyncio.get_running_loop().time()
        made = self._made.get(what)
        if made is None or now_s - made[0] >= EVERY_S * 0.9:
            made = self._made[what] = now_s, make()
        return made[1]

    def _shown(self, view: str) -> bytes:
        """Return what a view shows now."""
        shown = {**self._view.snapshot(PARTS_BY_VIEW[view]), "control": self.has_control, "view": view}
        return to_json(shown, inf_nan_mode="null")

    async def _live(self, connection: ServerConnection, query: str) -> None:
        """Send what ``?view=`` shows."""
        view = parse_qs(query).get("view", ["overview"])[0]
        if view not in PARTS_BY_VIEW:
            await connection.close(1008, f"expected ?view= {', '.join(PARTS_BY_VIEW)}")
            return
        while True:
            # waits for a browser that does not read; others do not
            await connection.send(self._newest(view, lambda: self._shown(view)), text=True)
            if await until_closed_or(connection, EVERY_S):
                return

    async def _tail(self, connection: ServerConnection, query: str) -> None:
        """Send the newest messages whose environment and channel contain ``?filter=``."""
        wanted = parse_qs(query).get("filter", [""])[0][:200]
        shown = 0
        while True:
            found = self._view.messages.newer(shown, wanted, TAIL)
            shown = self._view.messages.newest
            if found:
                await connection.send(json.dumps(found))
            if await until_closed_or(connection, EVERY_S):
                return


def _metrics(snapshot: Callable[[], dict[str, Any]]) -> tuple[Callable[[], bytes], str] | None:
    """Return what makes the metrics and their type; None where the extra is not installed."""
    try:
        from heron_mqtt.dashboard.metrics import CONTENT_TYPE, BrokerMetrics
    except ImportError:
        return None
    return BrokerMetrics(snapshot).text, CONTENT_TYPE
