"""What a broker counts and what it reports."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields

log = logging.getLogger("heron_mqtt.messaging")


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that went wrong without stopping anything."""

    kind: str
    """``rejected``, ``overflow``, ``callback``, ``delivery``, ``expired``, ``connection`` or ``outbox``."""
    where: str
    """Channel or topic, or the broker's address."""
    what: str


@dataclass
class MessageStats:
    """Counters since the broker was made.

    ``lost`` is the number of sequence numbers that never came although later ones did; a message that
    arrives late is taken off it again. ``expired`` counts messages with a time limit that were dropped
    because it had passed or there was no connection; they are not in ``undelivered``. ``stored`` counts
    messages written to an outbox, ``outbox_dropped`` those that it gave up, ``outbox_errors`` failures of its
    disk. ``sessions_lost`` counts kept sessions that the broker no longer had.
    """

    published: int = 0
    received: int = 0
    duplicated: int = 0
    rejected: int = 0
    lost: int = 0
    overflowed: int = 0
    undelivered: int = 0
    expired: int = 0
    callback_errors: int = 0
    reconnects: int = 0
    stored: int = 0
    outbox_dropped: int = 0
    outbox_errors: int = 0
    sessions_lost: int = 0
    is_trial: bool = False
    """Whether its connection is tried out, and may be lost on purpose: problems are logged as information."""
    reports: deque[Report] = field(default_factory=lambda: deque(maxlen=200))
    listeners: list[Callable[[Report], None]] = field(default_factory=list)

    def report(
        self, kind: str, where: str, what: str, *, exc: BaseException | None = None, is_raised: bool = False
    ) -> None:
        """Log and keep one problem; with ``exc`` its traceback is logged too.

        What ``is_raised`` as well is reported where it is caught: it is not logged as a warning.
        """
        entry = Report(kind, where, what)
        self.reports.append(entry)
        level = logging.INFO if is_raised or self.is_trial else logging.WARNING
        log.log(level, "%s on %s: %s", kind, where, what, exc_info=exc)
        for listener in self.listeners:
            listener(entry)

    def reject(self, where: str, what: str) -> None:
        """Count and report a message of a wrong kind."""
        self.rejected += 1
        self.report("rejected", where, what)

    def counts(self) -> dict[str, int]:
        """Return the counters as a plain dict."""
        counters = (f.name for f in fields(self) if f.type == "int")
        return {name: getattr(self, name) for name in counters}
