"""One message of an outbox: it waits, or is on its way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES
from heron_mqtt.messaging.outbox.store import StoredMessage

HELD_S = 1.0
"""What leaves later than this says for how long it was held: ``held_s`` in its payload."""


@dataclass(slots=True, eq=False)
class KeptMessage:
    """A published message, and its result.

    Attributes:
        id: Its place in the order.
        stop: Whether it is an emergency stop.
        topic, payload, qos, retain: As published.
        published_at: s since the epoch.
        since_s: The same by the event loop's clock.
        done: What its publisher may await; None = it does not.
        is_new: Neither in the file nor being written.
        is_settled: The broker has it, or it was given up.
    """

    id: int
    stop: bool
    topic: str
    payload: bytes
    qos: int
    retain: bool
    published_at: float
    since_s: float
    done: asyncio.Future[None] | None = None
    is_new: bool = True
    is_settled: bool = False

    @classmethod
    def restored(cls, row: StoredMessage, now_s: float, wall_s: float) -> KeptMessage:
        """Return what the file holds; it is of the past, whatever a clock that was set back says."""
        since_s = now_s - max(HELD_S, wall_s - row.published_at)
        return cls(
            row.id,
            row.stop,
            row.topic,
            row.payload,
            row.qos,
            row.retain,
            row.published_at,
            since_s,
            None,
            False,
        )

    def row(self) -> StoredMessage:
        """Return it as the file keeps it."""
        return StoredMessage(
            self.id, self.stop, self.topic, self.payload, self.qos, self.retain, self.published_at
        )

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return self.row().size

    def payload_at(self, now_s: float) -> bytes:
        """Return the payload to send now: it says how long it was held, where that matters."""
        held_s = now_s - self.since_s
        if held_s < HELD_S or not self.payload.endswith(b"}") or b'"held_s"' in self.payload:
            return self.payload
        comma = b"" if self.payload == b"{}" else b","
        told = self.payload[:-1] + comma + b'"held_s":%.3f}' % held_s
        return told if len(told) <= MAX_PAYLOAD_BYTES else self.payload
