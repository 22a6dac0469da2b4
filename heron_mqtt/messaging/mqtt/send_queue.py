"""What was published and is not done: one bounded queue, and a window of unacknowledged messages.

Messages wait here while there is no connection and while the window is full. So after a reconnect they
leave in order, at the pace of the broker's acknowledgements, and what was not acknowledged goes first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from heron_mqtt.errors import BrokerError, BrokerOverflow, BrokerRefused
from heron_mqtt.messaging.core.stats import MessageStats

WINDOW = 100
"""Messages of QoS 1 and 2 on their way at once. On loopback 20 and 1,000 are as fast; a far broker gains."""

MAX_SENDINGS = 5  # a message that ends the connection this often is taken for the reason

Send = Callable[[str, bytes, int, bool], int]


@dataclass(slots=True)
class _QueuedMessage:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    done: asyncio.Future[None]
    ended_connections: int = 0


class SendQueue:
    """Queue and window of one link.

    Args:
        address: The broker, for messages.
        stats: Counts and reports what is not delivered.
        max_pending: Messages that may wait; when full, the oldest fails with ``BrokerOverflow``.
    """

    def __init__(self, address: str, stats: MessageStats, max_pending: int) -> None:
        self._address = address
        self._stats = stats
        self._max_pending = max_pending
        self._pending: deque[_QueuedMessage] = deque()
        self._in_flight: dict[int, _QueuedMessage] = {}
        self._send: Send | None = None
        self._window = WINDOW
        self._acknowledged = 0
        self._overflowed = 0

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> asyncio.Future[None]:
        """Send or queue a message; the future is done when the broker has taken it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        message = _QueuedMessage(topic, payload, qos, retain, done)
        if self._send is not None and not self._pending and len(self._in_flight) < self._window:
            self._send_now(self._send, message)
            return done
        if len(self._pending) >= self._max_pending:
            self._overflow(self._pending.popleft())
        self._pending.append(message)
        return done

    def refuse(self, topic: str, exc: BrokerError) -> asyncio.Future[None]:
        """Count and report a message that cannot even wait; return its failed future."""
        message = _QueuedMessage(topic, b"", 0, False, asyncio.get_running_loop().create_future())
        self._fail(message, exc)
        return message.done

    def acknowledged(self, mid: int, refusal: str | None) -> None:
        """The broker answered the message that ``send`` gave this id."""
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        self._acknowledged += 1
        if refusal is not None:
            self._fail(message, BrokerRefused(f"{self._address} refuses {message.topic!r}: {refusal}"))
        elif not message.done.done():
            message.done.set_result(None)
        if self._pending:
            self._pump()

    def open(self, send: Send, receive_maximum: int) -> None:
        """There is a connection: send what waits.

        Args:
            send: Sends a message and returns its id; the answer comes later, never within the call.
            receive_maximum: How many unacknowledged messages the broker takes.
        """
        self._send = send
        self._window = min(WINDOW, receive_maximum)
        self._acknowledged = 0
        self._pump()
        if self._overflowed:
            what = f"{self._overflowed} messages were dropped because the queue was full"
            self._stats.report("overflow", self._address, what)
            self._overflowed = 0

    def close(self) -> None:
        """The connection is gone: what was not acknowledged will be sent again, before everything else."""
        self._send = None
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

    def outstanding(self) -> list[asyncio.Future[None]]:
        """Return what was published and is not done."""
        return [m.done for m in (*self._in_flight.values(), *self._pending)]

    def fail_all(self, exc: BrokerError) -> None:
        """Give up everything that is not done."""
        unsent = [*self._in_flight.values(), *self._pending]
        self._in_flight.clear()
        self._pending.clear()
        if unsent:
            self._stats.undelivered += len(unsent)
            self._stats.report("delivery", self._address, f"{len(unsent)} messages were not delivered: {exc}")
        for message in unsent:
            set_exception(message.done, exc)

    def _send_now(self, send: Send, message: _QueuedMessage) -> None:
        mid = send(message.topic, message.payload, message.qos, message.retain)
        if message.qos:
            self._in_flight[mid] = message
        elif not message.done.done():
            message.done.set_result(None)

    def _pump(self) -> None:
        while self._send is not None and self._pending and len(self._in_flight) < self._window:
            self._send_now(self._send, self._pending.popleft())

    def _fail(self, message: _QueuedMessage, exc: BrokerError) -> None:
        self._stats.undelivered += 1
        self._stats.report("delivery", message.topic, str(exc))
        set_exception(message.done, exc)

    def _overflow(self, message: _QueuedMessage) -> None:
        self._stats.overflowed += 1
        self._stats.undelivered += 1
        what = f"more than {self._max_pending} messages wait to be sent; the oldest is dropped"
        if self._overflowed == 0:  # one line for the first, one for the sum when they flow again
            self._stats.report("overflow", message.topic, what)
        self._overflowed += 1
        set_exception(message.done, BrokerOverflow(f"{message.topic}: {what}"))


def set_exception(done: asyncio.Future[None], exc: BrokerError) -> None:
    """Fail a future that nobody has to await: the failure is reported too."""
    if not done.done():
        done.set_exception(exc)
        done.exception()
