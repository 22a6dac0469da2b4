"""What was published while nobody could take it: kept in memory first, on disk when needed, sent in order."""

from heron_mqtt.messaging.outbox.outbox import Outbox, OutboxKind
from heron_mqtt.messaging.outbox.store import OutboxStore

__all__ = ["Outbox", "OutboxKind", "OutboxStore"]
