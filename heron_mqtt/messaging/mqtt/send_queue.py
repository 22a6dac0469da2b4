"""What was published and is not done: one bounded queue, and a window of unacknowledged messages.

Messages wait here while there is no connection, while the window is full, and while the broker does not
read. So after a reconnect they leave in order, at the pace of the broker's acknowledgements, and what was
not acknowledged goes first.

Messages with a time limit (``not_after``) never wait for a connection, and for nothing else longer than this
limit. After it they fail with ``MessageExpired``. They are not sent again on another connection.

With an outbox, what may come late waits there instead, behind what waits here; a stop goes before everything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from heron_mqtt.errors import BrokerError, BrokerOverflow, BrokerRefused, MessageExpired
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.outbox.kept_message import KeptMessage
from heron_mqtt.messaging.outbox.outbox import Outbox

WINDOW = 100
"""Messages of QoS 1 and 2 on their way at once. On loopback 20 and 1,000 are as fast; a far broker gains."""

LIVE_SHARE = 5  # one in so many places of the window is kept free of what comes from the outbox
MAX_SENDINGS = 5  # a message that ends the connection this often is taken for the reason
MAX_IGNORED = 3  # so often a message may stay without acknowledgement
MAX_PENDING_BYTES = 64 << 20  # of payloads that wait
ACKNOWLEDGE_S = 30.0
EXPIRED_REPORT_S = 10.0  # at most one line in this time says that messages expire


class Transmitter(Protocol):
    """What the send queue needs of a connection."""

    @property
    def receive_maximum(self) -> int:
        """How many unacknowledged messages the broker takes."""

    @property
    def ready(self) -> bool:
        """Whether a message handed over now would go out at once."""

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None) -> int:
        """Send a message and return its id; the answer comes later, never within the call."""

    @property
    def has_limits(self) -> bool:
        """Whether there are messages that the broker would not take."""

    def refusal(self, topic: str, payload: bytes, *, retain: bool) -> str | None:
        """Return why the broker would not take a message, or None."""

    def give_up(self, why: str) -> None:
        """End the connection because the broker does not do its part."""


@dataclass(slots=True)
class _QueuedMessage:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    not_after: float | None
    done: asyncio.Future[None]
    ended_connections: int = 0
    sent_at_s: float = 0.0
    stop: bool = False
    kept: KeptMessage | None = None  # in the outbox


class SendQueue:
    """Queue and window of one session. Made, and used, in one event loop.

    Args:
        address: The broker, for messages.
        stats: Counts and reports what is not delivered.
        max_pending: Messages that may wait; when full, the oldest fails with ``BrokerOverflow``.
        acknowledge_s: A broker that does not acknowledge a message for so long, and yet is there, is
            connected to again.
        topic_prefix: What stands before each topic at this broker; for messages.
        outbox: Where to keep what may come late; None = nowhere.
    """

    def __init__(
        self,
        address: str,
        stats: MessageStats,
        max_pending: int,
        acknowledge_s: float = ACKNOWLEDGE_S,
        *,
        topic_prefix: str = "",
        outbox: Outbox | None = None,
    ) -> None:
        self._outbox = outbox
        if outbox is not None:
            outbox.on_ready = self.pump
        self._acknowledge_s = acknowledge_s
        self._deadline: asyncio.TimerHandle | None = None
        self._address = address
        self._topic_prefix = topic_prefix
        self._stats = stats
        self._max_pending = max_pending
        self._pending: deque[_QueuedMessage] = deque()
        self._pending_bytes = 0
        self._in_flight: dict[int, _QueuedMessage] = {}
        self._connection: Transmitter | None = None
        self._was_open = False
        self._window = WINDOW
        self._has_limits = False
        self._acknowledged = 0
        self._ignored = False  # the oldest was not acknowledged in time: that is why the connection ends
        self._overflowed = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # of the first message
        self._alarm: asyncio.TimerHandle | None = None
        self._expired = 0  # since the last report of that
        self._expired_reported_s = float("-inf")

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        not_after: float | None = None,
        *,
        stop: bool = False,
        waits_for_first: bool = False,
    ) -> asyncio.Future[None]:
        """Send or queue a message; the future is done when the broker has taken it.

        Args:
            topic: Of the message.
            payload: As bytes.
            qos: 0, 1 or 2.
            retain: Keep it for late subscribers.
            not_after: By the loop's clock; then, or without a connection, it fails with
                ``MessageExpired`` instead of waiting.
            stop: It goes before everything else.
            waits_for_first: With ``not_after``, it waits until then for the very first connection.
        """
        loop = self._loop = running_loop() or asyncio.get_running_loop()
        message = _QueuedMessage(topic, payload, qos, retain, not_after, loop.create_future(), 0, 0.0, stop)
        connection, now_s = self._connection, loop.time()
        waits = waits_for_first and not self._was_open
        if not_after is not None and connection is None and not waits:
            self._expire(topic, "there is no connection", message.done)
        elif not_after is not None and now_s > not_after:
            self._expire(topic, "its time had passed when it was published", message.done)
        elif connection is not None and (
            self._may_send_stop(connection) if stop else not self._pending and self._may_send(connection)
        ):
            self._send_now(connection, message, now_s)
        else:
            self._queue(message)
        return message.done

    @property
    def sends_at_once(self) -> bool:
        """Whether what is published now would wait for nothing: connection, other messages, window."""
        return self._connection is not None and not self._pending and self._may_send(self._connection)

    def keep(self, topic: str, payload: bytes, qos: int, retain: bool, *, stop: bool) -> asyncio.Future[None]:
        """Send a message by way of the outbox; the future is done as that of ``Outbox.add``."""
        assert self._outbox is not None, "there is no outbox"
        self._loop = asyncio.get_running_loop()
        done = self._outbox.add(topic, payload, qos, retain, stop=stop).done
        assert done is not None
        self.pump()
        return done

    def refuse(self, topic: str, exc: BrokerError) -> asyncio.Future[None]:
        """Count and report a message that cannot even wait; return its failed future."""
        message = _QueuedMessage(topic, b"", 0, False, None, asyncio.get_running_loop().create_future())
        self._fail(message, exc)
        return message.done

    def acknowledged(self, mid: int, refusal: str | None) -> None:
        """The broker answered the message that ``Transmitter.publish`` gave this id."""
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        self._acknowledged += 1
        if message.kept is not None and self._outbox is not None:
            self._outbox.settle(message.kept)
        if refusal is not None:
            self._fail(
                message, BrokerRefused(f"{self._address} refuses {self._full(message.topic)}: {refusal}")
            )
        elif not message.done.done():
            message.done.set_result(None)
        if self._pending or self._outbox is not None:
            self.pump()

    def expired(self, mid: int, topic: str) -> None:
        """The connection dropped a message with a time limit before any byte of it was sent."""
        message = self._in_flight.pop(mid, None)
        if mid and message is None:
            return  # it was given up with the connection
        # at QoS 0 it is done for its publisher, but not lost silently
        self._expire(topic, "the broker does not read", message.done if message is not None else None)

    def open(self, connection: Transmitter) -> None:
        """There is a connection: send what waits."""
        self._connection = connection
        self._was_open = True
        self._has_limits = connection.has_limits
        self._window = min(WINDOW, connection.receive_maximum)
        self._acknowledged = 0
        self.pump()
        if self._overflowed:
            what = f"{self._overflowed} messages were dropped because the queue was full"
            self._stats.report("overflow", self._address, what)
            self._overflowed = 0

    def close(self) -> None:
        """The connection is gone: what was not acknowledged will be sent again, before everything else."""
        self._connection = None
        unsure, self._in_flight = list(self._in_flight.values()), {}
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        ignored, self._ignored = self._ignored, False
        if unsure and (self._acknowledged == 0 or ignored):
            unsure[0].ended_connections += 1
            if unsure[0].ended_connections >= (MAX_IGNORED if ignored else MAX_SENDINGS):
                message = unsure.pop(0)
                size, topic = len(message.payload), self._full(message.topic)
                why = (
                    f"does not acknowledge {size} bytes on {topic} within {self._acknowledge_s:g} s"
                    if ignored
                    else f"ends the connection whenever {size} bytes are published on {topic}"
                )
                self._fail(
                    message, BrokerRefused(f"{self._address} {why}: check its size limit and access rights")
                )
        if self._outbox is not None:
            self._outbox.give_back(m.kept for m in unsure if m.kept is not None)
            unsure = [m for m in unsure if m.kept is None]
        self._pending.extendleft(reversed(unsure))
        self._pending_bytes += sum(len(m.payload) for m in unsure)
        timed = [m for m in self._pending if m.not_after is not None]
        if timed:
            self._pending = deque(m for m in self._pending if m.not_after is None)
        for message in timed:
            self._pending_bytes -= len(message.payload)
            self._expire(message.topic, "the connection was lost before it was acknowledged", message.done)
        self._cancel_alarm()

    def outstanding(self) -> list[asyncio.Future[None]]:
        """Return what was published and is not done."""
        return [m.done for m in (*self._in_flight.values(), *self._pending)]

    def fail_all(self, exc: BrokerError) -> None:
        """Give up everything that is not done; what is in the outbox is kept there."""
        if self._outbox is not None:
            self._outbox.give_back(m.kept for m in self._in_flight.values() if m.kept is not None)
            self._outbox.fail_waiting(exc)
        unsent = [m for m in (*self._in_flight.values(), *self._pending) if m.kept is None]
        self._in_flight.clear()
        self._pending.clear()
        self._pending_bytes = 0
        self._cancel_alarm()
        if unsent:
            self._stats.undelivered += len(unsent)
            self._stats.report("delivery", self._address, f"{len(unsent)} messages were not delivered: {exc}")
        for message in unsent:
            set_exception(message.done, exc)

    def pump(self) -> None:
        """Send what waits, as far as window and connection allow."""
        while (connection := self._connection) is not None:
            message = self._next_to_send(connection)
            if message is None:
                return
            self._send_now(connection, message, asyncio.get_running_loop().time())

    # -- one message -------------------------------------------------------------------------------

    def _next_to_send(self, connection: Transmitter) -> _QueuedMessage | None:
        """Return what goes next, if anything may go: stops, what waits here, what is kept."""
        pending, outbox = self._pending, self._outbox
        if outbox is not None and outbox.has_stop and self._may_send_stop(connection):
            kept = outbox.take_stop()
            return None if kept is None else self._of_outbox(kept)
        if pending and (self._may_send_stop(connection) if pending[0].stop else self._may_send(connection)):
            return self._next()
        if pending or outbox is None or not self._may_send(connection):
            return None
        if len(self._in_flight) >= self._window - self._window // LIVE_SHARE:
            return None
        kept = outbox.take()
        return None if kept is None else self._of_outbox(kept)

    def _of_outbox(self, kept: KeptMessage) -> _QueuedMessage:
        loop = asyncio.get_running_loop()
        done = kept.done or loop.create_future()
        payload = kept.payload_at(loop.time())
        return _QueuedMessage(kept.topic, payload, kept.qos, kept.retain, None, done, kept=kept)

    def _may_send_stop(self, connection: Transmitter) -> bool:
        """Whether a stop may be sent now: the window is no reason to wait."""
        return len(self._in_flight) < connection.receive_maximum and connection.ready

    def _next(self) -> _QueuedMessage:
        message = self._pending.popleft()
        self._pending_bytes -= len(message.payload)
        return message

    def _full(self, topic: str) -> str:
        """Return a topic as it is at the broker, for messages."""
        return repr(self._topic_prefix + topic)

    def _may_send(self, connection: Transmitter) -> bool:
        return len(self._in_flight) < self._window and connection.ready

    def _send_now(self, connection: Transmitter, message: _QueuedMessage, now_s: float) -> None:
        if message.not_after is not None and now_s > message.not_after:
            self._expire(message.topic, "others were before it", message.done)
            return
        if self._has_limits:
            why = connection.refusal(message.topic, message.payload, retain=message.retain)
            if why is not None:
                topic = self._full(message.topic)
                self._fail(message, BrokerRefused(f"{self._address}: {topic} was not sent: {why}"))
                return
        mid = connection.publish(
            message.topic, message.payload, message.qos, message.retain, message.not_after
        )
        if message.qos:
            message.sent_at_s = now_s
            self._in_flight[mid] = message
            if self._deadline is None:
                self._set_deadline(message)
        elif not message.done.done():
            message.done.set_result(None)

    def _queue(self, message: _QueuedMessage) -> None:
        size = len(message.payload)
        while self._pending and (
            len(self._pending) >= self._max_pending or self._pending_bytes + size > MAX_PENDING_BYTES
        ):
            self._overflow(self._next())
        if message.stop:
            self._pending.appendleft(message)
        else:
            self._pending.append(message)
        self._pending_bytes += size
        if message.not_after is not None and (self._alarm is None or message.not_after < self._alarm.when()):
            self._set_alarm(message.not_after)

    def _fail(self, message: _QueuedMessage, exc: BrokerError) -> None:
        if message.kept is not None and self._outbox is not None:
            self._outbox.settle(message.kept)
        self._stats.undelivered += 1
        self._stats.report("delivery", message.topic, str(exc))
        set_exception(message.done, exc)

    def _overflow(self, message: _QueuedMessage) -> None:
        self._stats.overflowed += 1
        self._stats.undelivered += 1
        full = len(self._pending) + 1 >= self._max_pending
        bound = f"{self._max_pending} messages" if full else f"{MAX_PENDING_BYTES >> 20} MiB"
        what = f"more than {bound} wait to be sent; the oldest is dropped"
        if self._overflowed == 0:  # one line for the first, one for the sum when they flow again
            self._stats.report("overflow", message.topic, what)
        self._overflowed += 1
        set_exception(message.done, BrokerOverflow(f"{message.topic}: {what}"))

    # -- acknowledgements --------------------------------------------------------------------------

    def _set_deadline(self, oldest: _QueuedMessage) -> None:
        when_s = oldest.sent_at_s + self._acknowledge_s
        self._deadline = asyncio.get_running_loop().call_at(when_s, self._on_deadline)

    def _on_deadline(self) -> None:
        """Look whether the oldest message on its way was acknowledged in time."""
        self._deadline = None
        oldest = next(iter(self._in_flight.values()), None)
        if oldest is None or self._connection is None:
            return
        waited_s = asyncio.get_running_loop().time() - oldest.sent_at_s
        if waited_s < self._acknowledge_s - 0.01:
            self._set_deadline(oldest)
            return
        self._ignored = True
        self._connection.give_up(
            f"the broker does not acknowledge {self._full(oldest.topic)} within {self._acknowledge_s:g} s"
        )

    # -- time limits -------------------------------------------------------------------------------

    def _expire(self, topic: str, why: str, done: asyncio.Future[None] | None) -> None:
        self._stats.expired += 1
        self._expired += 1
        now_s = self._loop.time() if self._loop is not None else 0.0
        if now_s - self._expired_reported_s >= EXPIRED_REPORT_S:
            what = f"not sent: {why}" + (f" ({self._expired} such messages)" if self._expired > 1 else "")
            self._stats.report("expired", topic, what)
            self._expired, self._expired_reported_s = 0, now_s
        if done is not None:
            set_exception(done, MessageExpired(f"{topic}: not sent to {self._address}: {why}"))

    def _set_alarm(self, when_s: float) -> None:
        """Wake up when the next waiting message expires, to report this to its publisher."""
        self._cancel_alarm()
        self._alarm = asyncio.get_running_loop().call_at(when_s, self._on_alarm, when_s)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _on_alarm(self, when_s: float) -> None:
        self._alarm = None
        now_s = max(asyncio.get_running_loop().time(), when_s)  # a timer may be early by its resolution
        for message in [m for m in self._pending if m.not_after is not None and m.not_after <= now_s]:
            self._pending.remove(message)
            self._pending_bytes -= len(message.payload)
            self._expire(message.topic, "others were before it, or the broker does not read", message.done)
        limits = [m.not_after for m in self._pending if m.not_after is not None]
        if limits:
            self._set_alarm(min(limits))


def set_exception(done: asyncio.Future[None], exc: BrokerError) -> None:
    """Fail a future that need not be awaited: the failure is reported too."""
    if not done.done():
        done.set_exception(exc)
        done.exception()
