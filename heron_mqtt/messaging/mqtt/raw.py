"""RawMqtt: MQTT as it is, for topics and payloads that are not ours (vendors' devices).

A connection of its own, in one event loop: that of ``connect``. Everything else is as with ``MqttBroker``:
bounded queues, reconnection with jittered delays, subscriptions held across it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.session import PATIENCE_S, MqttSession
from heron_mqtt.messaging.topics import is_filter, matches

RawCallback = Callable[[str, bytes, bool], None]
"""Called with topic, payload and whether the broker had kept it; in the loop of the connection."""

MAX_PENDING = 1_000


class RawMqtt:
    """Publishes bytes and subscribes to topics as they are.

    Args:
        options: Of the connection, as of a ``MqttBroker``; the client id gets a suffix of its own.
        stats: Where to count and report.
        rng: Jitters the delays of reconnecting.
        will: What the broker publishes, retained, if the connection dies; None = nothing.
        keep_client_id: Connect with the client id as it is, where a broker knows its clients by name.
        ours: The topics are ours after all, and have the prefix that ours have at this broker.
        patience_s: How long the first connection is tried without an answer; 0 = once. With 0, a wrong
            address is reported at once and only once, if no other connection was made before.
    """

    def __init__(
        self,
        options: MqttOptions,
        stats: MessageStats,
        rng: random.Random | None = None,
        *,
        will: LastWill | None = None,
        keep_client_id: bool = False,
        ours: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if not ours:
            options = replace(options, topic_prefix="")
        if not keep_client_id:
            options = replace(options, client_id=f"{options.client_id}-raw-{secrets.token_hex(2)}")
        self.stats = stats
        self._callbacks: dict[str, list[RawCallback]] = {}
        self._on_return: list[Callable[[], None]] = []
        self._session = MqttSession(
            options,
            self,
            stats,
            will=will,
            wanted=lambda: tuple(self._callbacks),
            rng=rng or random.Random(),  # noqa: S311 - spreads reconnections, nothing secret
            max_pending=MAX_PENDING,
            patience_s=patience_s,
        )

    async def connect(self) -> None:
        """Connect in the running loop.

        Raises:
            BrokerUnavailable, BrokerRefused: As ``MqttBroker.connect``.
        """
        try:
            await asyncio.shield(self._session.start())
        except BaseException:
            await self._session.abort()
            raise

    async def close(self) -> None:
        """Send what waits, and disconnect."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        """Connect."""
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def publish_raw(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        not_after: float | None = None,
    ) -> asyncio.Future[None]:
        """Publish bytes; what is returned is done when the broker has taken them, and may be ignored.

        Args:
            topic: As it is.
            payload: As it is.
            qos: 0, 1 or 2.
            retain: Keep it for late subscribers.
            not_after: See ``MessageBroker.publish``.
        """
        return self._session.publish(topic, payload, qos, retain, not_after, counted=False)

    def subscribe_raw(self, topic: str, callback: RawCallback) -> Callable[[], None]:
        """Call back for every message on a topic or filter; returns the unsubscribe."""
        held = self._callbacks.setdefault(topic, [])
        held.append(callback)
        self._session.subscribe((topic,))

        def unsubscribe() -> None:
            if callback in held:
                held.remove(callback)
            if not held and self._callbacks.get(topic) is held:
                del self._callbacks[topic]
                self._session.unsubscribe(topic)

        return unsubscribe

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnection; returns what ends that."""
        self._on_return.append(callback)

        def forget() -> None:
            if callback in self._on_return:
                self._on_return.remove(callback)

        return forget

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._session.connected

    # -- called by the link ------------------------------------------------------------------------

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Hand a message to its subscribers; an error in one stops nothing else."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            self.stats.reject(
                topic, f"payload of {len(payload)} bytes is over the limit of {MAX_PAYLOAD_BYTES}"
            )
            return
        found = list(self._callbacks.get(topic, ()))
        for held, callbacks in self._callbacks.items():
            if held != topic and is_filter(held) and matches(held, topic):
                found += [callback for callback in callbacks if callback not in found]
        for callback in found:
            try:
                callback(topic, payload, retained)
            except Exception as exc:
                self.stats.callback_errors += 1
                self.stats.report("callback", topic, f"{type(exc).__name__}: {exc}", exc=exc)

    def on_bad_topic(self, topic: str) -> None:
        """Count a message whose topic is not UTF-8."""
        self.stats.reject(topic, "the topic is not UTF-8")

    def on_oversized(self, topic: str, size: int) -> None:
        """Count a message that was skipped because of its size."""
        self.stats.reject(topic, f"a message of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}")

    def on_connected(self, again: bool) -> None:
        """Tell those who have something to say again."""
        for callback in tuple(self._on_return) if again else ():
            callback()
