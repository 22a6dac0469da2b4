"""A presence on a status channel, with the MQTT broker as its executor: ``offline`` is left as a will."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from heron_mqtt.errors import BrokerClosed, BrokerError
from heron_mqtt.messaging.base import Announcement, MessageBroker
from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.core.owner_loop import OwnerLoop
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.session import CLOSE_S, PATIENCE_S, MqttSession

MAX_UPDATES = 100  # that may wait while disconnected; only the last one counts


TellPresence = Callable[[str, Mapping[str, Any], bytes], None]


class Presences:
    """The announcements of one broker.

    Args:
        broker: Whose they are.
        options: Of its connection, as of those that they have of their own.
        owner_loop: The event loop that it lives in.
        session: Its connection.
        will_channel: The channel of the will that the broker's own connection carries, if any.
        rng: Jitters the delays of reconnecting.
        tell: Hears what is published of a presence: channel, message and payload.
    """

    def __init__(
        self,
        broker: MessageBroker,
        options: MqttOptions,
        owner_loop: OwnerLoop,
        session: MqttSession,
        will_channel: str | None,
        rng: random.Random,
        tell: TellPresence,
    ) -> None:
        self._broker = broker
        self._options = options
        self._owner_loop = owner_loop
        self._session = session
        self._will_channel = will_channel
        self._rng = rng
        self._tell = tell
        self._all: list[MqttAnnouncement] = []
        self._numbers = itertools.count()

    async def announce(
        self, channel: str, topic: str, online: Mapping[str, Any], offline: Mapping[str, Any]
    ) -> MqttAnnouncement:
        """Announce; in the home loop."""
        await self._session.started()
        announcement = MqttAnnouncement(
            self._broker, self._owner_loop, channel, topic, offline, self._forget, self._tell
        )
        if channel == self._will_channel:
            announcement.use(self._session)
        else:
            client_id = f"{self._options.client_id}-w{next(self._numbers)}"
            announcement.make_session(replace(self._options, client_id=client_id), self._rng)
        self._all.append(announcement)
        try:
            await announcement.update(online)
        except BaseException:
            await announcement.leave()  # the broker may have it already, and a clean end publishes no will
            raise
        return announcement

    def own_sessions(self) -> list[MqttSession]:
        """Return the connections that the announcements have of their own."""
        return [a.own_session for a in self._all if a.own_session is not None]

    def repeat(self) -> None:
        """The broker's own connection was made again: say what it had said."""
        for announcement in self._all:
            if announcement.own_session is None:
                announcement.repeat()

    async def leave(self) -> None:
        """Withdraw all of them."""
        await asyncio.gather(*(announcement.leave() for announcement in self._all))

    def _forget(self, announcement: MqttAnnouncement) -> None:
        if announcement in self._all:
            self._all.remove(announcement)


class MqttAnnouncement(Announcement):
    """One presence; usually with a connection of its own, because a connection carries one will."""

    def __init__(
        self,
        broker: MessageBroker,
        owner_loop: OwnerLoop,
        channel: str,
        topic: str,
        offline: Mapping[str, Any],
        forget: Callable[[MqttAnnouncement], None],
        tell: TellPresence,
    ) -> None:
        super().__init__(broker, channel, offline)
        self.own_session: MqttSession | None = None
        self._owner_loop = owner_loop
        self._topic = topic
        self._forget = forget
        self._tell = tell
        self._will_payload = _encoded(offline)
        self._latest_payload: bytes | None = None
        self._session: MqttSession | None = None

    def use(self, session: MqttSession) -> None:
        """Speak over a link whose will is ours already."""
        self._session = session

    def make_session(self, options: MqttOptions, rng: random.Random) -> None:
        """Make a connection of our own."""
        stats = MessageStats(reports=self.broker.stats.reports, listeners=self.broker.stats.listeners)
        self._session = self.own_session = MqttSession(
            options,
            self,
            stats,
            will=LastWill(self._topic, self._will_payload),
            wanted=tuple,
            rng=rng,
            max_pending=MAX_UPDATES,
            patience_s=PATIENCE_S,
        )

    async def update(self, online: Mapping[str, Any]) -> None:
        """Publish a newer message; it is repeated after each reconnection."""
        if self._disowned:
            return
        if self._withdrawn:
            raise BrokerClosed(f"the announcement on {self._channel} was withdrawn")
        payload = self._latest_payload = _encoded(online)
        self._tell(self._channel, online, payload)
        await self._owner_loop.run(self._say(payload))

    def disown(self) -> None:
        """Say nothing from here on; see ``Announcement.disown``."""
        if not self._withdrawn:
            self._withdrawn = self._disowned = True
            self._owner_loop.call(self._part)

    def _part(self) -> None:
        self._forget(self)
        if self.own_session is not None:
            self.own_session.part()

    async def withdraw(self, *, say_offline: bool = True) -> None:
        """End the presence and its connection, cleanly; see ``Announcement.withdraw``. Idempotent."""
        if not self._withdrawn:
            await self._owner_loop.run(self.leave(say_offline=say_offline))

    async def leave(self, *, say_offline: bool = True) -> None:
        """Do what ``withdraw`` does, in the home loop; where the broker is away, the will has said it."""
        if self._withdrawn:
            return
        self._withdrawn = True
        self._forget(self)
        heard = self._session is not None and self._session.connected
        if say_offline and heard:
            try:
                self._tell(self._channel, self._offline, self._will_payload)
                async with asyncio.timeout(CLOSE_S):
                    await self._say(self._will_payload)
            except (TimeoutError, BrokerError) as exc:
                heard = False
                self.broker.stats.report("delivery", self._channel, f"could not publish offline: {exc!r}")
        if self.own_session is not None:
            await (self.own_session.close() if heard else self.own_session.abort())

    def repeat(self) -> None:
        """Publish the latest message again: the broker may have published the will in between."""
        self._owner_loop.call(self._repeat)

    def _repeat(self) -> None:
        if self._latest_payload is not None and self._session is not None and not self._withdrawn:
            self._session.publish(self._topic, self._latest_payload, 1, True, counted=False)

    async def _say(self, payload: bytes) -> None:
        assert self._session is not None, "neither use() nor make_link()"
        await self._session.started()
        if self.own_session is not None:
            self.broker.stats.published += 1
        try:
            await asyncio.shield(self._session.publish(self._topic, payload, 1, True))
        except BrokerClosed:
            if not self._disowned:
                raise

    # -- called by our own link ----------------------------------------------------------------------

    def on_connected(self, again: bool) -> None:
        """Say again that we are here."""
        if again:
            self.repeat()

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Nothing is subscribed to here."""

    def on_bad_topic(self, topic: str) -> None:
        """Nothing is subscribed to here."""

    def on_oversized(self, topic: str, size: int) -> None:
        """Nothing is subscribed to here."""


def _encoded(message: Mapping[str, Any]) -> bytes:
    """Encode a presence without its sequence number: repeated, it must not be taken for a duplicate."""
    return encode({name: value for name, value in message.items() if name != "seq"})
