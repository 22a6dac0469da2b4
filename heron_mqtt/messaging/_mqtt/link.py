"""A lasting link to an MQTT broker: connections come and go, what was published or subscribed does not.

Everything here runs in one event loop. Messages wait in one bounded queue while there is no connection
and while ``WINDOW`` of them are unacknowledged; so after a reconnect they leave in order and at the pace
of the broker's acknowledgements. Sessions are clean: the list of subscriptions is ours, replayed on each
connection, and what was not acknowledged is sent again (at least once).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from heron_mqtt.errors import BrokerClosed, BrokerError, BrokerOverflow, BrokerRefused
from heron_mqtt.messaging._mqtt.connection import Connection
from heron_mqtt.messaging._mqtt.options import MqttOptions, Will
from heron_mqtt.messaging._mqtt.upstream import Change, Upstream, covers
from heron_mqtt.messaging.stats import BrokerStats

log = logging.getLogger("heron_mqtt.messaging")

WINDOW = 100
"""QoS 1 messages on their way at once; more gain nothing on loopback."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 15.0  # between attempts to reconnect; doubled each time, then jittered
STABLE_S = 5.0  # a connection that lasted this long starts the delays afresh
MAX_SENDINGS = 5  # a message that ends the connection this often is the reason for it
CLOSE_S = 1.0  # how long close() waits for outstanding messages
FILTERS_A_PACKET = 100


class Owner(Protocol):
    """What a link tells the broker object it serves."""

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message arrived."""

    def on_bad_topic(self, topic: str) -> None:
        """A message arrived whose topic is not UTF-8."""

    def on_connected(self, again: bool) -> None:
        """A connection is made (``again``: not the first one)."""


@dataclass(slots=True)
class _Outgoing:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    done: asyncio.Future[None]
    fatal: int = 0


class Link:
    """Publishes, subscribes, and reconnects until it is closed. Use it in one event loop only.

    Args:
        wanted: Returns every topic filter to hold at the broker.
        rng: Jitters the delays between attempts to reconnect.
        max_pending: Messages that may wait; when full, the oldest fails with ``BrokerOverflow``.
    """

    def __init__(
        self,
        options: MqttOptions,
        owner: Owner,
        stats: BrokerStats,
        *,
        will: Will | None,
        wanted: Callable[[], Iterable[str]],
        rng: random.Random,
        max_pending: int,
    ) -> None:
        self.options = options
        self._owner = owner
        self.on_message, self.on_bad_topic = owner.on_message, owner.on_bad_topic
        self._stats = stats
        self._will = will
        self._rng = rng
        self._max_pending = max_pending
        self._pending: deque[_Outgoing] = deque()
        self._in_flight: dict[int, _Outgoing] = {}
        self._window = WINDOW
        self._acknowledged = 0
        self._overflowed = 0
        self._upstream = Upstream(wanted)
        self._asked: dict[str, None] = {}  # filters to subscribe to before anything else is sent
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._subscribing: dict[int, list[str]] = {}
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._started: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    def start(self) -> asyncio.Future[None]:
        """Begin to connect, unless that is under way; return what is done when the first attempt ended.

        If it fails, everything that waits fails with the same error, and the link can be started again.
        """
        if self._started is None:
            loop = asyncio.get_running_loop()
            self._started = loop.create_future()
            self._started.add_done_callback(_retrieve)
            self._task = loop.create_task(self._run(self._started), name=f"mqtt {self.options.address}")
            self._task.add_done_callback(self._ended)
        return self._started

    async def wait_connected(self) -> None:
        """Wait until there is a connection."""
        await self._connected.wait()

    # -- publish -----------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> asyncio.Future[None]:
        """Send or queue a message; the future is done when the broker has taken it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        message = _Outgoing(topic, payload, qos, retain, done)
        connection = self._connection
        if connection is not None and not self._pending and len(self._in_flight) < self._window:
            self._send(connection, message)
            return done
        if len(self._pending) >= self._max_pending:
            self._overflow(self._pending.popleft())
        self._pending.append(message)
        return done

    def outstanding(self) -> list[asyncio.Future[None]]:
        """Return what was published and is not done."""
        return [m.done for m in (*self._in_flight.values(), *self._pending)]

    def _send(self, connection: Connection, message: _Outgoing) -> None:
        if self._asked:
            self._subscribe_asked()  # subscribe, then publish: the message must come back
        mid = connection.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos:
            self._in_flight[mid] = message
        elif not message.done.done():
            message.done.set_result(None)

    def _pump(self) -> None:
        while self._connection is not None and self._pending and len(self._in_flight) < self._window:
            self._send(self._connection, self._pending.popleft())

    def on_acknowledged(self, mid: int, refusal: str | None) -> None:
        """Called by the connection: the broker answered a publish."""
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        self._acknowledged += 1
        if refusal is not None:
            self._fail(message, BrokerRefused(f"{self.options.address} refuses {message.topic!r}: {refusal}"))
        elif not message.done.done():
            message.done.set_result(None)
        if self._pending:
            self._pump()

    def _fail(self, message: _Outgoing, exc: BrokerError) -> None:
        self._stats.undelivered += 1
        self._stats.report("delivery", message.topic, str(exc))
        _set_exception(message.done, exc)

    def _overflow(self, message: _Outgoing) -> None:
        self._stats.overflowed += 1
        self._stats.undelivered += 1
        what = f"more than {self._max_pending} messages wait to be sent; the oldest is dropped"
        if self._overflowed == 0:  # one line for the first, one for the sum when they flow again
            self._stats.report("overflow", message.topic, what)
        self._overflowed += 1
        _set_exception(message.done, BrokerOverflow(f"{message.topic}: {what}"))

    # -- subscribe ---------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str) -> asyncio.Future[None]:
        """Hold a filter at the broker, and have its retained messages sent (again)."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic_filter, []).append(done)
        if self._connection is not None:
            self._ask([self._upstream.add(topic_filter)])
        return done

    def unsubscribe(self, topic_filter: str) -> None:
        """Nobody wants a filter any more."""
        if self._connection is not None:
            self._apply(self._upstream.removed(topic_filter))

    def _apply(self, change: Change) -> None:
        self._ask(change.subscribe)
        if change.unsubscribe and self._connection is not None:
            self._subscribe_asked()
            self._connection.unsubscribe(change.unsubscribe)

    def _ask(self, filters: list[str]) -> None:
        if filters and not self._asked:
            asyncio.get_running_loop().call_soon(
                self._subscribe_asked
            )  # those asked for together go together
        self._asked.update(dict.fromkeys(filters))

    def _subscribe_asked(self) -> None:
        filters, self._asked = list(self._asked), {}
        if self._connection is None:
            return
        for i in range(0, len(filters), FILTERS_A_PACKET):
            some = filters[i : i + FILTERS_A_PACKET]
            self._subscribing[self._connection.subscribe(some)] = some

    def on_subscribed(self, mid: int, refusals: list[str | None]) -> None:
        """Called by the connection: the broker answered a subscribe."""
        for topic_filter, refusal in zip(self._subscribing.pop(mid, ()), refusals, strict=False):
            if refusal is None:
                self._apply(self._upstream.accepted(topic_filter))
                for waiting in [f for f in self._waiting if f == topic_filter or covers(topic_filter, f)]:
                    for done in self._waiting.pop(waiting):
                        if not done.done():
                            done.set_result(None)
                continue
            self._apply(self._upstream.refused(topic_filter))
            exc = BrokerRefused(
                f"{self.options.address} refuses the subscription to {topic_filter!r} ({refusal}): "
                f"check the access rights of user {self.options.username!r}"
            )
            self._stats.report("connection", topic_filter, str(exc))
            for done in self._waiting.pop(topic_filter, ()):
                _set_exception(done, exc)

    # -- connections -------------------------------------------------------------------------------

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            connection = await self._connect()
        except BrokerError as exc:
            self._stats.report("connection", self.options.address, str(exc))
            self._started = None
            self._fail_all(exc)
            started.set_exception(exc)
            return
        log.info("connected to %s as %s", self.options.address, self.options.client_id)
        self._take_up(connection, again=False)
        started.set_result(None)
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            since = loop.time()
            why = await connection.lost
            self._lose()
            if loop.time() - since >= STABLE_S:
                attempt = 0
            self._stats.report("connection", self.options.address, f"connection lost: {why}; reconnecting")
            connection, attempt = await self._reconnect(attempt)
            self._stats.reconnects += 1
            log.info("connected again to %s as %s", self.options.address, self.options.client_id)
            self._take_up(connection, again=True)

    async def _connect(self) -> Connection:
        connection = Connection(self.options, self, self._will)
        await connection.open()
        return connection

    async def _reconnect(self, attempt: int) -> tuple[Connection, int]:
        said = ""
        while True:
            delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt, 20))
            await asyncio.sleep(delay_s * self._rng.uniform(0.5, 1.0))  # not all clients at the same moment
            attempt += 1
            try:
                return await self._connect(), attempt
            except BrokerError as exc:
                if str(exc) != said:  # an outage is one line, not one a second
                    said = str(exc)
                    self._stats.report("connection", self.options.address, f"still reconnecting: {said}")

    def _take_up(self, connection: Connection, *, again: bool) -> None:
        self._connection = connection
        self._window = min(WINDOW, connection.receive_maximum)
        self._acknowledged = 0
        self._ask(self._upstream.restart().subscribe)
        self._subscribe_asked()
        self._owner.on_connected(again)
        self._pump()
        if self._overflowed:
            what = f"{self._overflowed} messages were dropped because the queue was full"
            self._stats.report("overflow", self.options.address, what)
            self._overflowed = 0
        self._connected.set()

    def _lose(self) -> None:
        self._connection = None
        self._connected.clear()
        self._asked.clear()
        self._subscribing.clear()
        unsent, self._in_flight = list(self._in_flight.values()), {}
        if unsent and self._acknowledged == 0:
            unsent[0].fatal += 1
            if unsent[0].fatal >= MAX_SENDINGS:
                message = unsent.pop(0)
                what = f"{self.options.address} ends the connection whenever this is published"
                size = f"{len(message.payload)} bytes on {message.topic!r}"
                self._fail(message, BrokerRefused(f"{what} ({size}): check its size limit and access rights"))
        self._pending.extendleft(reversed(unsent))

    def _fail_all(self, exc: BrokerError) -> None:
        unsent = [*self._in_flight.values(), *self._pending]
        self._in_flight.clear()
        self._pending.clear()
        if unsent:
            self._stats.undelivered += len(unsent)
            self._stats.report(
                "delivery", self.options.address, f"{len(unsent)} messages were not delivered: {exc}"
            )
        for message in unsent:
            _set_exception(message.done, exc)
        for waiting in self._waiting.values():
            for done in waiting:
                _set_exception(done, exc)
        self._waiting.clear()

    # -- end ---------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait a moment for what is outstanding, say goodbye, and end. Idempotent."""
        outstanding = self.outstanding() if self._started is not None else []
        if outstanding:
            await asyncio.wait(outstanding, timeout=CLOSE_S)
        if self._connection is not None:
            self._connection.disconnect()
        await self.abort()

    async def abort(self) -> None:
        """End without goodbye: the broker sends the will. Idempotent."""
        self.drop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task is over: closed, cancelled by the end of its loop, or a fault of ours."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._stats.report("connection", self.options.address, "the connection's task failed", exc=exc)
        if task.cancelled() or task.exception() is not None:
            self.drop()

    def drop(self) -> None:
        """Close the connection's descriptor and fail what waits, without waiting for anything."""
        connection, self._connection = self._connection, None
        self._connected.clear()
        if connection is not None:
            connection.abort()
        closed = BrokerClosed(f"the connection to {self.options.address} was closed")
        self._fail_all(closed)
        started, self._started = self._started, None
        if started is not None:
            _set_exception(started, closed)


def _set_exception(done: asyncio.Future[None], exc: BrokerError) -> None:
    if not done.done():
        done.set_exception(exc)
        done.exception()  # it is reported: nobody has to await it


def _retrieve(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()
