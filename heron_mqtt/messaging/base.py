"""MessageBroker: the interface of every broker, and what each of them promises.

- Per publisher, messages on a channel arrive in the order in which they were published.
- At least once at QoS 1; duplicates are removed and gaps counted by (sender, boot, channel, seq).
- Filters with ``+`` and ``#``; retained messages go to late subscribers. ``features`` shows whether a broker
  has these.
- ``publish`` returns a ``Delivery``. Awaited, it ends when the broker has the message. Ignored, a failure is
  logged, counted and reported.
- ``subscribe`` takes plain and async callables and returns its own unsubscribe.
- A failing callback is logged with its traceback, counted and reported, and stops nothing else.
- Queues are bounded; when one is full its oldest message is dropped, counted and reported.
- A payload that does not parse is counted and reported with its topic, and stops nothing else.
- ``close`` is idempotent and ends subscriptions, consumers and connections.

A subclass needs only ``publish`` and ``consume``, both async: the other methods use these two. What is not
possible with them raises ``UnsupportedFeature``.
"""

from __future__ import annotations

import abc
import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from heron_mqtt.errors import MessageError, UnsupportedFeature
from heron_mqtt.messages import M
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import Json
from heron_mqtt.messaging.core.delivery import Delivery
from heron_mqtt.messaging.core.dispatcher import ChannelTrouble
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.core.subscription import Callback, Received, Subscription
from heron_mqtt.messaging.core.two_method_adapter import adapter_of, awaited_or_ignored, beside_subscriptions
from heron_mqtt.messaging.tap import MessageTap

__all__ = ["Announcement", "Callback", "Delivery", "Features", "MessageBroker", "Received", "Subscription"]


@dataclass(frozen=True, slots=True)
class Features:
    """What a broker can carry beyond ``publish`` and ``consume``."""

    wildcards: bool = False
    retain: bool = False
    will: bool = False
    """The broker publishes our last will when this process dies."""
    external: bool = False
    """Other processes can connect."""


class MessageBroker(abc.ABC):
    """Carries JSON objects between agents, operators and devices; see the module's promises."""

    features: ClassVar[Features] = Features()

    @property
    def site(self) -> str:
        """Where the server is, for what is kept on this machine: its hosts, and their ports if these last.

        Empty = on this machine, at a port that it has for this start only; or there is none.
        """
        return ""

    @abc.abstractmethod
    def publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        *,
        retain: bool = False,
        not_after: float | None = None,
    ) -> Awaitable[None]:
        """Publish a JSON object on a channel.

        Args:
            channel: No wildcards; see ``heron_mqtt.messaging.topics``.
            message: A plain JSON object; no NaN, no infinity.
            retain: Keep it for late subscribers; only where ``features.retain``.
            not_after: The latest time to send it, by the event loop's clock (``loop.time()``, s). The
                message is then not queued without a connection, waits at most until this time, and is not
                sent again on another connection. Instead it is dropped and counted
                (``stats.expired``). For setpoints, and for all messages that must not arrive late.

        Returns:
            A delivery, which can be awaited or ignored. Awaiting it raises ``MessageExpired`` if the
            message was dropped because of ``not_after``.

        Raises:
            MessageError: Not JSON, or too large.
            ValueError: Not a channel.
            BrokerClosed: After ``close``.
        """

    @abc.abstractmethod
    async def consume(self, channel: str) -> Json:
        """Return the oldest message of a channel that was not consumed yet, or wait for one.

        A message goes to exactly one consumer, and also to every subscription. Messages are kept from the
        first ``subscribe`` or ``consume`` on the channel; earlier messages may be lost.
        """

    def subscribe(self, channel: str, callback: Callback) -> Subscription:
        """Call ``callback(message)`` for every message on a channel.

        The message is a dict with the attributes ``channel`` and ``retained``. The callback runs in the
        event loop in which this was called (else in the loop that delivers), in order of arrival.

        Returns:
            The subscription: call it to unsubscribe; await it until it is in force.

        Raises:
            UnsupportedFeature: A wildcard, on a broker without.
            ValueError: Not a channel or filter.
        """
        adapter = adapter_of(self)
        if topics.is_filter(channel):
            raise UnsupportedFeature(
                f"{type(self).__name__} defines only publish and consume and cannot subscribe to the filter "
                f"{channel!r}; subscribe to each channel, or override subscribe()"
            )
        subscription = adapter.dispatcher.add(channel, callback)
        adapter.start(channel)
        return subscription

    @property
    def stats(self) -> MessageStats:
        """Counters and reports of this broker."""
        return adapter_of(self).dispatcher.stats

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; always true for a broker whose connection cannot be lost."""
        return True

    def trouble(self, channel: str) -> ChannelTrouble:
        """Return how many messages of one channel arrived twice, or never."""
        return adapter_of(self).dispatcher.trouble(channel)

    def topic_of(self, channel: str) -> str:
        """Return the whole name of a channel at this broker, with environment and prefix; for messages.

        A broker without topics of its own returns the channel.
        """
        return channel

    def keeps(self, channel: str) -> bool:
        """Whether messages that are published while the broker is away are kept on disk and sent later.

        If so, messages about the past need no time limit.
        """
        return False

    def observe(self, tap: MessageTap | None) -> None:
        """Tell ``tap`` of every message from now on; None = no tap any more.

        A broker that defines only ``publish`` and ``consume`` tells of what it receives.
        """
        adapter_of(self).dispatcher.tap = tap

    def parsed(self, message: Received, model: type[M]) -> M | None:
        """Return a message as a model; None if it is not one, which is then counted and reported."""
        try:
            return message.parse(model)
        except MessageError as exc:
            self.reject(message, exc)
            return None

    def reject(self, message: Received, error: Exception) -> None:
        """Count and report a message that parsed as JSON but is not what its channel carries."""
        self.stats.reject(message.channel, str(error))

    async def connect(self) -> None:  # noqa: B027 - not abstract: most brokers have nothing to do
        """Get ready in the running event loop; brokers without a connection have nothing to do.

        Raises:
            BrokerUnavailable, BrokerRefused: Where there is a connection to make.
        """

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` each time a connection that was lost is back; return what ends that.

        Everything subscribed to is subscribed to again at that moment. Called in the loop that this
        broker lives in; brokers without a connection never call.
        """
        return lambda: None

    async def announce(
        self, channel: str, online: Mapping[str, Any], offline: Mapping[str, Any]
    ) -> Announcement:
        """Publish ``online`` (retained where possible) and see to it that ``offline`` follows.

        ``offline`` is published when the announcement is withdrawn and, where ``features.will``, also
        when this process dies or loses its connection.
        """
        return await Announcement.make(self, channel, online, offline)

    async def close(self) -> None:
        """End subscriptions, consumers and connections. Idempotent."""
        await adapter_of(self).close()

    async def __aenter__(self) -> Self:
        """Connect."""
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    # -- what makes a two-method subclass whole ------------------------------------------------------

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete a subclass that defines only ``publish`` and ``consume``; see ``core.two_method_adapter``.

        Its ``publish`` is a coroutine, which does nothing unless it is awaited; every caller here may ignore
        it. Its ``consume`` hands a message out once, and subscriptions are to see it, too.
        """
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("publish")
        if inspect.iscoroutinefunction(own):
            cls.publish = awaited_or_ignored(own)  # type: ignore[method-assign]
        if "consume" in cls.__dict__ and cls.subscribe is MessageBroker.subscribe:
            cls.consume = beside_subscriptions(cls.consume)  # type: ignore[method-assign]


class Announcement:
    """A presence on a status channel; see ``MessageBroker.announce``."""

    def __init__(self, broker: MessageBroker, channel: str, offline: Mapping[str, Any]) -> None:
        self.broker = broker
        self._channel = channel
        self._offline = offline
        self._options = {"retain": True} if broker.features.retain else {}
        self._latest: Mapping[str, Any] | None = None
        self._withdrawn = self._disowned = False

    @classmethod
    async def make(
        cls, broker: MessageBroker, channel: str, online: Mapping[str, Any], offline: Mapping[str, Any]
    ) -> Self:
        """Publish ``online`` and return the presence."""
        announcement = cls(broker, channel, offline)
        try:
            await announcement.update(online)
        except asyncio.CancelledError:
            await announcement.withdraw()  # the broker may have it already
            raise
        return announcement

    async def update(self, online: Mapping[str, Any]) -> None:
        """Publish a newer message on the same channel, unless that is another one's."""
        if self._disowned:
            return
        self._latest = online
        await self.broker.publish(self._channel, online, **self._options)

    def repeat(self) -> None:
        """Publish the latest message again: another one may have published on the channel."""
        if self._latest is not None and not self._withdrawn:
            self.broker.publish(self._channel, self._latest, **self._options)

    def disown(self) -> None:
        """Leave the channel at once, because another program publishes on it now. Neither this program nor
        its will publishes there from now on, however this program ends. Idempotent.
        """
        self._withdrawn = self._disowned = True

    async def withdraw(self, *, say_offline: bool = True) -> None:
        """End the presence: publish ``offline``, or leave the last message as it is. Idempotent."""
        if self._withdrawn:
            return
        self._withdrawn = True
        if say_offline:
            await self.broker.publish(self._channel, self._offline, **self._options)
