"""The page's data from a broker: snapshots and a tail of messages, made only while somebody looks."""

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
PARTS = {"microgrids", "grid", "devices", "channels", "events"}
"""What of an environment is large, and goes only to a view that shows it."""
SHOWN_BY_VIEW = {
    "overview": {"microgrids", "grid"},
    "devices": {"devices"},
    "messages": {"channels"},
    "events": {"events"},
    "control": {"devices"},
}
TAIL = 200  # messages in one part of the tail at most


class LiveSource:
    """What goes on at a broker, for every browser the same.

    Args:
        view: Entered.
    """

    def __init__(self, view: LiveView) -> None:
        self._view = view
        self._made_at_s = -EVERY_S
        self._snapshot: dict[str, Any] = {}
        self._texts: dict[str, str] = {}
        self.has_control = False
        """Whether people may log in, so that the page offers it."""
        self._metrics = _metrics(self.snapshot)
        self.sockets: Mapping[str, Serve] = {"/live": self._live, "/tail": self._tail}

    def snapshot(self) -> dict[str, Any]:
        """Return the newest snapshot, at most ``EVERY_S`` old."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._made_at_s >= EVERY_S * 0.9:
            self._made_at_s, self._texts = now_s, {}
            self._snapshot = {**self._view.snapshot(), "control": self.has_control}
        return self._snapshot

    def refuse(self, _path: str, _headers: Headers) -> Response | None:
        """Refuse no socket: whoever reaches the page may read."""
        return None

    def has_logged_in(self, _headers: Headers) -> bool:
        """Return that nobody has: there is no login."""
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
        text, kind = self._metrics()
        return answer(HTTPStatus.OK, text, kind)

    def _text(self, view: str) -> str:
        """Return what a view shows of the newest snapshot; made once for all who look at it."""
        snapshot = self.snapshot()
        if view not in self._texts:
            environments = [_shown(one, SHOWN_BY_VIEW[view]) for one in snapshot["environments"]]
            shown = {**snapshot, "view": view, "environments": environments}
            self._texts[view] = to_json(shown, inf_nan_mode="null").decode()
        return self._texts[view]

    async def _live(self, connection: ServerConnection, query: str) -> None:
        """Send what ``?view=`` shows."""
        view = parse_qs(query).get("view", ["overview"])[0]
        if view not in SHOWN_BY_VIEW:
            await connection.close(1008, f"expected ?view= {', '.join(SHOWN_BY_VIEW)}")
            return
        while True:
            await connection.send(self._text(view))  # waits for a browser that does not read; others do not
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


def _shown(environment: dict[str, Any], parts: set[str]) -> dict[str, Any]:
    """Return an environment without what a view does not show; of devices there is always how they are."""
    found = {name: value for name, value in environment.items() if name not in PARTS or name in parts}
    if "devices" not in parts:
        devices = environment["devices"].items()
        found["devices"] = {label: {"health": one["health"], "p_mw": one["p_mw"]} for label, one in devices}
    return found


def _metrics(snapshot: Callable[[], dict[str, Any]]) -> Callable[[], tuple[bytes, str]] | None:
    """Return what makes the metrics and their type; None where the extra is not installed."""
    try:
        from heron_mqtt.dashboard.metrics import CONTENT_TYPE, BrokerMetrics
    except ImportError:
        return None
    metrics = BrokerMetrics(snapshot)
    return lambda: (metrics.text(), CONTENT_TYPE)
