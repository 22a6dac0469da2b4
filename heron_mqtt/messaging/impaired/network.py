"""The network itself: messages enter, wait for their time, and come out, or do not.

Order: the messages of a channel and direction leave in the order in which they entered. One that draws
a shorter delay than the one before it waits for that one, so jitter alone never reorders. Only a message
that the rule holds back (``reorder``) lets later ones overtake it, for ``reorder_s``. A copy follows its
original directly. Between channels there is no order, as between the topics of any broker.

Runs in one event loop; time and timers are handed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from heron_mqtt.errors import BrokerClosed, BrokerOverflow, MessageExpired
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.subscription import MAX_CHANNELS
from heron_mqtt.messaging.impaired.channel_queue import (
    ChannelQueue,
    InFlight,
    ScheduledMessage,
    Timer,
    Timers,
)
from heron_mqtt.messaging.impaired.event_log import Event, ImpairmentLog, TrafficStream, What
from heron_mqtt.messaging.impaired.sampler import Impairment
from heron_mqtt.messaging.impairment import Direction, ImpairmentTable
from heron_mqtt.messaging.tap import MessageTap


class Network:
    """What lies between this process and its broker.

    Args:
        table: How it misbehaves.
        seed: Of all that is drawn, unless the table has its own.
        log: Takes down what is done to which message.
        on_overflow: Called with the channel of each message that was dropped because too many were on
            their way.
    """

    def __init__(
        self, table: ImpairmentTable, seed: int, log: ImpairmentLog, on_overflow: Callable[[str], None]
    ) -> None:
        self.step: int | None = None
        """The step under way, for messages that do not say: read from ``run/state``, or set from outside."""
        self.tap: MessageTap | None = None
        self.in_flight: dict[int, ScheduledMessage] = {}  # by entry: the oldest comes first
        self._table = table
        self._seed = seed if table.seed is None else table.seed
        self._log = log
        self._on_overflow = on_overflow
        self._channel_queues: dict[tuple[Direction, str], ChannelQueue] = {}
        self._queue: list[ScheduledMessage] = []  # a heap; those no longer in flight are skipped
        self._entries = 0
        self._timers: Timers | None = None
        self._timer: Timer | None = None
        self._timer_s = 0.0
        self._start_s = 0.0

    def start(self, timers: Timers) -> None:
        """Begin to count time; partitions in seconds are counted from here. Idempotent."""
        if self._timers is None:
            self._timers = timers
            self._start_s = timers.time()

    def now_s(self) -> float:
        """Return the time by the clock that was handed in, s."""
        assert self._timers is not None, "start() comes first"
        return self._timers.time()

    # -- in ----------------------------------------------------------------------------------------

    def send(
        self,
        stream: TrafficStream,
        channel: str,
        message: Mapping[str, Any],
        item: InFlight,
        *,
        sure: bool = False,
        not_after: float | None = None,
    ) -> None:
        """Take a message; ``item`` hears at once or later what became of it.

        Args:
            stream: Which way it goes.
            channel: Its channel.
            message: Looked at for its step and for the record.
            item: The message.
            sure: It is repeated until it is through: never lost, copied, held back or cut off.
            not_after: A partition holds it back no longer than until then.
        """
        assert self._timers is not None, "start() comes first"
        now_s = self._timers.time()
        queue = self._channel_queue("out" if stream == "out" else "in", channel)
        step = self._step_of(channel, message)
        sampler = queue.sampler(stream)
        n = sampler.sampled
        impairment = sampler.sample()
        window = queue.cut(now_s - self._start_s, step)
        if sure:
            impairment, window = Impairment(delay_s=impairment.delay_s), None
        counts = self._log.of(stream, channel)

        def note(what: What, delay_s: float = 0.0) -> None:
            if self.tap is not None:
                self.tap.impaired(stream, channel, message, what, delay_s)
            self._log.events.append(
                Event(
                    at_s=now_s - self._start_s,
                    stream=stream,
                    channel=channel,
                    n=n,
                    what=what,
                    delay_s=delay_s,
                    sender=_text(message.get("sender")),
                    seq=_number(message.get("seq")),
                    step=step,
                )
            )

        if window is not None and not window.hold:
            counts.partitioned += 1
            note("partitioned")
            item.vanish(None)
            return
        if impairment.lost:
            counts.lost += 1
            counts.lost_in_burst += impairment.in_burst
            note("lost")
            item.vanish(None)
            return
        due_s = now_s + impairment.delay_s
        if window is not None and window.end_s is not None:
            counts.held += 1
            held_until_s = self._start_s + window.end_s
            if not_after is not None and held_until_s > not_after:
                counts.partitioned += 1
                note("partitioned")
                item.vanish(MessageExpired(f"{channel}: not sent in time: the network is cut off"))
                return
            due_s = max(due_s, held_until_s)
        if queue.waiting:
            due_s = max(due_s, queue.last_due_s)
        if impairment.held_back and queue.rule is not None:
            counts.reordered += 1
            due_s += queue.rule.reorder_s
            note("reordered", due_s - now_s)
        elif due_s > now_s:
            note("delayed" if window is None else "held", due_s - now_s)
        if impairment.duplicated:
            note("duplicated")
        self._entries += 1
        scheduled = ScheduledMessage(
            queue,
            stream,
            n,
            self._entries,
            due_s,
            due_s - now_s,
            item,
            impairment,
            is_held=window is not None,
        )
        if due_s <= now_s and not queue.waiting:
            self._deliver(scheduled)
        else:
            self._enqueue(scheduled)

    def _enqueue(self, scheduled: ScheduledMessage) -> None:
        if len(self.in_flight) >= self._table.max_in_flight:
            oldest = next(iter(self.in_flight.values()))
            self._leave(oldest)
            channel = oldest.queue.channel
            self._log.of(oldest.stream, channel).overflowed += 1
            self._on_overflow(channel)
            oldest.item.vanish(
                BrokerOverflow(
                    f"more than {self._table.max_in_flight} messages on their way in the impaired network; "
                    f"the oldest, on {channel}, was dropped"
                )
            )
        self.in_flight[scheduled.entry] = scheduled
        heapq.heappush(self._queue, scheduled)
        if not scheduled.impairment.held_back:
            scheduled.queue.waiting += 1
            scheduled.queue.last_due_s = scheduled.due_s
        self._set_timer()

    # -- out ---------------------------------------------------------------------------------------

    def _deliver_due(self) -> None:
        """Hand over whatever is due; called by the timer."""
        assert self._timers is not None
        now_s = max(self._timers.time(), self._timer_s)  # a timer may be early by the clock's resolution
        self._timer = None
        try:
            while self._queue and self._queue[0].due_s <= now_s:
                scheduled = heapq.heappop(self._queue)
                if scheduled.entry in self.in_flight:
                    self._leave(scheduled)
                    self._deliver(scheduled)
        finally:
            self._set_timer()

    def _deliver(self, scheduled: ScheduledMessage) -> None:
        queue, counts = scheduled.queue, self._log.of(scheduled.stream, scheduled.queue.channel)
        counts.passed += 1
        if scheduled.delay_s > 0.0:
            counts.delayed += 1
            counts.delay_sum_s += scheduled.delay_s
            counts.delay_max_s = max(counts.delay_max_s, scheduled.delay_s)
        if scheduled.stream != "retained":
            counts.overtaken += scheduled.n < queue.last_delivered
            queue.last_delivered = max(queue.last_delivered, scheduled.n)
        scheduled.item.arrive()
        if scheduled.impairment.duplicated:
            counts.duplicated += 1
            scheduled.item.arrive()

    def _leave(self, scheduled: ScheduledMessage) -> None:
        del self.in_flight[scheduled.entry]
        scheduled.queue.waiting -= not scheduled.impairment.held_back

    def _set_timer(self) -> None:
        while self._queue and self._queue[0].entry not in self.in_flight:
            heapq.heappop(self._queue)
        if self._timer is not None and (not self._queue or self._queue[0].due_s < self._timer_s):
            self._timer.cancel()
            self._timer = None
        if self._queue and self._timer is None and self._timers is not None:
            self._timer_s = self._queue[0].due_s
            self._timer = self._timers.call_at(self._timer_s, self._deliver_due)

    def close(self, *, deliver: bool) -> None:
        """Empty the network: what was published continues at once, the rest is abandoned.

        Args:
            deliver: False = there is no receiver any more.
        """
        for scheduled in sorted(self.in_flight.values()):
            if scheduled.entry not in self.in_flight:
                continue
            self._leave(scheduled)
            if deliver and scheduled.stream == "out" and not scheduled.is_held:
                self._deliver(scheduled)
            else:
                self._log.of(scheduled.stream, scheduled.queue.channel).abandoned += 1
                scheduled.item.vanish(
                    BrokerClosed(f"closed while a message on {scheduled.queue.channel} was on its way")
                )
        self._set_timer()

    # -- where and when ----------------------------------------------------------------------------

    def _channel_queue(self, direction: Direction, channel: str) -> ChannelQueue:
        queue = self._channel_queues.get((direction, channel))
        if queue is None:
            if (
                len(self._channel_queues) >= MAX_CHANNELS
            ):  # its numbers begin again; those on their way keep it
                del self._channel_queues[next(iter(self._channel_queues))]
            queue = self._channel_queues[direction, channel] = ChannelQueue(
                direction, channel, self._table, self._seed
            )
        return queue

    def _step_of(self, channel: str, message: Mapping[str, Any]) -> int | None:
        step = message.get("step")
        known = step if type(step) is int else None
        if channel == topics.RUN_STATE:
            self.step = known
        return self.step if known is None else known


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if type(value) is int else None
