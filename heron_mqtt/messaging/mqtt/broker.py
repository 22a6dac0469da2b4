"""MqttBroker: MQTT 3.1.1 and 5, over TCP or TLS.

Loops and threads: a broker lives in one event loop, its *home loop*. Connected explicitly (``await
broker.connect()`` or ``async with``) that is the running loop, the fast way: no thread hop. Used without
connecting, from synchronous or asynchronous code, it connects by itself in the process's background
loop. It may then be used from any thread and loop; calls are handed to the home loop. The home loop must
be able to watch sockets, as every loop on Linux and macOS is (on Windows: a selector event loop).

While disconnected: ``publish`` queues (bounded; the oldest is dropped, its delivery fails with
``BrokerOverflow``), subscriptions are restored, reconnecting goes on with growing, jittered delays until
``close``. Only the very first connection may fail: then everything that waits raises the same error, and
the next use tries again.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from heron_mqtt.errors import BrokerUnavailable, ConfigError
from heron_mqtt.messaging.base import Announcement, Delivery, Features
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES, encode
from heron_mqtt.messaging.core.dispatcher import Dispatcher
from heron_mqtt.messaging.core.subscription import MAX_CHANNELS, Callback, Subscription
from heron_mqtt.messaging.loop_bound import LoopBoundBroker
from heron_mqtt.messaging.mqtt.announcements import Presences
from heron_mqtt.messaging.mqtt.options import LastWill, read_options
from heron_mqtt.messaging.mqtt.session import CLOSE_S, MqttSession
from heron_mqtt.messaging.tap import MessageTap
from heron_mqtt.messaging.topics import ALWAYS_DELIVERED, TopicMap, check_channel


class MqttBroker(LoopBoundBroker):
    """Publishes and subscribes at an MQTT broker.

    Args:
        url: ``mqtt://[user:password@]host[:port]``, or ``mqtts://`` for TLS.
        env_id: The environment; its topics are ``heron/<env_id>/...``.
        client_id: MQTT client id, unique at the broker; made at random if left out.
        username, password: Win over the URL; the URL wins over the environment variables
            ``HERON_MQTT_USERNAME`` and ``HERON_MQTT_PASSWORD``.
        keepalive_s: A broker that is silent for up to twice as long is given up; it gives us up after 1.5.
        protocol: ``"3.1.1"`` or ``"5"``.
        ca: PEM file of the authority that signed the broker's certificate; the system's if left out.
        cert, key: PEM files of a client certificate, unencrypted.
        connect_timeout_s: Bound of one attempt to connect, name resolution to MQTT answer.
        patience_s: How long the first connection is tried for while nobody answers; 0 = once. Refusals
            (credentials, rights) are final at once.
        max_pending: Messages that may wait to be sent.
        topics: Where channels live, if not simply below ``heron/<env_id>/``.
        will: Channel and message that the broker publishes (retained) if this connection dies.
        rng: Jitters the delays of reconnecting.

    Raises:
        ConfigError: A URL, file or value is wrong.
    """

    features: ClassVar[Features] = Features(wildcards=True, retain=True, will=True, external=True)

    def __init__(
        self,
        url: str,
        *,
        env_id: str = "default",
        client_id: str | None = None,
        username: str | None = None,
        password: str | None = None,
        keepalive_s: int = 15,
        protocol: str = "3.1.1",
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        connect_timeout_s: float = 5.0,
        patience_s: float = 0.0,
        max_pending: int = 20_000,
        topics: TopicMap | None = None,
        will: tuple[str, Mapping[str, Any]] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if max_pending < 1:
            raise ConfigError(f"MqttBroker: max_pending {max_pending!r}: expected at least 1")
        self.options = read_options(
            url,
            client_id=f"heron-{secrets.token_hex(6)}" if client_id is None else client_id,
            username=username,
            password=password,
            ca=ca,
            cert=cert,
            key=key,
            protocol=protocol,
            keepalive_s=keepalive_s,
            connect_timeout_s=connect_timeout_s,
        )
        self.topic_map = topics or TopicMap(env_id)
        self._topics: dict[str, str] = {}  # channels published on, checked
        rng = rng or random.Random()  # noqa: S311 - spreads reconnections, nothing secret
        super().__init__(f"the MqttBroker of {self.options.address}", Dispatcher(on_removed=self._on_removed))
        self._session = MqttSession(
            self.options,
            self,
            self.stats,
            will=LastWill(self._topic(will[0]), encode(will[1])) if will else None,
            wanted=self._wanted_filters,
            rng=rng,
            max_pending=max_pending,
            patience_s=patience_s,
        )
        self._on_reconnect: list[Callable[[], None]] = []
        will_channel = will[0] if will else None
        self._presences = Presences(
            self, self.options, self._owner_loop, self._session, will_channel, rng, self.tell_presence
        )

    def __repr__(self) -> str:
        state = "closed" if self._owner_loop.closed else "connected" if self.connected else "not connected"
        return f"<MqttBroker {self.options.address} as {self.options.client_id}, {state}>"

    def observe(self, tap: MessageTap | None) -> None:
        """Tell ``tap`` of every message from now on; see ``MessageBroker.observe``."""
        self._dispatcher.tap = tap

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the MQTT broker now."""
        return self._session.connected

    # -- connection --------------------------------------------------------------------------------

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Wait until there is a connection (again).

        Raises:
            BrokerUnavailable: There is none within ``timeout_s``.
        """
        self._owner_loop.acquire()
        try:
            async with asyncio.timeout(timeout_s):
                await self._owner_loop.run(self._session.wait_connected())
        except TimeoutError:
            raise BrokerUnavailable(
                f"no connection to {self.options.address} within {timeout_s:g} s: is the MQTT broker running?"
            ) from None

    def _begin(self) -> object:
        return self._session.start()

    async def _open(self) -> None:
        await self._session.started()

    async def _abort_open(self) -> None:
        await self._session.abort()

    async def _abandon(self, *_: object) -> None:
        for session in self._sessions():
            session.retired = True
            session.drop()
        self._dispatcher.clear()

    async def _shut(self, *exc: object) -> None:
        """Wait up to a second for outstanding messages, withdraw announcements, disconnect.

        When left by an exception: without goodbye, so that the wills are sent.
        """
        sessions = self._sessions()
        for session in sessions:
            session.retired = True
        if exc[0] is None:
            loop = asyncio.get_running_loop()
            end = loop.time() + CLOSE_S
            await self._presences.leave()
            await self._session.close(max(0.0, end - loop.time()))
        for session in sessions:
            await session.abort()
        self._dispatcher.clear()

    def _sessions(self) -> list[MqttSession]:
        return [self._session, *self._presences.own_sessions()]

    # -- messages ----------------------------------------------------------------------------------

    def publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        *,
        qos: int = 1,
        retain: bool = False,
        not_after: float | None = None,
    ) -> Delivery:
        """Publish a JSON object; see ``MessageBroker.publish``.

        Args:
            channel: No wildcards.
            message: A JSON object; an empty one with ``retain`` deletes what was retained.
            qos: 0: at most once, done when it is handed to the connection; 1: at least once; 2: once.
            retain: Keep it for late subscribers.
            not_after: The latest time to send it, by the clock of the home loop; see
                ``MessageBroker.publish``. What the operating system has taken is beyond recall.

        Returns:
            Done when the MQTT broker has acknowledged it. Awaiting it may raise ``BrokerOverflow``,
            ``MessageExpired``, ``BrokerRefused``, ``BrokerUnavailable`` (never connected) or
            ``BrokerClosed``.
        """
        topic = self._topics.get(channel) or self._topic(channel)
        if qos not in {0, 1, 2}:
            raise ValueError(f"qos must be 0, 1 or 2, got {qos!r}")
        payload = encode(message) if message or not retain else b""
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, message, payload, retain)
        if self.connected and self._owner_loop.is_current():
            return Delivery(self._session.publish(topic, payload, qos, retain, not_after))
        return self._owner_loop.begin(
            self._owner_loop.acquire(), self._session.publish, topic, payload, qos, retain, not_after
        )

    def subscribe(self, channel: str, callback: Callback) -> Subscription:
        """Call ``callback`` for every message under a channel or filter; see ``MessageBroker.subscribe``.

        Awaiting the subscription raises ``BrokerRefused`` if the MQTT broker does not grant it.
        """
        home_loop = self._owner_loop.acquire()
        subscription = self._dispatcher.add(channel, callback)
        subscription.set_ready(self._hold(home_loop, channel))
        return subscription

    async def announce(
        self, channel: str, online: Mapping[str, Any], offline: Mapping[str, Any]
    ) -> Announcement:
        """Publish ``online``, retained, with ``offline`` as the will; see ``MessageBroker.announce``.

        An MQTT connection carries one will. Unless this broker's own is on ``channel``, the
        announcement gets a small connection of its own.
        """
        topic = self._topic(channel)
        self._owner_loop.acquire()
        return await self._owner_loop.run(self._presences.announce(channel, topic, online, offline))

    def tell_presence(self, channel: str, message: Mapping[str, Any], payload: bytes) -> None:
        """Tell the tap of a presence, which goes over a connection of its own."""
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, message, payload, True)

    # -- called by the session, in the home loop -----------------------------------------------------

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Hand an arriving message over; whatever goes wrong with it stops nothing else."""
        channel = self.topic_map.channel(topic)
        if channel is None:
            self.stats.reject(topic, f"not a topic of environment {self.topic_map.env_id!r}")
            return
        try:
            # MQTT deletes a retained message by an empty payload: our empty object
            self._dispatcher.arrive(channel, payload or b"{}", retained=retained, topic=topic)
        except Exception as exc:
            self.stats.report("callback", topic, f"handling it failed: {exc}", exc=exc)

    def on_bad_topic(self, topic: str) -> None:
        """Count a message whose topic is not UTF-8."""
        self.stats.reject(topic, "the topic is not UTF-8")

    def on_oversized(self, topic: str, size: int) -> None:
        """Count a message that was skipped because of its size; where everything counts, say it came."""
        why = f"a message of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}"
        self.stats.reject(topic, why)
        channel = self.topic_map.channel(topic)
        if channel in ALWAYS_DELIVERED:
            self._dispatcher.arrive_malformed(channel, why)

    def on_connected(self, again: bool) -> None:
        """Say again that we are here: meanwhile the broker may have published the will."""
        if again:
            self._presences.repeat()
            for callback in tuple(self._on_reconnect):
                callback()

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` in the owner's loop after each reconnection; see the base class."""
        self._on_reconnect.append(callback)

        def forget() -> None:
            if callback in self._on_reconnect:
                self._on_reconnect.remove(callback)

        return forget

    # -- topics ------------------------------------------------------------------------------------

    def _topic(self, channel: str) -> str:
        topic = self.topic_map.topic(check_channel(channel))
        if len(self._topics) >= MAX_CHANNELS:
            self._topics.clear()
        self._topics[channel] = topic
        return topic

    def _wanted_filters(self) -> set[str]:
        return {f for channel in self._dispatcher.wanted() for f in self.topic_map.filters(channel)}

    def _hold(self, home_loop: asyncio.AbstractEventLoop, channel: str) -> Delivery:
        return self._owner_loop.begin(home_loop, self._session.subscribe, self.topic_map.filters(channel))

    def _on_removed(self, channel: str) -> None:
        if self._owner_loop.loop is not None and not self._owner_loop.closed:
            self._owner_loop.call(self._release, channel)

    def _release(self, channel: str) -> None:
        if self._dispatcher.wants(channel):
            return
        filters = self.topic_map.filters(channel)
        if self.topic_map.overridden:  # another filter may need the same topic
            wanted = self._wanted_filters()
            filters = tuple(f for f in filters if f not in wanted)
        for topic_filter in filters:
            self._session.unsubscribe(topic_filter)
