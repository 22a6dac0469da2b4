"""Tells whoever watches the broker how much waits in an outbox, for as long as there is a connection.

What is said is of now: at QoS 0, never queued, never kept. While the broker is away nobody can be told; who
watches then sees that nothing is said any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.outbox import Outbox

LOOK_S = 1.0
REPEAT_S, REPEAT_WELL_S = 1.5, 10.0
"""Whoever takes a look for two seconds (``heron-mqtt status``) hears what is not well."""

Publish = Callable[[bytes], asyncio.Future[None] | None]


class OutboxReports:
    """Publishes what an outbox holds: within ``LOOK_S`` of a change, and again while nothing changes.

    Args:
        outbox: Whose.
        client_id: Names it.
        errors: Returns how often its disk has failed.
        publish: Sends a payload, and returns what is done when it has left; None = there is no connection.
    """

    def __init__(self, outbox: Outbox, client_id: str, errors: Callable[[], int], publish: Publish) -> None:
        self._outbox = outbox
        self._client_id = client_id
        self._errors = errors
        self._publish = publish
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Future[None] | None = None
        self._told: tuple[object, ...] | None = None
        self._told_at_s = 0.0

    def begin(self) -> None:
        """There is a connection (again)."""
        self._told = None
        if self._timer is None:  # what waits goes first
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def end(self) -> None:
        """Stop. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tell(self) -> None:
        """Say it now, unless the broker has not even taken what was said before."""
        if self._leaving is None or self._leaving.done():
            self._leaving = self._publish(encode(self._report()))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_S, self._look)
        outbox = self._outbox
        now = (outbox.messages, outbox.size, outbox.dropped, self._errors())
        is_well = not (outbox.messages or outbox.dropped or self._errors())
        repeat_s = REPEAT_WELL_S if is_well else REPEAT_S - LOOK_S
        if now != self._told or loop.time() - self._told_at_s >= repeat_s:
            self._told, self._told_at_s = now, loop.time()
            self.tell()

    def _report(self) -> dict[str, Any]:
        outbox = self._outbox
        report: dict[str, Any] = {
            "type": "outbox",
            "client": self._client_id,
            "messages": outbox.messages,
            "size_bytes": outbox.size,
            "max_bytes": outbox.max_bytes,
            "dropped": outbox.dropped,
            "disk_errors": self._errors(),
            "kinds": {
                name: {"messages": kind.messages, "size_bytes": kind.size, "dropped": kind.dropped}
                for name, kind in sorted(outbox.kinds.items())
            },
        }
        return report if outbox.age_s is None else {**report, "age_s": round(outbox.age_s, 3)}
