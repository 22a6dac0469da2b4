"""A lasting link to a broker: connections come and go, what was published or subscribed does not.

The kind of connection is handed in: over MQTT, or what behaves like it (NATS).

Everything here runs in one event loop. Sessions are clean: the list of subscriptions is ours, replayed on
each connection, and what was not acknowledged is sent again (at least once).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from heron_mqtt.errors import BrokerClosed, BrokerError, BrokerUnavailable
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.connection import Connection, Events
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.send_queue import SendQueue, Transmitter, set_exception
from heron_mqtt.messaging.mqtt.subscriber import Subscriber, SubscribingConnection
from heron_mqtt.messaging.mqtt.subscriptions import BrokerSubscriptions, SubscriptionChange
from heron_mqtt.messaging.outbox.outbox import Outbox
from heron_mqtt.messaging.topics import WhileAway

log = logging.getLogger("heron_mqtt.messaging")

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 15.0  # between attempts to reconnect; doubled each time, then jittered
STABLE_S = 5.0  # a connection that lasted this long starts the delays afresh
CLOSE_S = 1.0  # how long close() waits for outstanding messages
FOR_NOW_S = 5.0  # how long it may take to send what is for now, where its publisher names no time
PATIENCE_S = 30.0  # for the first connection beside one that was made already: its broker may restart


class SessionOwner(Protocol):
    """What a link tells the broker object it serves."""

    def on_message(self, topic: str, payload: bytes, retained: bool) -> bool | None:
        """A message arrived; see ``Events.on_message``."""

    def on_bad_topic(self, topic: str) -> None:
        """A message arrived whose topic is not UTF-8."""

    def on_oversized(self, topic: str, size: int) -> None:
        """A message beyond our limit was skipped."""

    def on_connected(self, again: bool) -> None:
        """A connection is made (``again``: not the first one)."""


class AnyConnection(Transmitter, SubscribingConnection, Protocol):
    """One connection: opened once, then used until ``lost`` is done."""

    lost: asyncio.Future[str]
    """Done when the connection has ended; says why."""

    async def open(self) -> None:
        """Connect; raises ``BrokerUnavailable`` or ``BrokerRefused``."""

    def unsubscribe(self, filters: list[str]) -> None:
        """Unsubscribe."""

    def give_up(self, why: str) -> None:
        """End the connection because the broker does not do its part."""

    def disconnect(self) -> None:
        """Send DISCONNECT and close, after what was sent before."""

    def abort(self) -> None:
        """Close without DISCONNECT."""


MakeConnection = Callable[[MqttOptions, Events, LastWill | None], AnyConnection]


class MqttSession:
    """Publishes, subscribes, and reconnects until it is closed. Use it in one event loop only.

    Args:
        wanted: Returns every topic filter to hold at the broker.
        rng: Jitters the delays between attempts to reconnect.
        max_pending: Messages that may wait; when full, the oldest fails with ``BrokerOverflow``.
        patience_s: How long the first connection is tried for without an answer; refusals count at once.
        make_connection: Makes a connection to one of the hosts, not open yet; over MQTT if left out.
        outbox: Where to keep what may come late; None = nowhere.
    """

    def __init__(
        self,
        options: MqttOptions,
        owner: SessionOwner,
        stats: MessageStats,
        *,
        will: LastWill | None,
        wanted: Callable[[], Iterable[str]],
        rng: random.Random,
        max_pending: int,
        patience_s: float = 0.0,
        make_connection: MakeConnection | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._has_outbox = outbox is not None
        self._patience_s = patience_s
        self._make_connection = make_connection or Connection
        self._places = options.places()
        self._place = 0  # of them, the one to try next
        self.options = options
        self._owner = owner
        self.on_message, self.on_bad_topic = owner.on_message, owner.on_bad_topic
        self.on_oversized = owner.on_oversized
        self._stats = stats
        self._will = will
        self._rng = rng
        self._send_queue = SendQueue(
            options.address, stats, max_pending, topic_prefix=options.topic_prefix, outbox=outbox
        )
        self.on_acknowledged = self._send_queue.acknowledged
        self.on_expired, self.on_writable = self._send_queue.expired, self._send_queue.pump
        self._subscriptions = BrokerSubscriptions(wanted)
        self._subscriber = Subscriber(options, stats, self._on_answer)
        self.on_subscribed = self._subscriber.answered
        self._waiting: dict[str, list[tuple[str, asyncio.Future[None]]]] = {}  # filter held -> what for
        self._connection: AnyConnection | None = None
        self._connected = asyncio.Event()
        self._started: asyncio.Future[None] | None = None
        self._failure: BrokerError = BrokerClosed(f"there is no connection to {options.address}")
        self._task: asyncio.Task[None] | None = None
        self.retired = False
        """Set when the link shall not be started again."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    @property
    def sends_at_once(self) -> bool:
        """Whether what is published now would wait for nothing."""
        return self._send_queue.sends_at_once

    def start(self) -> asyncio.Future[None]:
        """Begin to connect, unless that is under way; return what is done when the first attempt ended.

        If it fails, everything that waits fails with the same error, and the link can be started again.
        """
        if self._started is None:
            loop = asyncio.get_running_loop()
            if self.retired:
                refused: asyncio.Future[None] = loop.create_future()
                set_exception(refused, self._failure)
                return refused
            self._started = loop.create_future()
            self._started.add_done_callback(_retrieve)
            self._task = loop.create_task(self._run(self._started), name=f"session {self.options.address}")
            self._task.add_done_callback(self._ended)
        return self._started

    async def started(self) -> None:
        """Begin to connect, unless that is under way, and wait until the first attempt has ended.

        Raises:
            BrokerUnavailable, BrokerRefused: It failed.
        """
        await asyncio.shield(self.start())

    async def wait_connected(self) -> None:
        """Wait until there is a connection; begin to connect if needed."""
        await self.started()
        await self._connected.wait()

    def move(self, host: str, port: int) -> None:
        """Connect to another address from the next connection on."""
        self.options = replace(self.options, host=host, port=port, others=())
        self._places = self.options.places()

    # -- publish -----------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        not_after: float | None = None,
        away: WhileAway = "queued",
        stop: bool = False,
        counted: bool = True,
    ) -> asyncio.Future[None]:
        """Send or queue a message; the future is done when the broker has taken it. See ``SendQueue``.

        Args:
            topic: Of the message, like the following.
            payload: As bytes.
            qos: 0, 1 or 2.
            retain: Keep it for late subscribers.
            not_after: See ``SendQueue.publish``.
            away: What becomes of it while there is no connection.
            stop: It goes before everything else.
            counted: It is a message of a channel, which a tap gets, and not a vendor's or one for the
                broker alone: a record compares the two.
        """
        self._stats.published += counted
        if self._started is None:
            return self._send_queue.refuse(topic, self._failure)
        self._subscriber.flush()  # subscribe, then publish: the message must come back
        if self._has_outbox and away == "stored" and qos and not_after is None:
            return self._send_queue.keep(topic, payload, qos, retain, stop=stop)
        is_for_now = away == "dropped" and not_after is None
        if is_for_now:
            loop = running_loop() or asyncio.get_running_loop()
            not_after = loop.time() + FOR_NOW_S
        return self._send_queue.publish(
            topic, payload, qos, retain, not_after, stop=stop, waits_for_first=is_for_now
        )

    # -- subscribe ---------------------------------------------------------------------------------

    def subscribe(self, filters: tuple[str, ...]) -> asyncio.Future[Any]:
        """Hold filters at the broker, and have their retained messages sent (again)."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in filters]
        for topic_filter, done in zip(filters, futures, strict=True):
            if self._started is None:
                set_exception(done, self._failure)
            else:
                self._hold(topic_filter, done)
        if len(futures) == 1:
            return futures[0]
        together = asyncio.gather(*futures)
        together.add_done_callback(_retrieve)
        return together

    def unsubscribe(self, topic_filter: str) -> None:
        """A filter has no subscription any more."""
        self._subscriber.forget(topic_filter)
        if self._connection is not None:
            self._apply(self._subscriptions.removed(topic_filter))

    def _hold(self, topic_filter: str, done: asyncio.Future[None]) -> None:
        cover = topic_filter
        if self._connection is not None:
            cover = self._subscriptions.add(topic_filter)
            self._subscriber.ask([cover])
        self._waiting.setdefault(cover, []).append((topic_filter, done))

    def _apply(self, change: SubscriptionChange) -> None:
        self._subscriber.ask(change.subscribe)
        if change.unsubscribe and self._connection is not None:
            self._subscriber.flush()
            self._connection.unsubscribe(change.unsubscribe)

    def _on_answer(self, topic_filter: str, refusal: BrokerError | None) -> None:
        waiting = self._waiting.pop(topic_filter, [])
        if refusal is None:
            self._apply(self._subscriptions.accepted(topic_filter))
            for _, done in waiting:
                if not done.done():
                    done.set_result(None)
            return
        self._stats.report("connection", topic_filter, str(refusal))
        self._apply(self._subscriptions.refused(topic_filter))
        for wanted, done in waiting:
            if wanted == topic_filter:
                set_exception(done, refusal)
            else:
                self._hold(wanted, done)  # narrower: perhaps granted by itself

    # -- connections -------------------------------------------------------------------------------

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            connection = await self._first_connection()
        except BrokerError as exc:
            self._stats.report("connection", self.options.address, str(exc), is_raised=True)
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
            why = await asyncio.shield(connection.lost)  # cancelled with us it could not be ended any more
            self._lose()
            self._place += 1  # the next one, where there are several
            if loop.time() - since >= STABLE_S:
                attempt = 0
            self._stats.report("connection", self.options.address, f"connection lost: {why}; reconnecting")
            connection, attempt = await self._reconnect(attempt)
            self._stats.reconnects += 1
            log.info("connected again to %s as %s", self.options.address, self.options.client_id)
            self._take_up(connection, again=True)

    async def _first_connection(self) -> AnyConnection:
        end_s = asyncio.get_running_loop().time() + self._patience_s
        attempt, said = 0, ""
        while True:
            failures = []
            for _ in self._places:
                try:
                    return await self._connect()
                except BrokerUnavailable as exc:
                    failures.append(exc)
            if asyncio.get_running_loop().time() >= end_s:
                raise failures[0] if len(failures) == 1 else BrokerUnavailable("; ".join(map(str, failures)))
            if str(failures[0]) != said:
                said = str(failures[0])
                self._stats.report("connection", self.options.address, f"still connecting: {said}")
            await self._pause(attempt)
            attempt += 1

    async def _pause(self, attempt: int) -> None:
        delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt, 20))
        await asyncio.sleep(delay_s * self._rng.uniform(0.5, 1.0))  # not all clients at the same moment

    async def _connect(self) -> AnyConnection:
        place = self._places[self._place % len(self._places)]
        connection = self._make_connection(place, self, self._will)
        try:
            await connection.open()
        except BrokerUnavailable:
            self._place += 1
            raise
        return connection

    async def _reconnect(self, attempt: int) -> tuple[AnyConnection, int]:
        said = ""
        while True:
            await self._pause(attempt)
            attempt += 1
            try:
                return await self._connect(), attempt
            except BrokerError as exc:
                if str(exc) != said:  # an outage is one line, not one a second
                    said = str(exc)
                    self._stats.report("connection", self.options.address, f"still reconnecting: {said}")

    def _take_up(self, connection: AnyConnection, *, again: bool) -> None:
        self._connection = connection
        self._subscriber.open(connection)
        self._subscriber.ask(self._subscriptions.restart().subscribe)
        waiting, self._waiting = self._waiting, {}
        for entries in waiting.values():
            for topic_filter, done in entries:
                self._hold(topic_filter, done)
        self._subscriber.flush()
        self._send_queue.open(connection)
        self._owner.on_connected(again)
        self._connected.set()

    def _lose(self) -> None:
        self._connection = None
        self._connected.clear()
        self._subscriber.close()
        self._send_queue.close()

    def _fail_all(self, exc: BrokerError) -> None:
        self._failure = exc
        self._send_queue.fail_all(exc)
        for waiting in self._waiting.values():
            for _, done in waiting:
                set_exception(done, exc)
        self._waiting.clear()

    # -- end ---------------------------------------------------------------------------------------

    async def close(self, wait_s: float = CLOSE_S) -> None:
        """Wait for outstanding messages, at most ``wait_s``; send DISCONNECT, and end. Idempotent."""
        outstanding = self._send_queue.outstanding() if self._started is not None else []
        if outstanding:
            await asyncio.wait(outstanding, timeout=wait_s)
        if self._connection is not None:
            self._connection.disconnect()
        await self.abort()

    def part(self) -> None:
        """Send DISCONNECT at once, whatever is outstanding, and end: the broker sends no will. Idempotent."""
        if self._connection is not None:
            self._connection.disconnect()
        self.drop()
        self.retired = True
        if self._task is not None:
            self._task.cancel()

    async def abort(self) -> None:
        """End without DISCONNECT: the broker sends the will. Idempotent."""
        self.drop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task is over: closed, cancelled by the end of its loop, or a fault of ours."""
        if task.cancelled():
            self.drop()
        elif (exc := task.exception()) is not None:
            self._stats.report("connection", self.options.address, "the connection's task failed", exc=exc)
            failure = BrokerUnavailable(f"the connection to {self.options.address} failed: {exc!r}")
            failure.__cause__ = exc
            self.drop(failure)

    def drop(self, why: BrokerError | None = None) -> None:
        """Close the connection's descriptor and fail what waits, without waiting for anything."""
        connection = self._connection
        self._lose()
        if connection is not None:
            connection.abort()
        why = why or BrokerClosed(f"the connection to {self.options.address} was closed")
        self._fail_all(why)
        started, self._started = self._started, None
        if started is not None:
            set_exception(started, why)


def _retrieve(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
