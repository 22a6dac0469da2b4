"""The queue of what may come late: memory first, the file when needed; stops first, the others in order.

A message that the broker acknowledges at once is never written. One that waits for ``GROUP_S``, because there
is no connection or no acknowledgement, is written with all others that do; a stop is written at once. When
more than ``MAX_IN_MEMORY`` wait, the newer ones are in the file only, and read back as the older ones leave.

What waited leaves at ``PACE_PER_S`` at most, so that receivers can follow, and says for how long it was
held (see ``KeptMessage``).

Bounds: when the messages together are larger than allowed, the oldest goes; a message that is older than
allowed goes. A stop never goes for its age, and for size only after everything else. While the disk cannot be
written to, messages wait in memory as long as there is room, and are written when it works again.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from heron_mqtt.errors import BrokerError, BrokerOverflow
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.outbox.disk import Disk
from heron_mqtt.messaging.outbox.kept_message import HELD_S, KeptMessage
from heron_mqtt.messaging.outbox.store import OutboxStore, StoredMessage

log = logging.getLogger("heron_mqtt.messaging")

GROUP_S = 0.1
PACE_PER_S, BURST = 1_000.0, 100.0
MAX_IN_MEMORY, READ_AHEAD = 2_000, 1_000  # while the file can be written to
MAX_UNWRITTEN, MAX_UNWRITTEN_BYTES = 20_000, 64 << 20  # that wait in memory for a disk that does not work
MAX_STOPS = 1_000

Found = tuple[tuple[dict[str, tuple[int, int]], int], list[StoredMessage], list[StoredMessage]]
"""What a file holds: number and bytes by topic, and the largest id; the stops; the oldest of the others."""

DAMAGED = "(damaged)"


@dataclass(slots=True)
class OutboxKind:
    """Messages of one kind: how many wait, the bytes that they count for, and how many were given up."""

    messages: int = 0
    size: int = 0
    dropped: int = 0


class Outbox:
    """Keeps messages in order until they are settled. Made anywhere, used in one event loop.

    Args:
        store: Its file.
        stats: Where it counts (``stored``, ``outbox_dropped``, ``outbox_errors``) and reports.
        max_bytes: Of all messages together.
        max_age_s: After so long a message is not sent any more.
        may_come_late: Whether a message from the file may be sent, by topic and payload. The file may be of
            an earlier version, or other programs may have written to it. None = everything.
        kind_of: The kind of a topic, for ``kinds``; there are few. None = all are one kind.
        clock: s since the epoch; for ages across restarts.
    """

    def __init__(
        self,
        store: OutboxStore,
        stats: MessageStats,
        *,
        max_bytes: int,
        max_age_s: float,
        may_come_late: Callable[[str, bytes], bool] | None = None,
        kind_of: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        """Called when there is something to take, after there was not."""
        self._store = store
        self._stats = stats
        self.max_bytes = max_bytes
        self.kinds: dict[str, OutboxKind] = {}
        """What waits and what was given up since this was made, by kind."""
        self._kind_of = kind_of or (lambda _: "")
        self._max_age_s = max_age_s
        self._may_come_late = may_come_late
        self._clock = clock
        self._disk: Disk | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_read = False  # what the file held at our start is known
        self._next_id = 1
        self._count = self._bytes = 0
        # in this order, stops apart; those in the file alone come between ``_waiting`` and ``_writing``
        self._stops: deque[KeptMessage] = deque()
        self._taken: dict[KeptMessage, None] = {}
        self._waiting: deque[KeptMessage] = deque()
        self._in_file_only = 0
        self._read_to = 0  # the id after which they begin
        self._writing: list[KeptMessage] = []
        self._newest: deque[KeptMessage] = deque()
        self._unwritten: dict[KeptMessage, None] = {}  # of the stops, those taken and those waiting
        self._to_remove: list[int] = []  # settled, and still in the file
        self._timer: asyncio.TimerHandle | None = None
        self._pace_timer: asyncio.TimerHandle | None = None
        self._tokens, self._tokens_at_s = BURST, 0.0
        self._dropped = self._late = 0  # since it was empty

    # -- what is known -----------------------------------------------------------------------------

    @property
    def messages(self) -> int:
        """How many are not settled, those on their way included."""
        return self._count

    @property
    def size(self) -> int:
        """Bytes that they count for."""
        return self._bytes

    @property
    def dropped(self) -> int:
        """How many were given up since this was made."""
        return sum(kind.dropped for kind in self.kinds.values())

    @property
    def age_s(self) -> float | None:
        """For how long the oldest has waited, s; None = there is none."""
        first = [next(iter(some)) for some in (self._stops, self._taken, self._waiting) if some]
        return max((self._now() - message.since_s for message in first), default=None)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the disk; None = nothing."""
        return self._disk.trouble if self._disk is not None else None

    # -- life --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file and read what waits in it, in the loop that this will live in. Idempotent.

        Raises:
            ConfigError: The file is not ours to use: see ``OutboxStore.open``. A disk that fails is none.
        """
        if self._disk is not None:
            return
        loop = asyncio.get_running_loop()
        found, failure = None, None
        try:
            found = self._read_file()
        except (OSError, sqlite3.Error) as exc:
            failure = exc
        self._loop = loop
        self._disk = Disk(str(self._store.path), self._stats, self._work)
        if found is not None:
            self._adopt(found)
        elif failure is not None:
            self._disk.failed(failure, loop.time())

    async def close(self) -> None:
        """Write what is not settled, and close the file. Idempotent."""
        disk, self._disk = self._disk, None
        if disk is not None:
            self._cancel_timers()
            await disk.finish(self._last_job)
            self._reset()

    def close_now(self) -> None:
        """Do the same where the event loop has ended."""
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.finish_now(self._last_job)
            self._reset()

    def _read_file(self) -> Found:
        self._store.open()
        return self._store.totals(), self._store.stops(), self._store.next(0, READ_AHEAD)

    def _reset(self) -> None:
        """Be as if made again: what waits is in the file, from where it is read if this is opened again."""
        for some in (self._stops, self._waiting, self._newest, self._taken, self._unwritten, self._writing):
            some.clear()
        self._to_remove.clear()
        self._count = self._bytes = self._in_file_only = self._dropped = self._late = 0
        for kind in self.kinds.values():
            kind.messages = kind.size = 0
        self._next_id, self._is_read = 1, False

    def _last_job(self) -> Callable[[], None]:
        rows = [m.row() for m in (*self._unwritten, *self._writing, *self._newest) if not m.is_settled]
        removed, is_read = tuple(self._to_remove), self._is_read

        def write() -> None:
            try:
                if is_read:
                    self._store.write(rows, removed)
                    self._stats.stored += len(rows)
                    self._store.shrink()
            finally:
                self._store.close()

        return write

    def _adopt(self, found: Found) -> None:
        """Put what the file held before what has been published meanwhile."""
        (by_topic, newest_id), stops, oldest = found
        now_s, wall_s = self._now(), self._clock()
        for message in (*self._stops, *self._taken, *self._waiting, *self._newest):
            message.id += newest_id
        self._next_id += newest_id
        before = self._count
        for topic, (number, size) in by_topic.items():
            self._note(topic, number, size)
        count = self._count - before
        kept, refused = self._sorted([KeptMessage.restored(row, now_s, wall_s) for row in stops])
        self._stops.extendleft(reversed(kept))
        later = [*self._waiting, *self._newest]
        kept, more_refused = self._sorted([KeptMessage.restored(row, now_s, wall_s) for row in oldest])
        self._waiting = deque(kept)
        self._newest = deque()
        self._in_file_only = count - len(stops) - len(oldest)
        self._read_to = oldest[-1].id if oldest else 0
        for message in later:
            self._append(message)
        self._is_read = True
        if count:
            log.info("outbox %s: %d messages of an earlier start wait", self._store.path, count)
        self._refuse([*refused, *more_refused])
        if self._store.damaged:
            self._stats.outbox_dropped += self._store.damaged
            self._kind(DAMAGED).dropped += self._store.damaged
            what = f"{self._store.damaged} rows in it are damaged, and are removed"
            self._stats.report("outbox", str(self._store.path), what)
            self._store.damaged = 0
        self._work()

    def _sorted(self, restored: list[KeptMessage]) -> tuple[list[KeptMessage], list[KeptMessage]]:
        """Return which of the messages that the file held may be sent, and which not."""
        may = self._may_come_late or (lambda topic, payload: True)
        kept = [m for m in restored if may(m.topic, m.payload)]
        return kept, [m for m in restored if not may(m.topic, m.payload)]

    def _refuse(self, messages: list[KeptMessage]) -> None:
        """Give up what the file held and may not be sent late."""
        for message in messages:
            self._forget(message)
            self._kind(self._kind_of(message.topic)).dropped += 1
        if messages:
            self._stats.outbox_dropped += len(messages)
            what = (
                f"{len(messages)} messages in it may not come late, or are of another environment, and are "
                f"dropped; the first is on {messages[0].topic}"
            )
            self._stats.report("outbox", str(self._store.path), what)

    # -- the queue ---------------------------------------------------------------------------------

    def add(self, topic: str, payload: bytes, qos: int, retain: bool, *, stop: bool) -> KeptMessage:
        """Put a message at the end; ``done`` is done when it is settled, or waits in the file only."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        message = KeptMessage(
            self._next_id, stop, topic, payload, qos, retain, self._clock(), self._now(), done
        )
        self._next_id += 1
        self._note(topic, 1, message.size)
        if stop:
            self._stops.append(message)
            self._unwritten[message] = None
            self._work()  # at once: it may be the last thing that this process does
        else:
            self._append(message)
            self._kick(GROUP_S)
        self._bound()
        return message

    def _append(self, message: KeptMessage) -> None:
        beyond = self._in_file_only or self._writing or self._newest
        room = MAX_IN_MEMORY if self._is_read and self.trouble is None else MAX_UNWRITTEN
        if beyond or len(self._waiting) >= room:
            if not beyond:
                self._read_to = message.id - 1
            self._unwritten.pop(message, None)
            self._newest.append(message)
        else:
            self._waiting.append(message)
            self._unwritten[message] = None

    @property
    def has_stop(self) -> bool:
        """Whether ``take_stop`` has one."""
        return bool(self._stops)

    def take_stop(self) -> KeptMessage | None:
        """Return the next stop to send."""
        if not self._stops:
            return None
        message = self._stops.popleft()
        self._taken[message] = None
        return message

    def take(self) -> KeptMessage | None:
        """Return the next message to send that is no stop; None = none, or not yet: see ``on_ready``."""
        waiting = self._waiting
        while waiting and self._clock() - waiting[0].published_at > self._max_age_s:
            self._drop(waiting.popleft(), f"it has waited for more than {self._max_age_s:g} s")
        if self._in_file_only and len(waiting) < READ_AHEAD // 2:
            self._work()
        if not waiting or not self._may_leave(waiting[0]):
            return None
        message = waiting.popleft()
        self._taken[message] = None
        return message

    def give_back(self, messages: Iterable[KeptMessage]) -> None:
        """Put messages that were taken, and are not settled, back to where they were."""
        back = sorted(messages, key=lambda m: m.id)
        for message in back:
            self._taken.pop(message, None)
        self._stops = deque(sorted([*self._stops, *(m for m in back if m.stop)], key=lambda m: m.id))
        self._waiting.extendleft(m for m in reversed(back) if not m.stop)

    def settle(self, message: KeptMessage) -> None:
        """Forget a message: the broker has it, or will never take it."""
        if message.is_settled:
            return
        self._taken.pop(message, None)
        self._forget(message)
        if not self._count and (self._late or self._dropped):
            log.info(
                "outbox %s is empty: %d messages had waited, %d were dropped",
                self._store.path, self._late, self._dropped,
            )  # fmt: skip
            self._late = self._dropped = 0

    def fail_waiting(self, exc: BrokerError) -> None:
        """Tell the publishers that nothing is sent for now; the messages are kept."""
        for message in (*self._taken, *self._stops, *self._waiting, *self._writing, *self._newest):
            _fail(message, exc)

    def _kind(self, name: str) -> OutboxKind:
        return self.kinds.setdefault(name, OutboxKind())

    def _note(self, topic: str, number: int, size: int) -> None:
        """Count messages of a topic in; a negative number is taken off."""
        self._count += number
        self._bytes += size
        kind = self._kind(self._kind_of(topic))
        kind.messages += number
        kind.size += size

    def _forget(self, message: KeptMessage) -> None:
        message.is_settled = True
        self._note(message.topic, -1, -message.size)
        self._unwritten.pop(message, None)
        if not message.is_new:
            self._to_remove.append(message.id)
            self._kick(GROUP_S)

    def _may_leave(self, message: KeptMessage) -> bool:
        """Take a token for a message that has waited; without one, look again soon."""
        now_s = self._now()
        if now_s - message.since_s < HELD_S:
            return True
        self._tokens = min(BURST, self._tokens + (now_s - self._tokens_at_s) * PACE_PER_S)
        self._tokens_at_s = now_s
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            self._late += 1
            return True
        if self._pace_timer is None and self._loop is not None:
            self._pace_timer = self._loop.call_later(BURST / PACE_PER_S / 4, self._on_pace)
        return False

    def _on_pace(self) -> None:
        self._pace_timer = None
        self.on_ready()

    # -- bounds ------------------------------------------------------------------------------------

    def _bound(self) -> None:
        if len(self._stops) > MAX_STOPS:
            self._drop(self._stops.popleft(), f"more than {MAX_STOPS} stops wait")
        while self._bytes > self.max_bytes and (oldest := self._waiting or self._newest):
            self._drop(oldest.popleft(), f"more than {self.max_bytes / 1e6:g} MB wait")
        if self._is_read and self.trouble is None:
            return
        while (oldest := self._waiting or self._newest) and (
            len(self._waiting) + len(self._newest) > MAX_UNWRITTEN or self._bytes > MAX_UNWRITTEN_BYTES
        ):
            self._drop(oldest.popleft(), "the disk cannot be written to, and memory is full")

    def _drop(self, message: KeptMessage, why: str) -> None:
        self._forget(message)
        self._stats.outbox_dropped += 1
        self._kind(self._kind_of(message.topic)).dropped += 1
        self._dropped += 1
        if self._dropped == 1:  # one line an outage
            self._stats.report("outbox", message.topic, f"{why}: the oldest is dropped")
        _fail(message, BrokerOverflow(f"{message.topic}: dropped from the outbox: {why}"))

    # -- the disk ----------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else time.monotonic()

    def _kick(self, delay_s: float) -> None:
        if self._timer is None and self._loop is not None and self._disk is not None:
            self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._work()

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._pace_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._pace_timer = None

    def _work(self) -> None:
        """Give the disk the next thing to do, if there is any and it has nothing else to do."""
        disk, now_s = self._disk, self._now()
        if disk is None or disk.is_busy:
            return
        if now_s < disk.retry_at_s:
            if self._unwritten or self._newest or not self._is_read:
                self._kick(disk.retry_at_s - now_s)
            return
        if not self._is_read:
            disk.begin(self._read_file, self._adopt, lambda: None)
            return
        due = [m for m in self._unwritten if m.stop or m.since_s <= now_s - GROUP_S + 1e-3]
        if due or self._newest or self._to_remove:
            self._write(disk, due)
        elif self._in_file_only and len(self._waiting) < READ_AHEAD // 2:
            disk.begin(lambda: self._store.next(self._read_to, READ_AHEAD), self._on_read, lambda: None)
        elif self._unwritten:
            self._kick(GROUP_S)

    def _write(self, disk: Disk, due: list[KeptMessage]) -> None:
        self._writing, self._newest = list(self._newest), deque()
        for message in (*due, *self._writing):
            message.is_new = False
            self._unwritten.pop(message, None)
        rows, removed = [m.row() for m in (*due, *self._writing)], self._to_remove
        self._to_remove, is_empty = [], not self._count

        def write() -> None:
            self._store.write(rows, removed)
            if is_empty:
                self._store.shrink()

        def written(_: None) -> None:
            self._stats.stored += len(rows)
            for message in self._writing:  # from now on in the file only: its publisher waits for no more
                self._in_file_only += 1
                if message.done is not None and not message.done.done():
                    message.done.set_result(None)
            self._writing = []

        def not_written() -> None:
            self._to_remove = [*removed, *self._to_remove]
            again = [m for m in due if not m.is_settled]
            self._unwritten.update(dict.fromkeys(again))
            self._newest.extendleft(reversed(self._writing))
            for message in (*again, *self._writing):
                message.is_new = True
            self._writing = []
            self._join()

        disk.begin(write, written, not_written)

    def _on_read(self, rows: list[StoredMessage]) -> None:
        now_s, wall_s = self._now(), self._clock()
        kept, refused = self._sorted([KeptMessage.restored(row, now_s, wall_s) for row in rows])
        self._waiting.extend(kept)
        self._refuse(refused)
        self._in_file_only = self._in_file_only - len(rows) if rows else 0
        if rows:
            self._read_to = rows[-1].id
        self._join()
        self.on_ready()

    def _join(self) -> None:
        """Where nothing is in the file only, the newest ones follow those in memory at once."""
        if self._in_file_only or self._writing:
            return
        newest, self._newest = self._newest, deque()
        for message in newest:
            self._append(message)


def _fail(message: KeptMessage, exc: BrokerError) -> None:
    """Tell the publisher of a message, if it waits, that it was not sent."""
    done, message.done = message.done, None
    if done is not None and not done.done():
        done.set_exception(exc)
        done.exception()  # it need not be awaited
