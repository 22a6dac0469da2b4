"""What was published and is not done: one bounded queue, and a window of unacknowledged messages.

Messages wait here while there is no connection, while the window is full, and while the broker does not
read. So after a reconnect they leave in order, at the pace of the broker's acknowledgements, and what was
not acknowledged goes first.

Messages with a time limit (``not_after``) never wait for a connection, and wait for nothing longer than
that: they fail with ``MessageExpired``, and are not sent again on another connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from heron_mqtt.errors import BrokerError, BrokerOverflow, BrokerRefused, MessageExpired
from heron_mqtt.messaging.core.stats import BrokerStats

WINDOW = 100
"""Messages of QoS 1 and 2 on their way at once. On loopback 20 and 1,000 are as fast; a far broker gains."""

MAX_SENDINGS = 5  # a message that ends the connection this often is taken for the reason
EXPIRED_REPORT_S = 10.0  # at most one line in this time says that messages expire


class Transmitter(Protocol):
    """What the outbox needs of a connection."""

    @property
    def receive_maximum(self) -> int:
        """How many unacknowledged messages the broker takes."""

    @property
    def ready(self) -> bool:
        """Whether a message handed over now would go out at once."""

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None) -> int:
        """Send a message and return its id; the answer comes later, never within the call."""


@dataclass(slots=True)
class _Outgoing:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    not_after: float | None
    done: asyncio.Future[None]
    ended_connections: int = 0


class Outbox:
    """Queue and window of one link. Made, and used, in one event loop.

    Args:
        address: The broker, for messages.
        stats: Counts and reports what is not delivered.
        max_pending: Messages that may wait; when full, the oldest fails with ``BrokerOverflow``.
    """

    def __init__(self, address: str, stats: BrokerStats, max_pending: int) -> None:
        self._address = address
        self._stats = stats
        self._max_pending = max_pending
        self._pending: deque[_Outgoing] = deque()
        self._in_flight: dict[int, _Outgoing] = {}
        self._connection: Transmitter | None = None
        self._window = WINDOW
        self._acknowledged = 0
        self._overflowed = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # of the first message
        self._alarm: asyncio.TimerHandle | None = None
        self._expired = 0  # since the last report of that
        self._expired_reported_s = float("-inf")

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None = None
    ) -> asyncio.Future[None]:
        """Send or queue a message; the future is done when the broker has taken it.

        Args:
            topic: Of the message.
            payload: As bytes.
            qos: 0, 1 or 2.
            retain: Keep it for late subscribers.
            not_after: By the loop's clock; then, or without a connection, it fails with
                ``MessageExpired`` instead of waiting.
        """
        loop = self._loop = asyncio.get_running_loop()
        message = _Outgoing(topic, payload, qos, retain, not_after, loop.create_future())
        if not_after is not None and self._connection is None:
            self._expire(topic, "there is no connection", message.done)
        elif not_after is not None and loop.time() > not_after:
            self._expire(topic, "its time had passed when it was published", message.done)
        elif self._connection is not None and not self._pending and self._may_send(self._connection):
            self._send_now(self._connection, message)
        else:
            self._queue(message)
        return message.done

    def refuse(self, topic: str, exc: BrokerError) -> asyncio.Future[None]:
        """Count and report a message that cannot even wait; return its failed future."""
        message = _Outgoing(topic, b"", 0, False, None, asyncio.get_running_loop().create_future())
        self._fail(message, exc)
        return message.done

    def acknowledged(self, mid: int, refusal: str | None) -> None:
        """The broker answered the message that ``Transmitter.publish`` gave this id."""
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        self._acknowledged += 1
        if refusal is not None:
            self._fail(message, BrokerRefused(f"{self._address} refuses {message.topic!r}: {refusal}"))
        elif not message.done.done():
            message.done.set_result(None)
        if self._pending:
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
        if unsure and self._acknowledged == 0:
            unsure[0].ended_connections += 1
            if unsure[0].ended_connections >= MAX_SENDINGS:
                message = unsure.pop(0)
                self._fail(
                    message,
                    BrokerRefused(
                        f"{self._address} ends the connection whenever {len(message.payload)} bytes are "
                        f"published on {message.topic!r}: check its size limit and access rights"
                    ),
                )
        self._pending.extendleft(reversed(unsure))
        timed = [m for m in self._pending if m.not_after is not None]
        if timed:
            self._pending = deque(m for m in self._pending if m.not_after is None)
        for message in timed:
            self._expire(message.topic, "the connection was lost before it was acknowledged", message.done)
        self._cancel_alarm()

    def outstanding(self) -> list[asyncio.Future[None]]:
        """Return what was published and is not done."""
        return [m.done for m in (*self._in_flight.values(), *self._pending)]

    def fail_all(self, exc: BrokerError) -> None:
        """Give up everything that is not done."""
        unsent = [*self._in_flight.values(), *self._pending]
        self._in_flight.clear()
        self._pending.clear()
        self._cancel_alarm()
        if unsent:
            self._stats.undelivered += len(unsent)
            self._stats.report("delivery", self._address, f"{len(unsent)} messages were not delivered: {exc}")
        for message in unsent:
            set_exception(message.done, exc)

    def pump(self) -> None:
        """Send what waits, as far as window and connection allow."""
        while self._connection is not None and self._pending and self._may_send(self._connection):
            self._send_now(self._connection, self._pending.popleft())

    # -- one message -------------------------------------------------------------------------------

    def _may_send(self, connection: Transmitter) -> bool:
        return len(self._in_flight) < self._window and connection.ready

    def _send_now(self, connection: Transmitter, message: _Outgoing) -> None:
        if message.not_after is not None and asyncio.get_running_loop().time() > message.not_after:
            self._expire(message.topic, "others were before it", message.done)
            return
        mid = connection.publish(
            message.topic, message.payload, message.qos, message.retain, message.not_after
        )
        if message.qos:
            self._in_flight[mid] = message
        elif not message.done.done():
            message.done.set_result(None)

    def _queue(self, message: _Outgoing) -> None:
        if len(self._pending) >= self._max_pending:
            self._overflow(self._pending.popleft())
        self._pending.append(message)
        if message.not_after is not None and (self._alarm is None or message.not_after < self._alarm.when()):
            self._set_alarm(message.not_after)

    def _fail(self, message: _Outgoing, exc: BrokerError) -> None:
        self._stats.undelivered += 1
        self._stats.report("delivery", message.topic, str(exc))
        set_exception(message.done, exc)

    def _overflow(self, message: _Outgoing) -> None:
        self._stats.overflowed += 1
        self._stats.undelivered += 1
        what = f"more than {self._max_pending} messages wait to be sent; the oldest is dropped"
        if self._overflowed == 0:  # one line for the first, one for the sum when they flow again
            self._stats.report("overflow", message.topic, what)
        self._overflowed += 1
        set_exception(message.done, BrokerOverflow(f"{message.topic}: {what}"))

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
        """Wake up when the next of those that wait expires: its publisher is told then."""
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
            self._expire(message.topic, "others were before it, or the broker does not read", message.done)
        limits = [m.not_after for m in self._pending if m.not_after is not None]
        if limits:
            self._set_alarm(min(limits))


def set_exception(done: asyncio.Future[None], exc: BrokerError) -> None:
    """Fail a future that nobody has to await: the failure is reported too."""
    if not done.done():
        done.set_exception(exc)
        done.exception()
