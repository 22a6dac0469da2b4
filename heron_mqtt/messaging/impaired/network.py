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

from heron_mqtt.errors import BrokerClosed, BrokerOverflow
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.subscription import MAX_CHANNELS
from heron_mqtt.messaging.impaired.channel_queue import Flight, Lane, Parcel, Timer, Timers
from heron_mqtt.messaging.impaired.event_log import Event, Record, Stream, What
from heron_mqtt.messaging.impaired.sampler import Fate
from heron_mqtt.messaging.impairment import Direction, ImpairmentTable
from heron_mqtt.messaging.tap import MessageTap


class Network:
    """What lies between this process and its broker.

    Args:
        table: How it misbehaves.
        seed: Of all that is drawn, unless the table has its own.
        record: Takes down what is done to which message.
        on_overflow: Called with the channel of each message that was dropped because too many were on
            their way.
    """

    def __init__(
        self, table: ImpairmentTable, seed: int, record: Record, on_overflow: Callable[[str], None]
    ) -> None:
        self.step: int | None = None
        """The step under way, for messages that do not say: read from ``run/state``, or set from outside."""
        self.tap: MessageTap | None = None
        self.in_flight: dict[int, Flight] = {}  # by entry: the oldest comes first
        self._table = table
        self._seed = seed if table.seed is None else table.seed
        self._record = record
        self._on_overflow = on_overflow
        self._lanes: dict[tuple[Direction, str], Lane] = {}
        self._queue: list[Flight] = []  # a heap; those no longer in flight are skipped
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

    # -- in ----------------------------------------------------------------------------------------

    def send(
        self, stream: Stream, channel: str, message: Mapping[str, Any], parcel: Parcel, *, sure: bool = False
    ) -> None:
        """Take a message; ``parcel`` hears at once or later what became of it.

        Args:
            stream: Which way it goes.
            channel: Its channel.
            message: Looked at for its step and for the record.
            parcel: The message.
            sure: It is repeated until it is through: never lost, copied, held back or cut off.
        """
        assert self._timers is not None, "start() comes first"
        now_s = self._timers.time()
        lane = self._lane("out" if stream == "out" else "in", channel)
        step = self._step_of(channel, message)
        dice = lane.dice(stream)
        n = dice.thrown
        fate = dice.throw()
        window = lane.cut(now_s - self._start_s, step)
        if sure:
            fate, window = Fate(delay_s=fate.delay_s), None
        counts = self._record.of(stream, channel)

        def note(what: What, delay_s: float = 0.0) -> None:
            seq, sender = message.get("seq"), message.get("sender")
            if self.tap is not None:
                self.tap.impaired(stream, channel, message, what, delay_s)
            self._record.events.append(
                Event(
                    at_s=now_s - self._start_s,
                    stream=stream,
                    channel=channel,
                    n=n,
                    what=what,
                    delay_s=delay_s,
                    sender=sender if isinstance(sender, str) else None,
                    seq=seq if type(seq) is int else None,
                    step=step,
                )
            )

        if window is not None and not window.hold:
            counts.partitioned += 1
            note("partitioned")
            parcel.vanish(None)
            return
        if fate.lost:
            counts.lost += 1
            counts.lost_in_burst += fate.in_burst
            note("lost")
            parcel.vanish(None)
            return
        due_s = now_s + fate.delay_s
        if window is not None and window.end_s is not None:
            counts.held += 1
            due_s = max(due_s, self._start_s + window.end_s)
        if lane.waiting:
            due_s = max(due_s, lane.last_due_s)
        if fate.held_back and lane.rule is not None:
            counts.reordered += 1
            due_s += lane.rule.reorder_s
            note("reordered", due_s - now_s)
        elif due_s > now_s:
            note("delayed" if window is None else "held", due_s - now_s)
        if fate.duplicated:
            note("duplicated")
        self._entries += 1
        flight = Flight(
            lane, stream, n, self._entries, due_s, due_s - now_s, parcel, fate, is_held=window is not None
        )
        if due_s <= now_s and not lane.waiting:
            self._hand_over(flight)
        else:
            self._board(flight)

    def _board(self, flight: Flight) -> None:
        if len(self.in_flight) >= self._table.max_in_flight:
            oldest = next(iter(self.in_flight.values()))
            self._leave(oldest)
            channel = oldest.lane.channel
            self._record.of(oldest.stream, channel).overflowed += 1
            self._on_overflow(channel)
            oldest.parcel.vanish(
                BrokerOverflow(
                    f"more than {self._table.max_in_flight} messages on their way in the impaired network; "
                    f"the oldest, on {channel}, was dropped"
                )
            )
        self.in_flight[flight.entry] = flight
        heapq.heappush(self._queue, flight)
        if not flight.fate.held_back:
            flight.lane.waiting += 1
            flight.lane.last_due_s = flight.due_s
        self._set_timer()

    # -- out ---------------------------------------------------------------------------------------

    def _deliver_due(self) -> None:
        """Hand over whatever is due; called by the timer."""
        assert self._timers is not None
        now_s = max(self._timers.time(), self._timer_s)  # a timer may be early by the clock's resolution
        self._timer = None
        try:
            while self._queue and self._queue[0].due_s <= now_s:
                flight = heapq.heappop(self._queue)
                if flight.entry in self.in_flight:
                    self._leave(flight)
                    self._hand_over(flight)
        finally:
            self._set_timer()

    def _hand_over(self, flight: Flight) -> None:
        lane, counts = flight.lane, self._record.of(flight.stream, flight.lane.channel)
        counts.passed += 1
        if flight.delay_s > 0.0:
            counts.delayed += 1
            counts.delay_sum_s += flight.delay_s
            counts.delay_max_s = max(counts.delay_max_s, flight.delay_s)
        if flight.stream != "retained":
            counts.overtaken += flight.n < lane.last_handed
            lane.last_handed = max(lane.last_handed, flight.n)
        flight.parcel.arrive()
        if flight.fate.duplicated:
            counts.duplicated += 1
            flight.parcel.arrive()

    def _leave(self, flight: Flight) -> None:
        del self.in_flight[flight.entry]
        flight.lane.waiting -= not flight.fate.held_back

    def _set_timer(self) -> None:
        while self._queue and self._queue[0].entry not in self.in_flight:
            heapq.heappop(self._queue)
        if self._timer is not None and (not self._queue or self._queue[0].due_s < self._timer_s):
            self._timer.cancel()
            self._timer = None
        if self._queue and self._timer is None and self._timers is not None:
            self._timer_s = self._queue[0].due_s
            self._timer = self._timers.call_at(self._timer_s, self._deliver_due)

    def close(self, *, hand_over: bool) -> None:
        """Empty the network: what was published goes on at once, the rest is abandoned.

        Args:
            hand_over: False = nobody is there any more to take it.
        """
        for flight in sorted(self.in_flight.values()):
            if flight.entry not in self.in_flight:
                continue
            self._leave(flight)
            if hand_over and flight.stream == "out" and not flight.is_held:
                self._hand_over(flight)
            else:
                self._record.of(flight.stream, flight.lane.channel).abandoned += 1
                flight.parcel.vanish(
                    BrokerClosed(f"closed while a message on {flight.lane.channel} was on its way")
                )
        self._set_timer()

    # -- where and when ----------------------------------------------------------------------------

    def _lane(self, direction: Direction, channel: str) -> Lane:
        lane = self._lanes.get((direction, channel))
        if lane is None:
            if len(self._lanes) >= MAX_CHANNELS:  # its numbers begin again; those on their way keep it
                del self._lanes[next(iter(self._lanes))]
            lane = self._lanes[direction, channel] = Lane(direction, channel, self._table, self._seed)
        return lane

    def _step_of(self, channel: str, message: Mapping[str, Any]) -> int | None:
        step = message.get("step")
        known = step if type(step) is int else None
        if channel == topics.RUN_STATE:
            self.step = known
        return self.step if known is None else known
