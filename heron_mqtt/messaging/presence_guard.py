"""A presence is published again when another program has published on its channel.

A last will may come late. If a program was paused, or its network failed, the broker publishes its
``offline`` when the successor is online already. When such a program continues, it may publish ``online``
once more before it reads that it was displaced. The broker keeps the last message, so a later subscriber
would take the running program for gone, or for the other one.
"""

from __future__ import annotations

import asyncio
import contextlib

from heron_mqtt.errors import BrokerRefused
from heron_mqtt.messaging.base import Announcement, MessageBroker, Received, Subscription

AGAIN_S = 1.0  # at most so often: two that both hold the name must not drive each other


class PresenceGuard:
    """Watches the status channel of one presence, from ``watch`` until ``close``.

    Args:
        broker: Carries the messages; callbacks run in the loop that called ``watch``.
        channel: Of the presence.
        boot: Of the holder: a status with another boot is of another program.
    """

    def __init__(self, broker: MessageBroker, channel: str, boot: str) -> None:
        self._broker = broker
        self._channel = channel
        self._boot = boot
        self._presence: Announcement | None = None
        self._subscription: Subscription | None = None
        self._said_at = -AGAIN_S
        self._saying: asyncio.TimerHandle | None = None

    async def watch(self, presence: Announcement) -> None:
        """Watch over a presence that was just announced; not on a broker that no other one can reach.

        Where the broker refuses it, which is reported, the presence goes unwatched. The call waits until the
        subscription is in force. Otherwise a connection could be lost while the filter is unanswered: the
        next connection asks for its filters one by one, and messages that are published meanwhile are lost.
        """
        if self._broker.features.external:
            self._presence = presence
            self._subscription = self._broker.subscribe(self._channel, self._on_status)
            with contextlib.suppress(BrokerRefused):
                await self._subscription

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        self._presence = None
        if self._saying is not None:
            self._saying.cancel()
            self._saying = None
        if self._subscription is not None:
            self._subscription()
            self._subscription = None

    def _on_status(self, message: Received) -> None:
        boot, state = message.get("boot"), message.get("state")
        # What names no start is a will of a foreign program, or was said by hand.
        is_anothers = boot != self._boot if boot is not None else state == "offline"
        if is_anothers and self._presence is not None and self._saying is None:
            loop = asyncio.get_running_loop()
            self._saying = loop.call_at(max(loop.time(), self._said_at + AGAIN_S), self._say_again)

    def _say_again(self) -> None:
        self._saying = None
        self._said_at = asyncio.get_running_loop().time()
        if self._presence is not None:
            self._presence.repeat()
