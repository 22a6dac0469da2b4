"""What was published while the broker was away: kept in memory first, on disk when needed, sent in order."""

from heron_mqtt.messaging.outbox.outbox import Outbox, OutboxKind
from heron_mqtt.messaging.outbox.store import OutboxStore

__all__ = ["Outbox", "OutboxKind", "OutboxStore"]
