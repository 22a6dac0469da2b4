"""The page's data from a record: a step at a time, whichever the browser asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Response

from heron_mqtt.app.record_view import RecordView
from heron_mqtt.dashboard.pages import JSON, answer
from heron_mqtt.dashboard.sockets import Serve, until_closed_or
from heron_mqtt.errors import DataError

EVERY_S = 1.0
"""Between two looks at how far a record goes that is being written."""
MESSAGES = 200
CACHED_STEPS = 50


class RecordSource:
    """A record; it changes only by growing.

    Args:
        view: Of it.
    """

    def __init__(self, view: RecordView) -> None:
        self._view = view
        self._snapshots: dict[tuple[int, int], str] = {}
        self.sockets: Mapping[str, Serve] = {"/live": self._live}

    def refuse(self, _path: str, _headers: Headers) -> Response | None:
        """Refuse no socket: every visitor of the page may read."""
        return None

    def has_logged_in(self, _headers: Headers) -> bool:
        """Return that no user is logged in: there is no login."""
        return False

    def respond(self, path: str, query: str, _headers: Headers) -> Response | None:
        """Answer what is no file and no socket; None = no such path."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        work: dict[str, Callable[[], Any]] = {
            "/at": lambda: self._at(_number(asked)),
            "/network": lambda: self._view.network(asked.get("env_id", "")),
            "/series": lambda: self._view.series(asked.get("device", "")),
            "/messages": lambda: self._view.messages(_number(asked), asked.get("filter", ""), MESSAGES),
        }
        if path not in work:
            return None
        try:
            found = work[path]()
        except DataError as exc:
            return answer(HTTPStatus.CONFLICT, str(exc))
        if found is None:
            return None
        text = found if isinstance(found, str) else json.dumps(found, allow_nan=False)
        return answer(HTTPStatus.OK, text, JSON)

    def _at(self, n: int) -> str:
        key = n, len(self._view.timeline)  # what was the last step is not, once there is a further one
        if key not in self._snapshots:
            if len(self._snapshots) >= CACHED_STEPS:
                self._snapshots.pop(next(iter(self._snapshots)))
            self._snapshots[key] = json.dumps(self._view.snapshot(n), allow_nan=False)
        return self._snapshots[key]

    async def _live(self, connection: ServerConnection, _query: str) -> None:
        """Say how far the record goes, and that we are there."""
        while True:
            try:
                about = self._view.about()
            except DataError as exc:
                about = {"failure": str(exc)}
            await connection.send(json.dumps({"record": about}))
            if await until_closed_or(connection, EVERY_S):
                return


def _number(asked: dict[str, str]) -> int:
    text = asked.get("n", "")
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise DataError(f"?n={text[:20]}: expected the number of a step")
    return int(text)
