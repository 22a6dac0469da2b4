"""Retained messages: the last message of each topic, for those who subscribe later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.messaging.embedded.protocol.topic_filters import TopicTree

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.options import Limits
    from heron_mqtt.messaging.embedded.server.session import BrokerMessage
    from heron_mqtt.messaging.embedded.stats import BrokerStats


class RetainedStore:
    """Keeps at most ``max_retained_messages`` topics in ``max_retained_bytes``.

    A full store refuses new topics and keeps those it has; a topic it has is still updated or deleted.
    """

    def __init__(self, limits: Limits, stats: BrokerStats) -> None:
        self._limits = limits
        self._stats = stats
        self._tree: TopicTree[BrokerMessage] = TopicTree()

    def keep(self, message: BrokerMessage) -> bool:
        """Keep a message, or delete its topic's if the payload is empty; return whether that was possible."""
        replaced = self._tree.discard(message.topic, None)
        if replaced is not None:
            self._stats.retained_bytes -= replaced.size
        kept = self._fits(message) if message.payload else True
        if message.payload and kept:
            self._tree.put(message.topic, None, message)
            self._stats.retained_bytes += message.size
        self._stats.retained = len(self._tree)
        return kept

    def match(self, topic_filter: str) -> list[BrokerMessage]:
        """Return the retained messages that a filter matches."""
        return self._tree.match(topic_filter)

    def _fits(self, message: BrokerMessage) -> bool:
        return (
            len(self._tree) < self._limits.max_retained_messages
            and self._stats.retained_bytes + message.size <= self._limits.max_retained_bytes
        )
