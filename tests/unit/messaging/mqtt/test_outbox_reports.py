"""OutboxReports: what waits is told as it is now, often while it waits, and never where it would wait."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from heron_mqtt.messaging.mqtt.outbox_reports import LOOK_S, LOSS_TOLD_S, REPEAT_EMPTY_S, OutboxReports
from heron_mqtt.messaging.outbox import Outbox
from support.virtual import run_virtual, virtual_now


class FakeOutbox:
    """What a report needs of an outbox."""

    def __init__(self) -> None:
        self.messages, self.size, self.max_bytes, self.dropped = 0, 0, 1_000, 0
        self.age_s: float | None = None
        self.kinds: dict[str, Any] = {}


class Told:
    """Reports of a fake outbox, each with the time it was told."""

    def __init__(self) -> None:
        self.outbox = FakeOutbox()
        self.can_go = True
        self.said: list[tuple[float, dict[str, Any]]] = []
        self.reports = OutboxReports(cast("Outbox", self.outbox), "gateway-1", lambda: 0, self._publish)

    def _publish(self, payload: bytes) -> bool:
        if self.can_go:
            self.said.append((virtual_now(), json.loads(payload)))
        return self.can_go

    async def over(self, duration_s: float) -> list[dict[str, Any]]:
        """Return what is told in a while."""
        before = len(self.said)
        await asyncio.sleep(duration_s)
        return [report for _, report in self.said[before:]]


def test_what_waits_is_told_every_second_and_what_was_given_up_for_a_minute() -> None:
    async def run() -> None:
        told = Told()
        told.reports.begin()
        assert len(await told.over(LOOK_S + 0.1)) == 1
        told.outbox.messages = 5
        assert [one["messages"] for one in await told.over(10 * LOOK_S)] == [5] * 10
        told.outbox.messages, told.outbox.dropped = 0, 5
        assert [one["dropped"] for one in await told.over(LOSS_TOLD_S)] == [5] * round(LOSS_TOLD_S / LOOK_S)
        assert len(await told.over(3 * REPEAT_EMPTY_S)) == 3
        told.reports.end()
        assert await told.over(30.0) == []

    run_virtual(run())


def test_what_cannot_go_at_once_is_not_told_later_and_the_next_says_what_is_then() -> None:
    async def run() -> None:
        told = Told()
        told.can_go = False
        told.reports.begin()
        told.outbox.dropped = 1
        assert await told.over(20.0) == []
        told.can_go, told.outbox.dropped = True, 2
        assert [one["dropped"] for one in await told.over(LOOK_S)] == [2]

    run_virtual(run())
