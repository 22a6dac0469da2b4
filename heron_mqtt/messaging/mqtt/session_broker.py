"""SessionBroker: what brokers share that keep a lasting link to a server, with any protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from heron_mqtt.errors import BrokerUnavailable
from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES
from heron_mqtt.messaging.core.dispatcher import Dispatcher
from heron_mqtt.messaging.core.subscription import MAX_CHANNELS, Callback, Subscription
from heron_mqtt.messaging.loop_bound import LoopBoundBroker
from heron_mqtt.messaging.mqtt.kept_session import KeptSession
from heron_mqtt.messaging.mqtt.options import MqttOptions, is_loopback
from heron_mqtt.messaging.mqtt.outbox_reports import OutboxReports
from heron_mqtt.messaging.mqtt.session import CLOSE_S, MqttSession
from heron_mqtt.messaging.outbox import Outbox
from heron_mqtt.messaging.tap import MessageTap
from heron_mqtt.messaging.topics import (
    ALWAYS_DELIVERED,
    ESTOP,
    TopicMap,
    away_of,
    check_channel,
    is_storable,
    while_away,
)
from heron_mqtt.messaging.urls import host_key

FIRST_GIVEN_PORT = 32_768
"""From here on systems give ports to who asks for any: a server that does has another one at each start."""


class SessionBroker(LoopBoundBroker):
    """Publishes and subscribes over a session; a subclass makes ``_session`` and says what ``publish`` takes.

    Args:
        name: The broker, for messages.
        options: Where it is and how to log in.
        topics: Where channels live.
    """

    _session: MqttSession

    def __init__(self, name: str, options: MqttOptions, topics: TopicMap) -> None:
        self.options = options
        self.topic_map = topics
        self._topics: dict[str, str] = {}  # channels published on, checked
        self._on_reconnect: list[Callable[[], None]] = []
        self.outbox: Outbox | None = None
        """What waits to be sent, also over a restart; None = there is none."""
        self._outbox_reports: OutboxReports | None = None
        self._kept: KeptSession | None = None
        """Brings what may come late, also what came while we were away; None = there is none."""
        super().__init__(name, Dispatcher(on_removed=self._on_removed))

    def __repr__(self) -> str:
        state = "closed" if self._owner_loop.closed else "connected" if self.connected else "not connected"
        return f"<{type(self).__name__} {self.options.address} as {self.options.client_id}, {state}>"

    def observe(self, tap: MessageTap | None) -> None:
        """Tell ``tap`` of every message from now on; see ``MessageBroker.observe``."""
        self._dispatcher.tap = tap

    @property
    def site(self) -> str:
        """See ``MessageBroker.site``; the same for every spelling of its hosts."""
        sites = {_site(host_key(host), port) for host, port in self.options.hosts}
        return ",".join(sorted(sites - {""}))

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker now."""
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
                for session in self._links():
                    await self._owner_loop.run(session.wait_connected())
        except TimeoutError:
            raise BrokerUnavailable(
                f"no connection to {self.options.address} within {timeout_s:g} s: is the broker running?"
            ) from None

    def _begin(self) -> object:
        if self.outbox is not None:
            self.outbox.open()
        return [session.start() for session in self._links()]

    async def _open(self) -> None:
        if self.outbox is not None:
            self.outbox.open()
        for session in self._links():
            await session.started()

    async def _abort_open(self) -> None:
        for session in self._links():
            await session.abort()
        if self.outbox is not None:
            await self.outbox.close()

    async def _abandon(self, *_: object) -> None:
        self._end_reports()
        for session in self._sessions():
            session.retired = True
            session.drop()
        if self.outbox is not None:
            self.outbox.close_now()
        self._dispatcher.clear()

    async def _shut(self, *exc: object) -> None:
        """Wait up to a second for outstanding messages, then disconnect.

        When left by an exception: without DISCONNECT, so that wills are sent.
        """
        sessions = self._sessions()
        for session in sessions:
            session.retired = True
        if self._kept is not None:
            self._kept.end()
        if exc[0] is None:
            loop = asyncio.get_running_loop()
            end = loop.time() + CLOSE_S
            await self._say_goodbye()
            for session in self._links():
                await session.close(max(0.0, end - loop.time()))
        self._end_reports()
        for session in sessions:
            await session.abort()
        if self.outbox is not None:
            await self.outbox.close()
        self._dispatcher.clear()

    def _end_reports(self) -> None:
        if self._outbox_reports is not None:
            self._outbox_reports.end()

    def _links(self) -> list[MqttSession]:
        """Return the sessions that connect with this broker."""
        return [self._session] if self._kept is None else [self._session, self._kept.session]

    def _sessions(self) -> list[MqttSession]:
        """Return every session to be ended with this broker."""
        return self._links()

    async def _say_goodbye(self) -> None:
        """Publish what is to be said before the session ends."""

    # -- messages ----------------------------------------------------------------------------------

    def _publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes,
        qos: int,
        retain: bool,
        not_after: float | None,
    ) -> Delivery:
        """Tell the tap, and hand the message to the session in the home loop."""
        topic = self._topics.get(channel) or self._topic(channel)
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, message, payload, retain)
        away = while_away(channel, message) if channel == ESTOP else away_of(channel)
        stop = channel == ESTOP and away == "stored"
        session, owner_loop = self._session, self._owner_loop
        if session.connected and owner_loop.is_current():
            return Delivery(session.publish(topic, payload, qos, retain, not_after, away, stop))
        return owner_loop.begin(
            owner_loop.acquire(),
            session.publish,
            topic,
            payload,
            qos,
            retain,
            not_after,
            away,
            stop,
        )

    def topic_of(self, channel: str) -> str:
        """Return the topic of a channel as others at this broker see it."""
        return self.options.topic_prefix + self.topic_map.topic(channel)

    def keeps(self, channel: str) -> bool:
        """Whether there is an outbox, and it takes what is published on a channel."""
        return self.outbox is not None and away_of(channel) == "stored"

    def subscribe(self, channel: str, callback: Callback) -> Subscription:
        """Call ``callback`` for every message under a channel or filter; see ``MessageBroker.subscribe``.

        Awaiting the subscription raises ``BrokerRefused`` if it is not granted.
        """
        home_loop = self._owner_loop.acquire()
        subscription = self._dispatcher.add(channel, callback)
        subscription.set_ready(self._hold(home_loop, channel))
        return subscription

    # -- called by the session, in the home loop -----------------------------------------------------

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Hand an arriving message over; whatever goes wrong with it stops nothing else."""
        if self._kept is None or retained or not self._kept.brings(topic):
            self._arrive(topic, payload, retained)

    def on_kept_message(self, topic: str, payload: bytes, retained: bool, late: bool) -> None:
        """Do the same with a message of the kept session; ``late``: it may have waited at the broker."""
        self._arrive(topic, payload, retained, late)

    def is_read(self, topic: str) -> bool:
        """Whether there is a subscription here to a topic."""
        channel = self.topic_map.channel(topic)
        return channel is not None and self._dispatcher.is_read(channel)

    def _arrive(self, topic: str, payload: bytes, retained: bool, late: bool = False) -> None:
        channel = self.topic_map.channel(topic)
        if channel is None:
            self.stats.reject(topic, f"not a topic of environment {self.topic_map.env_id!r}")
            return
        try:
            # MQTT deletes a retained message by an empty payload: our empty object
            self._dispatcher.arrive(channel, payload or b"{}", retained=retained, topic=topic, late=late)
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
        """Tell those who asked that a lost connection is back."""
        if again:
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

    def _is_kept(self, channel: str) -> bool:
        """Whether a channel or filter is the kept session's."""
        return self._kept is not None and is_storable(channel)

    def _wanted_filters(self) -> set[str]:
        return self._filters_of(c for c in self._dispatcher.wanted() if not self._is_kept(c))

    def _kept_filters(self) -> set[str]:
        return self._filters_of(c for c in self._dispatcher.wanted() if self._is_kept(c))

    def _filters_of(self, channels: Iterable[str]) -> set[str]:
        return {f for channel in channels for f in self.topic_map.filters(channel)}

    def _hold(self, home_loop: asyncio.AbstractEventLoop, channel: str) -> Delivery:
        subscribe = self._session.subscribe
        if self._kept is not None and self._is_kept(channel):
            subscribe = self._kept.subscribe
        return self._owner_loop.begin(home_loop, subscribe, self.topic_map.filters(channel))

    def _on_removed(self, channel: str) -> None:
        if self._owner_loop.loop is not None and not self._owner_loop.closed:
            self._owner_loop.call(self._release, channel)

    def _release(self, channel: str) -> None:
        if self._dispatcher.wants(channel):
            return
        filters = self.topic_map.filters(channel)
        is_kept = self._kept is not None and self._is_kept(channel)
        if self.topic_map.overridden:  # another filter may need the same topic
            wanted = self._kept_filters() if is_kept else self._wanted_filters()
            filters = tuple(f for f in filters if f not in wanted)
        session = self._kept.session if self._kept is not None and is_kept else self._session
        for topic_filter in filters:
            session.unsubscribe(topic_filter)


def _site(host: str, port: int) -> str:
    """Return what tells a server from those of other sites, as far as it is the same at its next start."""
    if port < FIRST_GIVEN_PORT:
        return f"{host}:{port}"
    return "" if is_loopback(host) else host
