"""One view on two sets of counters: the wrapper's own, and those of the broker inside it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from heron_mqtt.messaging.core.stats import MessageStats, Report


def _with_inner(name: str, inner_name: str) -> Any:
    """Return a counter that is ours plus one of the inner broker's; setting it changes our part."""

    def read(self: ImpairedStats) -> int:
        return self.own[name] + int(getattr(self.inner, inner_name))

    def write(self: ImpairedStats, value: int) -> None:
        self.own[name] = value - int(getattr(self.inner, inner_name))

    return property(read, write)


class ImpairedStats(MessageStats):
    """Counters since the wrapper was made.

    ``published``, ``received`` and ``lost`` are counted outside the impaired network, where this process
    stands: ``lost`` holds what was lost in it as well as beyond it. Events that only the inner broker can see
    (copies that it removed, payloads that could not be parsed, reconnections, ...) are added from there. Its
    reports also appear here, except those of gaps, which are noticed here as well.

    Args:
        inner: Of the broker inside.
    """

    received = _with_inner("received", "duplicated")  # the copies that it removed did arrive
    duplicated = _with_inner("duplicated", "duplicated")
    rejected = _with_inner("rejected", "rejected")
    overflowed = _with_inner("overflowed", "overflowed")
    undelivered = _with_inner("undelivered", "undelivered")
    expired = _with_inner("expired", "expired")
    callback_errors = _with_inner("callback_errors", "callback_errors")
    reconnects = _with_inner("reconnects", "reconnects")
    stored = _with_inner("stored", "stored")
    outbox_dropped = _with_inner("outbox_dropped", "outbox_dropped")
    outbox_errors = _with_inner("outbox_errors", "outbox_errors")
    sessions_lost = _with_inner("sessions_lost", "sessions_lost")

    def __init__(self, inner: MessageStats) -> None:
        self.inner = inner
        self.own: Counter[str] = Counter()
        super().__init__()

        def relay(report: Report) -> None:
            if report.kind != "gap":
                self.reports.append(report)
                for listener in self.listeners:
                    listener(report)

        inner.listeners.append(relay)
