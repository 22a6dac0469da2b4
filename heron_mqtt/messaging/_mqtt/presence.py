"""A presence on a status channel, with the MQTT broker as its executor: ``offline`` is left as a will."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from heron_mqtt.errors import BrokerClosed, BrokerError
from heron_mqtt.messaging._mqtt.home import Home
from heron_mqtt.messaging._mqtt.link import CLOSE_S, Link
from heron_mqtt.messaging._mqtt.options import Will
from heron_mqtt.messaging.base import Announcement
from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.stats import BrokerStats

if TYPE_CHECKING:
    from heron_mqtt.messaging.mqtt import MqttBroker

MAX_UPDATES = 100  # that may wait while disconnected; only the last one counts


class MqttAnnouncement(Announcement):
    """One presence; usually with a connection of its own, because a connection carries one will."""

    def __init__(
        self,
        broker: MqttBroker,
        home: Home,
        channel: str,
        topic: str,
        offline: Mapping[str, Any],
    ) -> None:
        super().__init__(broker, channel, offline)
        self.own_link: Link | None = None
        self._mqtt = broker
        self._home = home
        self._topic = topic
        self._last_word = _word(offline)
        self._latest: bytes | None = None
        self._link: Link | None = None

    def use(self, link: Link) -> None:
        """Speak over a link whose will is ours already."""
        self._link = link

    def make_link(self, number: int, rng: random.Random) -> None:
        """Make a connection of our own."""
        stats = BrokerStats(reports=self._mqtt.stats.reports, listeners=self._mqtt.stats.listeners)
        options = self._mqtt.options
        self._link = self.own_link = Link(
            replace(options, client_id=f"{options.client_id}-w{number}"),
            self,
            stats,
            will=Will(self._topic, self._last_word),
            wanted=tuple,
            rng=rng,
            max_pending=MAX_UPDATES,
        )

    async def update(self, online: Mapping[str, Any]) -> None:
        """Publish a newer word; it is repeated after each reconnection."""
        if self._withdrawn:
            raise BrokerClosed(f"the announcement on {self._channel} was withdrawn")
        self._latest = _word(online)
        await self._home.run(self._say(self._latest))

    async def withdraw(self, *, say_offline: bool = True) -> None:
        """End the presence and its connection, cleanly; see ``Announcement.withdraw``. Idempotent."""
        if not self._withdrawn:
            await self._home.run(self.leave(say_offline=say_offline))

    async def leave(self, *, say_offline: bool = True) -> None:
        """Do what ``withdraw`` does, in the home loop; if the broker is away, its will has said it."""
        if self._withdrawn:
            return
        self._withdrawn = True
        self._mqtt.forget(self)
        if say_offline:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._say(self._last_word)
            except (TimeoutError, BrokerError) as exc:
                self.broker.stats.report("delivery", self._channel, f"could not say offline: {exc}")
        if self.own_link is not None:
            await self.own_link.close()

    def repeat(self) -> None:
        """Say the latest word again: the broker may have published the will in between."""
        if self._latest is not None and self._link is not None:
            self._link.publish(self._topic, self._latest, 1, True)

    async def _say(self, word: bytes) -> None:
        assert self._link is not None, "neither use() nor make_link()"
        await self._link.started()
        if self.own_link is not None:
            self._mqtt.stats.published += 1
        await asyncio.shield(self._link.publish(self._topic, word, 1, True))

    # -- called by our own link ----------------------------------------------------------------------

    def on_connected(self, again: bool) -> None:
        """Say again that we are here."""
        if again:
            self.repeat()

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Nothing is subscribed to here."""

    def on_bad_topic(self, topic: str) -> None:
        """Nothing is subscribed to here."""


def _word(message: Mapping[str, Any]) -> bytes:
    """Encode a presence without its sequence number: repeated, it must not be taken for a duplicate."""
    return encode({name: value for name, value in message.items() if name != "seq"})
