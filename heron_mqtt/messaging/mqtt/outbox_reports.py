"""Tells observers of the broker how much waits in an outbox, for as long as there is a connection.

What is said is of now: at QoS 0, never queued, never kept. While the broker is away there is no report; who
watches then sees that nothing is said any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.outbox import Outbox

LOOK_S = 1.0
"""While messages wait, reports are this frequent: ``heron-mqtt status``, which listens for 2 s, gets one."""
REPEAT_EMPTY_S = 10.0
LOSS_TOLD_S = 60.0
"""For so long after messages were dropped, or the disk failed, reports are equally frequent."""

PublishReport = Callable[[bytes], bool]


class OutboxReports:
    """Publishes what an outbox holds: every ``LOOK_S`` while that is anything or changes, else now and then.

    Args:
        outbox: Whose.
        client_id: Names it.
        errors: Returns how often its disk has failed.
        publish: Sends a payload if it can go at once; returns whether it could.
    """

    def __init__(
        self, outbox: Outbox, client_id: str, errors: Callable[[], int], publish: PublishReport
    ) -> None:
        self._outbox = outbox
        self._client_id = client_id
        self._errors = errors
        self._publish = publish
        self._timer: asyncio.TimerHandle | None = None
        self._told: tuple[object, ...] | None = None
        self._told_at_s = 0.0
        self._losses = (0, 0)  # given up, and failures of the disk
        self._lost_at_s = float("-inf")

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

    def tell(self) -> bool:
        """Publish the report now, if it can be sent at once; return whether it was."""
        return self._publish(encode(self._report()))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_S, self._look)
        outbox = self._outbox
        now_s, losses = loop.time(), (outbox.dropped, self._errors())
        if losses != self._losses:
            self._losses, self._lost_at_s = losses, now_s
        now = (outbox.messages, outbox.size, *losses)
        is_well = not outbox.messages and now_s - self._lost_at_s >= LOSS_TOLD_S
        is_due = not is_well or now != self._told or now_s - self._told_at_s >= REPEAT_EMPTY_S
        if is_due and self.tell():
            self._told, self._told_at_s = now, now_s

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
