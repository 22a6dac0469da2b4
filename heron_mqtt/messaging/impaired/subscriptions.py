"""What is subscribed to at the inner broker, so that each of its messages crosses the network once.

Every subscription of ours has one of its own at the inner broker, which brings it the retained messages
that are meant for it. Where several match a channel, each live message comes once through each of them;
the one made first is taken, the others are copies of it. A subscription is released only after the
dispatch under way, else the next one would step in for it within the same message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.core.dispatcher import Dispatcher
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.core.subscription import MAX_CHANNELS, Received, Subscription


class ImpairedDispatcher(Dispatcher):
    """The dispatcher behind the network.

    Args:
        stats: Its counters and reports.
    """

    def __init__(self, stats: MessageStats) -> None:
        super().__init__()
        self.stats = stats
        self.on_gone: Callable[[Subscription], None] = lambda _: None
        """Called after a subscription ended."""

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        super().remove(subscription)
        self.on_gone(subscription)

    def replay(self, subscription: Subscription, message: Received) -> None:
        """Deliver a retained message to the one who subscribed."""
        self.stats.received += 1
        subscription.deliver(Received(message, message.channel, retained=True), running_loop())


class _Held:
    """One subscription at the inner broker."""

    def __init__(self, pattern: str, ours: Subscription | None) -> None:
        self.pattern = pattern
        self.ours = ours  # None = consumers'
        self.inner: Subscription | None = None
        self.ready: asyncio.Future[None] | None = None


class InnerSubscriptions:
    """Subscribes at the inner broker. Everything here runs in the home loop.

    Args:
        inner: The inner broker.
        dispatcher: Knows which of our subscriptions still exist.
        on_arrival: Takes each message once; with the subscription that it is meant for alone, if it is
            a retained one that came because of it.
    """

    def __init__(
        self,
        inner: MessageBroker,
        dispatcher: Dispatcher,
        on_arrival: Callable[[Received, Subscription | None], None],
    ) -> None:
        self._inner = inner
        self._on_arrival = on_arrival
        self._held: dict[Subscription | str, _Held] = {}
        self._first: dict[str, _Held] = {}  # channel -> the one whose messages are taken

    def hold(self, pattern: str, subscription: Subscription | None) -> asyncio.Future[None]:
        """Subscribe for one of our subscriptions, or (None) for the consumers of a channel.

        Returns:
            Done when the inner broker has taken it.
        """
        key = pattern if subscription is None else subscription
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(pattern, subscription)
            held.inner = self._inner.subscribe(pattern, lambda message: self._arrive(held, message))
            held.ready = asyncio.ensure_future(_ready(held.inner))
            held.ready.add_done_callback(_retrieve)
        assert held.ready is not None
        return held.ready

    def release(self, subscription: Subscription) -> None:
        """Unsubscribe, as soon as the message under way has been dispatched."""
        asyncio.get_running_loop().call_soon(self._release, subscription)

    def close(self) -> None:
        """Unsubscribe from everything."""
        for key in list(self._held):
            self._release(key)

    def _release(self, key: Subscription | str) -> None:
        held = self._held.pop(key, None)
        if held is not None and held.inner is not None:
            self._first.clear()
            held.inner()

    def _arrive(self, held: _Held, message: Received) -> None:
        if message.retained:
            self._on_arrival(message, held.ours)
        elif self._first_of(message.channel) is held:
            self._on_arrival(message, None)

    def _first_of(self, channel: str) -> _Held | None:
        first = self._first.get(channel)
        if first is None:
            first = next((h for h in self._held.values() if topics.matches(h.pattern, channel)), None)
            if first is not None:
                if len(self._first) >= MAX_CHANNELS:
                    self._first.clear()
                self._first[channel] = first
        return first


async def _ready(subscription: Subscription) -> None:
    await subscription


def _retrieve(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()  # for those who do not wait: the broker has reported it
