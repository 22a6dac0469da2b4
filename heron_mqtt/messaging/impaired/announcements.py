"""A presence whose messages cross the impaired network before the inner broker publishes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from heron_mqtt.messaging.base import Announcement, MessageBroker


class ImpairedAnnouncement(Announcement):
    """One presence.

    Args:
        broker: The impaired broker.
        inner: The presence at the broker inside, which also holds the will.
        cross: Waits until a message on a channel has crossed the network.
        channel, offline: As announced.
    """

    def __init__(
        self,
        broker: MessageBroker,
        inner: Announcement,
        cross: Callable[[str, Mapping[str, Any]], Awaitable[None]],
        channel: str,
        offline: Mapping[str, Any],
    ) -> None:
        super().__init__(broker, channel, offline)
        self._inner = inner
        self._cross = cross

    async def update(self, online: Mapping[str, Any]) -> None:
        """Publish a newer message on the same channel."""
        if not self._disowned:
            await self._cross(self._channel, online)
            await self._inner.update(online)

    def repeat(self) -> None:
        """Publish the latest message again; as after a reconnection, the network is not asked."""
        if not self._withdrawn:
            self._inner.repeat()

    def disown(self) -> None:
        """Say nothing from here on; see ``Announcement.disown``."""
        self._withdrawn = self._disowned = True
        self._inner.disown()

    async def withdraw(self, *, say_offline: bool = True) -> None:
        """End the presence; see ``Announcement.withdraw``. Idempotent."""
        if self._withdrawn:
            return
        self._withdrawn = True
        if say_offline:
            await self._cross(self._channel, self._offline)
        await self._inner.withdraw(say_offline=say_offline)
