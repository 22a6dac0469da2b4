"""SubscriptionGroup: subscriptions that begin together and end together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.subscription import Callback, Subscription


class SubscriptionGroup:
    """Subscribes to several channels, waits until all are in force, and ends them all::

        self._subscriptions = SubscriptionGroup(broker)
        await self._subscriptions.open([(topics.ESTOP, self._on_estop), (state, self._on_state)])
        ...
        self._subscriptions.close()

    It can be opened again after ``close``. As a context manager it closes at the end.

    Args:
        broker: To subscribe at.
    """

    def __init__(self, broker: MessageBroker) -> None:
        self._broker = broker
        self._subscriptions: list[Subscription] = []

    def __len__(self) -> int:
        return len(self._subscriptions)

    async def open(self, wanted: Iterable[tuple[str, Callback]]) -> Self:
        """Subscribe to each channel or filter; returns when every subscription is in force.

        Those asked for together go to the broker together. If one fails, all of the group are ended.

        Args:
            wanted: Channel or filter, and what to call with each of its messages.

        Raises:
            BrokerError: The broker refuses one, or is not there.
        """
        try:
            added = [self.add(channel, callback) for channel, callback in wanted]
            for subscription in added:
                await subscription
        except BaseException:  # also cancelled: half a group would be worse than none
            self.close()
            raise
        return self

    def add(self, channel: str, callback: Callback) -> Subscription:
        """Subscribe to one channel more; await what is returned to know that it is in force."""
        subscription = self._broker.subscribe(channel, callback)
        self._subscriptions.append(subscription)
        return subscription

    def close(self) -> None:
        """End all subscriptions. Idempotent."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for unsubscribe in subscriptions:
            unsubscribe()

    def __enter__(self) -> Self:
        """Return the group."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
