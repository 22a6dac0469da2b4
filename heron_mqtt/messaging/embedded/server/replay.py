"""Retained messages on their way to those who subscribed: a few at a time, as fast as they are read.

A filter may match every retained message there is, and a client may ask again and again. So the work is done
in slices, between which all other clients are served. A client gets no more than it reads. A filter that
waits already is not queued a second time. What is sent is the topic's message of that moment, never one that
a newer one has overtaken.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.server.retained import RetainedStore
    from heron_mqtt.messaging.embedded.server.session import ClientSession

SLICE_S = 0.002


class Replays:
    """Sends retained messages to the sessions that wait for some.

    Args:
        retained: The store.
        clock: Monotonic, s; bounds what is done at a time.
    """

    def __init__(self, retained: RetainedStore, clock: Callable[[], float] = time.perf_counter) -> None:
        self._retained = retained
        self._clock = clock
        self._ready: dict[ClientSession, None] = {}  # in the order of their turns
        self._found: dict[ClientSession, tuple[str, int, deque[str]]] = {}  # filter, QoS, topics left
        self._spent_s = 0.0  # in this turn of the event loop
        self._scheduled = False

    def add(self, session: ClientSession, topic_filter: str, qos: int) -> None:
        """Have a filter's retained messages sent; begun at once if not much else is to be done."""
        session.replays.pop(topic_filter, None)
        session.replays[topic_filter] = qos
        session.on_room = self.resume
        if not self._ready and self._spent_s < SLICE_S:
            self._advance(session)
        else:
            self._ready[session] = None
        self._schedule()

    def resume(self, session: ClientSession) -> None:
        """Continue with a session that takes messages again, when its turn comes."""
        if session in self._found or session.replays:
            self._ready[session] = None
            self._schedule()

    def forget(self, session: ClientSession) -> None:
        """Send no more to a session."""
        self._found.pop(session, None)
        self._ready.pop(session, None)
        session.replays.clear()

    def unsubscribed(self, session: ClientSession, topic_filter: str) -> None:
        """Send no more for one filter."""
        session.replays.pop(topic_filter, None)
        found = self._found.get(session)
        if found is not None and found[0] == topic_filter:
            del self._found[session]

    def _schedule(self) -> None:
        if not self._scheduled and (self._ready or self._spent_s):
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._spent_s = 0.0
        if self._ready:
            session = next(iter(self._ready))
            del self._ready[session]
            self._advance(session)
        self._schedule()

    def _advance(self, session: ClientSession) -> None:
        begin_s = self._clock()
        while session.has_room():
            if self._clock() - begin_s > SLICE_S:
                self._ready[session] = None  # behind the others
                break
            if not self._send_next(session):
                session.on_room = None
                break
        self._spent_s += self._clock() - begin_s

    def _send_next(self, session: ClientSession) -> bool:
        """Send one message, or look for those of the next filter; return whether there was one."""
        found = self._found.get(session)
        if found is None:
            if not session.replays:
                return False
            topic_filter, qos = next(iter(session.replays.items()))
            del session.replays[topic_filter]
            topics = deque(message.topic for message in self._retained.match(topic_filter))
            if topics:
                self._found[session] = (topic_filter, qos, topics)
            return True
        _, qos, topics = found
        message = self._retained.get(topics.popleft())
        if not topics:
            del self._found[session]
        if message is not None and (session.grant is None or session.grant.may_receive(message.topic)):
            session.deliver(message, min(qos, message.qos), retain=True)
        return True
