"""ImpairedBroker: any broker, behind a network that delays, loses, copies, reorders and cuts off.

Messages that this process publishes cross the network on their way to the broker; messages that it receives
cross it on their way from the broker. Each crossing follows the first rule that matches the channel. A
message between two agents of one process that share this broker crosses it twice, as between two sites with
a link each.

- What happens to the n-th message of a channel and direction depends on (seed, channel, direction, n) alone.
- Order is kept within a channel and direction unless the rule reorders: see ``network.py``.
- A lost ``publish`` succeeds like a delivered one: its sender cannot know. A delayed one succeeds when the
  broker has accepted it. Of copies only the first counts.
- A message that did not arrive leaves a gap: ``stats.lost`` counts it. Copies are removed as always.
- ``not_after`` limits the time to leave, not the time on the wire: a message that left in time and is
  delayed arrives late, as on a real network. A message that a partition holds back waits at this end, and
  fails with ``MessageExpired`` when its time has passed.
- Retained messages that arrive after a subscribe cross the network, too, each with its own loss and delay.
- The messages of a presence (``announce``) are repeated until they arrive. They are delayed and stay in
  order, but are never lost, copied or cut off. The will belongs to the inner broker and is not delayed.
- At most ``max_in_flight`` messages are in transit. Beyond that the oldest is dropped, counted and reported;
  if it was published here, its delivery fails with ``BrokerOverflow``.
- ``close`` delivers at once the published messages that are in transit. Messages that wait for the end of a
  partition fail with ``BrokerClosed``; incoming messages are dropped. It closes the inner broker, too.

Loops and threads are those of ``MqttBroker``. It runs in the loop that connected it, otherwise in the
process's background loop. Any thread and loop may use it. Connect it, not the broker inside.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from heron_mqtt.errors import BrokerError, MessageExpired, UnsupportedFeature
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, Delivery, Features, MessageBroker
from heron_mqtt.messaging.codec import Json, decode, encode
from heron_mqtt.messaging.core.dispatcher import Dispatcher
from heron_mqtt.messaging.core.subscription import Callback, Received, Subscription
from heron_mqtt.messaging.impaired.announcements import ImpairedAnnouncement
from heron_mqtt.messaging.impaired.channel_queue import Timers
from heron_mqtt.messaging.impaired.event_log import ImpairmentLog
from heron_mqtt.messaging.impaired.in_flight import IncomingMessage, OutgoingMessage, PresenceTurn
from heron_mqtt.messaging.impaired.network import Network
from heron_mqtt.messaging.impaired.stats import ImpairedStats
from heron_mqtt.messaging.impaired.subscriptions import InnerSubscriptions
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.loop_bound import LoopBoundBroker
from heron_mqtt.messaging.tap import MessageTap


class ImpairedBroker(LoopBoundBroker):
    """Wraps a broker; see the module.

    Args:
        inner: Carries the messages that are not lost. It is connected and closed with this one.
        network: Impairments of the network.
        seed: Of all random numbers, unless ``network.seed`` is given.
        timers: Clock and timers; None = the event loop. Handed in by tests.
        max_events: How many of the last events ``record`` keeps.
    """

    def __init__(
        self,
        inner: MessageBroker,
        network: ImpairmentTable,
        *,
        seed: int = 0,
        timers: Timers | None = None,
        max_events: int = 10_000,
    ) -> None:
        self.inner = inner
        self.impairment = network
        self.record = ImpairmentLog(max_events)
        """What was done to which message, and the counters a channel."""
        self._timers = timers
        super().__init__(
            f"the ImpairedBroker around {type(inner).__name__}",
            Dispatcher(stats=ImpairedStats(inner.stats), on_ended=self._on_ended),
        )
        self._network = Network(network, seed, self.record, self._on_overflow)
        self._inner_subscriptions = InnerSubscriptions(inner, self._dispatcher, self._on_arrival)
        self._accepted = inspect.signature(inner.publish).parameters
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ImpairedBroker {self.impairment.name or 'network'} around {self.inner!r}>"

    @property
    def features(self) -> Features:  # type: ignore[override] # they are the inner broker's
        """What the inner broker can carry."""
        return self.inner.features

    @property
    def site(self) -> str:
        """See ``MessageBroker.site``."""
        return self.inner.site

    def observe(self, tap: MessageTap | None) -> None:
        """Tell ``tap`` of every message, and of what the network does to it, as seen from this side."""
        self._dispatcher.tap = self._network.tap = tap

    @property
    def in_flight(self) -> int:
        """Messages on their way."""
        return len(self._network.in_flight)

    def tell_step(self, step: int | None) -> None:
        """Say which step is under way, where ``run/state`` does not pass here, for messages without one."""
        self._owner_loop.call(setattr, self._network, "step", step)

    # -- connection --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._network.start(self._timers or asyncio.get_running_loop())

    async def _open(self) -> None:
        await self.inner.connect()

    async def _abort_open(self) -> None:
        """Nothing is left: the inner broker has cleaned up."""

    async def _abandon(self, *exc: object) -> None:
        self._network.close(deliver=False)
        self._dispatcher.clear()
        await self.inner.__aexit__(*exc)

    async def _shut(self, *exc: object) -> None:
        """Empty the network and close the inner broker, which hears of an exception."""
        self._network.close(deliver=True)
        self._dispatcher.clear()
        self._inner_subscriptions.close()
        await self.inner.__aexit__(*exc)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    # -- out ---------------------------------------------------------------------------------------

    def publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        *,
        retain: bool = False,
        not_after: float | None = None,
        **options: Any,
    ) -> Awaitable[None]:
        """Send a JSON object through the network to the broker; see ``MessageBroker.publish``.

        Args:
            channel: No wildcards.
            message: A JSON object.
            retain: Keep it for late subscribers.
            not_after: The latest time to send it; see the module.
            options: What the inner broker's ``publish`` takes beside (``qos``).
        """
        topics.check_channel(channel)
        plain = decode(encode(message))  # a copy: what the caller does to it later must not matter
        if retain:
            options["retain"] = True
        self._check_options(options if not_after is None else {**options, "not_after": not_after})
        home_loop = self._owner_loop.acquire()
        self.stats.published += 1
        if self._owner_loop.is_current():
            self._begin()
            return self._send(channel, plain, not_after, options)
        return self._from_elsewhere(
            home_loop, channel, lambda: _wait_for(self._send(channel, plain, not_after, options))
        )

    def _send(
        self, channel: str, message: Json, not_after: float | None, options: dict[str, Any]
    ) -> Awaitable[None]:
        left_s = None if not_after is None else not_after - self._network.now_s()
        if left_s is not None and left_s < 0.0:
            expired = MessageExpired(f"{channel}: not sent: its time had passed when it was published")
            self._expired(channel, expired)
            return Delivery.failed(expired)

        def publish() -> Awaitable[None]:
            if left_s is None:
                return self.inner.publish(channel, message, **options)
            # the time on the wire is not the inner broker's: there it may wait as long as here
            limit = asyncio.get_running_loop().time() + left_s
            return self.inner.publish(channel, message, not_after=limit, **options)

        outgoing = OutgoingMessage(
            publish, partial(self._failed, channel), self._tasks, self._on_vanished(channel)
        )
        self._network.send("out", channel, message, outgoing, not_after=not_after)
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, message, None, bool(options.get("retain")))
        return outgoing.delivery()

    def _on_vanished(self, channel: str) -> Callable[[BrokerError], None]:
        def vanished(error: BrokerError) -> None:
            if isinstance(error, MessageExpired):
                self._expired(channel, error)

        return vanished

    def _expired(self, channel: str, error: MessageExpired) -> None:
        self.stats.expired += 1
        self.stats.report("expired", channel, str(error))

    def _check_options(self, options: Mapping[str, Any]) -> None:
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._accepted.values()):
            return
        for name in options.keys() - self._accepted.keys():
            raise UnsupportedFeature(
                f"{type(self.inner).__name__}.publish takes no {name!r}: this broker cannot carry it"
            )

    @property
    def connected(self) -> bool:
        """Whether the inner broker has a connection now."""
        return self.inner.connected

    def topic_of(self, channel: str) -> str:
        """Return the name of a channel at the inner broker."""
        return self.inner.topic_of(channel)

    def keeps(self, channel: str) -> bool:
        """Whether the inner broker keeps what is published on a channel."""
        return self.inner.keeps(channel)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when the inner broker has reconnected."""
        return self.inner.on_reconnect(callback)

    async def announce(
        self, channel: str, online: Mapping[str, Any], offline: Mapping[str, Any]
    ) -> Announcement:
        """Let the inner broker announce, once ``online`` is through; see ``MessageBroker.announce``."""
        self._owner_loop.acquire()  # raises if closed
        await self._cross(channel, online)
        inner = await self._owner_loop.run(self.inner.announce(channel, online, offline))
        return ImpairedAnnouncement(self, inner, self._cross, channel, offline)

    async def _cross(self, channel: str, status: Mapping[str, Any]) -> None:
        topics.check_channel(channel)
        plain = decode(encode(status))
        if not self._owner_loop.closed:  # else there is no network any more, and the inner broker answers
            await self._owner_loop.run(self._cross_at_home(channel, plain))

    async def _cross_at_home(self, channel: str, status: Json) -> None:
        self._begin()
        self.stats.published += 1
        turn = PresenceTurn()
        self._network.send("out", channel, status, turn, sure=True)
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, status, None, True)
        await turn.passed()

    # -- in ----------------------------------------------------------------------------------------

    def subscribe(self, channel: str, callback: Callback) -> Subscription:
        """Call ``callback`` for what comes through the network; see ``MessageBroker.subscribe``."""
        home_loop = self._owner_loop.acquire()
        if topics.is_filter(channel) and not self.features.wildcards:
            raise UnsupportedFeature(
                f"{type(self.inner).__name__} cannot subscribe to the filter {channel!r}; "
                f"subscribe to each channel"
            )
        subscription = self._dispatcher.add(channel, callback)
        hold = partial(self._inner_subscriptions.hold, channel, subscription)
        if not self._owner_loop.is_current():
            subscription.set_ready(self._from_elsewhere(home_loop, channel, hold))
            return subscription
        self._begin()
        try:
            subscription.set_ready(hold())
        except BaseException:
            subscription()
            raise
        return subscription

    def _hold(self, home_loop: asyncio.AbstractEventLoop, channel: str) -> Delivery:
        return self._from_elsewhere(
            home_loop, channel, partial(self._inner_subscriptions.hold, channel, None)
        )

    def _on_ended(self, subscription: Subscription) -> None:
        self._owner_loop.call(self._inner_subscriptions.release, subscription)

    def _on_arrival(self, message: Received, subscription: Subscription | None) -> None:
        """Take a message from the inner broker; with ``subscription`` it is a retained one, for that."""
        channel = message.channel
        if not message.retained:
            item = IncomingMessage(partial(self._dispatcher.arrive_decoded, channel, message))
            self._network.send("in", channel, message, item)
            return
        if subscription is None:
            item = IncomingMessage(partial(self._dispatcher.arrive_decoded, channel, message, retained=True))
        else:
            item = IncomingMessage(partial(self._dispatcher.replay, subscription, message))
        self._network.send("retained", channel, message, item)

    # -- what went wrong ---------------------------------------------------------------------------

    def _from_elsewhere(
        self, home_loop: asyncio.AbstractEventLoop, channel: str, begin: Callable[[], Awaitable[None]]
    ) -> Delivery:
        """Begin something in the home loop; what it raises there is reported and awaits the caller."""

        def safely() -> asyncio.Future[None]:
            try:
                return asyncio.ensure_future(begin())
            except Exception as exc:
                self._failed(channel, exc)
                failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                failed.set_exception(exc)
                failed.exception()
                return failed

        return self._owner_loop.begin(home_loop, safely)

    def _failed(self, channel: str, exc: Exception) -> None:
        self.stats.undelivered += 1
        self.stats.report("delivery", channel, f"{type(exc).__name__}: {exc}", exc=exc)

    def _on_overflow(self, channel: str) -> None:
        self._dispatcher.overflow(
            channel, f"{self.impairment.max_in_flight} messages are on their way in the impaired network"
        )


async def _wait_for(sent: Awaitable[None]) -> None:
    await sent
