"""A session that the MQTT broker keeps while we are away: what others publish meanwhile comes later.

It has a connection of its own, and holds only what may come late (``topics.is_storable``). Everything else is
subscribed to on the ordinary connection, whose session is clean: no setpoint, request or release that was
published without a subscriber ever arrives.

What waited is late, and must not be taken for news of now. The broker sends it in the order of arrival. So
after a reconnect this client publishes a mark to itself, and everything that arrives before the mark is late.

A program that starts again subscribes one by one, and the broker sends at once. What comes for a filter that
has no subscription yet is neither handed on nor acknowledged until there is one, for ``GRACE_S`` at most.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.connection import Connection, Events
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.session import MqttSession
from heron_mqtt.messaging.topics import matches

log = logging.getLogger("heron_mqtt.messaging")

GRACE_S = 10.0
MARK_S = 30.0  # after which it is said that the mark has not come back
NO_MARK_YET = ""
MAX_OUTGOING = 10  # marks, that is: one a connection


class LateReader(Protocol):
    """The reports of a kept session to its broker object."""

    def on_kept_message(self, topic: str, payload: bytes, retained: bool, late: bool) -> None:
        """A message arrived; ``late``: it may have waited at the broker."""

    def is_read(self, topic: str) -> bool:
        """Whether there is a subscription here to a topic."""

    def on_bad_topic(self, topic: str) -> None:
        """A message arrived whose topic is not UTF-8."""

    def on_oversized(self, topic: str, size: int) -> None:
        """A message beyond our limit was skipped."""


class KeptSession:
    """One session at the broker that outlives connections. Use it in one event loop only.

    Args:
        options: Of the broker's connection; the client id here is that with ``-kept`` behind it.
        expiry_s: How long an MQTT 5 broker shall keep it while we are away.
        mark_topic: Where the mark is published; no other client uses it.
        reader: Whom it serves.
        stats: Where losses are counted and reported.
        wanted: Returns the topic filters to hold.
        rng: Jitters the delays between attempts to reconnect.
        patience_s: How long the first connection is tried for.
    """

    def __init__(
        self,
        options: MqttOptions,
        expiry_s: int,
        mark_topic: str,
        reader: LateReader,
        stats: MessageStats,
        *,
        wanted: Callable[[], Iterable[str]],
        rng: random.Random,
        patience_s: float,
    ) -> None:
        self._mark_topic = mark_topic
        self._reader = reader
        self._stats = stats
        self._wanted = wanted
        self._connection: Connection | None = None
        self._mark: str | None = None  # that has not come back yet
        self._waits = False  # for subscriptions to what the broker has kept
        self._timers: list[asyncio.TimerHandle] = []
        self._unread: list[tuple[str, bytes, bool, bool]] = []
        self.on_bad_topic, self.on_oversized = reader.on_bad_topic, reader.on_oversized
        self.session = MqttSession(
            replace(options, client_id=f"{options.client_id}-kept", session_expiry_s=expiry_s),
            self,
            MessageStats(reports=stats.reports, listeners=stats.listeners),
            will=None,
            wanted=lambda: [mark_topic, *wanted()],
            rng=rng,
            max_pending=MAX_OUTGOING,
            patience_s=patience_s,
            make_connection=self._make,
        )

    @property
    def is_late(self) -> bool:
        """Whether what arrives now may have waited at the broker."""
        return self._mark is not None

    def brings(self, topic: str) -> bool:
        """Whether messages of a topic arrive here: then they need not be taken from elsewhere, too."""
        return self.session.connected and any(matches(f, topic) for f in self._wanted())

    def subscribe(self, filters: tuple[str, ...]) -> asyncio.Future[Any]:
        """Hold filters, and hand over what waits for them."""
        self.claim()
        return self.session.subscribe(filters)

    def claim(self) -> None:
        """There is a new subscription: hand over what waits for it."""
        unread, self._unread = self._unread, []
        for message in unread:
            if self._reader.is_read(message[0]):
                self._reader.on_kept_message(*message)
            else:
                self._unread.append(message)
        if unread and not self._unread:
            self._acknowledge()

    def end(self) -> None:
        """Wait for nothing any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    # -- called by the session ---------------------------------------------------------------------

    def _make(self, options: MqttOptions, events: Events, will: LastWill | None) -> Connection:
        self.end()
        self._unread.clear()  # not acknowledged: it comes again
        self._mark, self._waits = NO_MARK_YET, True  # the broker sends with its answer to CONNECT
        self._connection = Connection(options, events, will)
        return self._connection

    def on_connected(self, again: bool) -> None:
        """There is a connection; find out what comes late."""
        self._mark, self._waits = None, False
        if self._connection is not None and self._connection.session_present:
            loop = asyncio.get_running_loop()
            self._mark, self._waits = secrets.token_hex(8), True
            payload = b'{"type":"session_mark","mark":"%s"}' % self._mark.encode()
            self.session.publish(self._mark_topic, payload, 1, False)
            self._timers = [
                loop.call_later(GRACE_S, self._end_grace),
                loop.call_later(MARK_S, self._miss_mark, self._mark),
            ]
        elif again:
            self._stats.sessions_lost += 1
            self._stats.report(
                "connection",
                self.session.options.address,
                f"the broker has not kept the session of {self.session.options.client_id!r}: what others "
                "published while we were away is lost; check its persistence and how long it keeps sessions",
            )

    def on_message(self, topic: str, payload: bytes, retained: bool) -> bool | None:
        """Hand a message on; False = it is not to be acknowledged yet."""
        if topic == self._mark_topic:
            if self._mark and self._mark.encode() in payload:
                self._mark = None
                log.info(
                    "%s: the messages that waited at the broker have arrived", self.session.options.client_id
                )
            return None
        if self._waits and not self._reader.is_read(topic):
            self._unread.append((topic, payload, retained, self.is_late))
            return False
        self._reader.on_kept_message(topic, payload, retained, self.is_late)
        return None

    def _end_grace(self) -> None:
        """Without a subscription by now, it is not wanted any more."""
        self._waits = False
        unread, self._unread = self._unread, []
        if unread:
            self._stats.report(
                "connection",
                unread[0][0],
                f"{len(unread)} messages that the broker had kept are dropped: no subscription matches them "
                f"within {GRACE_S:g} s",
            )
            self._acknowledge()

    def _miss_mark(self, mark: str) -> None:
        if self._mark == mark:
            self._stats.report(
                "connection",
                self._mark_topic,
                f"our own message has not come back within {MARK_S:g} s: may this user publish and read "
                "it? until it does, every message of the kept session counts as late",
            )

    def _acknowledge(self) -> None:
        if self._connection is not None and not self._connection.lost.done():
            self._connection.acknowledge_withheld()
