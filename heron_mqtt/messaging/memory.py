"""InMemoryBroker: one process, no server; the same codec, filters and retain rules as MQTT."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from heron_mqtt.errors import BrokerClosed, MessageError, MessageExpired
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Delivery, Features, MessageBroker
from heron_mqtt.messaging.codec import Json, decode, decode_own, encode
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.core.dispatcher import ChannelTrouble, Dispatcher
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.core.subscription import Callback, Received, Subscription
from heron_mqtt.messaging.tap import MessageTap

DELIVERED = Delivery()


class InMemoryBroker(MessageBroker):
    """Delivers inside this process; usable from any thread and event loop.

    ``publish`` encodes the message and delivers it before it returns: plain callbacks of the same loop
    have run, others are scheduled. Unlike an MQTT broker it keeps the last few messages of a channel
    for ``consume`` even before the first subscription.
    """

    features: ClassVar[Features] = Features(wildcards=True, retain=True)

    def __init__(self) -> None:
        self._dispatcher = Dispatcher(keeps_all=True)
        self._retained: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._closed = False

    @property
    def stats(self) -> MessageStats:
        """Counters and reports of this broker."""
        return self._dispatcher.stats

    def observe(self, tap: MessageTap | None) -> None:
        """Tell ``tap`` of every message from now on; see ``MessageBroker.observe``."""
        self._dispatcher.tap = tap

    def trouble(self, channel: str) -> ChannelTrouble:
        """Return how many messages of one channel came twice or never."""
        return self._dispatcher.trouble(channel)

    def publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        *,
        retain: bool = False,
        not_after: float | None = None,
    ) -> Delivery:
        """Deliver a JSON object to everyone who wants it; see ``MessageBroker.publish``.

        An empty object published with ``retain`` deletes what was retained, and is delivered too.
        """
        topics.check_channel(channel)
        payload = encode(message)
        dispatcher = self._dispatcher
        if not_after is not None and (expired := self._expired(channel, not_after)) is not None:
            return expired
        lock = self._lock
        lock.acquire()  # for each message: see ``Dispatcher.hand_on``
        try:
            if self._closed:
                raise BrokerClosed("the InMemoryBroker is closed; nothing more can be published")
            if retain:
                if message:
                    self._retained[channel] = payload
                else:
                    self._retained.pop(channel, None)
            dispatcher.stats.published += 1
            if dispatcher.tap is not None:
                dispatcher.tap.published(channel, message, payload, retain)
            try:
                told = decode_own(payload, message)
            except MessageError as exc:  # too deep, or an integer too long to be read
                dispatcher.refuse(channel, exc)
            else:
                dispatcher.hand_on(channel, told, payload=payload)
        finally:
            lock.release()
        return DELIVERED

    def _expired(self, channel: str, not_after: float) -> Delivery | None:
        loop = running_loop()
        if (time.monotonic() if loop is None else loop.time()) <= not_after:
            return None
        what = "its time had passed when it was published"
        self.stats.published += 1
        self.stats.expired += 1
        self.stats.report("expired", channel, f"not sent: {what}")
        return Delivery.failed(MessageExpired(f"{channel}: not sent: {what}"))

    async def consume(self, channel: str) -> Json:
        """Return the oldest message not consumed yet, or wait for one; see ``MessageBroker.consume``."""
        if self._closed:
            raise BrokerClosed("the InMemoryBroker is closed; nothing more will arrive")
        return await self._dispatcher.take(channel)

    def subscribe(self, channel: str, callback: Callback) -> Subscription:
        """Call ``callback`` for every message under a channel or filter; see ``MessageBroker.subscribe``."""
        if self._closed:
            raise BrokerClosed("the InMemoryBroker is closed; nothing more will arrive")
        with self._lock:
            subscription = self._dispatcher.add(channel, callback)
            for name, payload in tuple(self._retained.items()):  # a callback may publish one, too
                if topics.matches(channel, name):
                    subscription.deliver(Received(decode(payload), name, retained=True), running_loop())
        return subscription

    async def close(self) -> None:
        """End every subscription and consumer. Idempotent."""
        self._closed = True
        self._dispatcher.clear()
