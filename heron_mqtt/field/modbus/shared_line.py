"""Whose turn it is on a connection that several units share: writes first, and no unit blocks the line."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

SLOW_S = 0.1  # a unit that takes longer to answer leaves the line to the others for as long
PATIENCE_WRITE_S = 0.25  # so long a silent unit may take to answer while another one's write waits
PATIENCE_READ_S = 0.5  # and while a read waits
LONGEST_REST_S = 5.0
LOST_AFTER = 2  # so many silences on end, and a unit rests; one may be swallowed

_Rank = tuple[int, bool]  # silences of the unit, whether it reads: lower goes first


class UnitRests(Exception):
    """A unit that was silent is not asked now.

    Args:
        for_s: For how long, s.
    """

    def __init__(self, for_s: float) -> None:
        self.for_s = for_s
        super().__init__(f"not asked for {for_s:g} s")


@dataclass(slots=True)
class _UnitHistory:
    silences: int = 0  # on end
    rests_until: float = -math.inf


@dataclass(slots=True)
class Turn:
    """One request on the line."""

    unit: int
    silences: int
    """Of the unit before this one."""
    hurried: bool = False
    """Whether it was cut short because another unit waited."""
    begun_s: float = math.nan
    bound: asyncio.Timeout | None = None


class SharedLine:
    """Requests wait for each other here; their results are reported to it.

    - Writes go before reads, and units that answer before units that were silent.
    - After a request without an answer, the next request to this unit ends after 0.25 s if a write waits, and
      after 0.5 s if a read waits. After the second one the unit is not asked, for longer each time, up to 5
      s; requests to it then fail at once.
    - The time between two reads of a slow unit is at least the time of its last answer, so that others are
      asked in between.

    With one unit alone nothing of that is done: no other unit waits.

    Args:
        timeout_s: Of an answer, s: the shortest rest after a silence.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._units: dict[int, _UnitHistory] = {}
        self._turn: Turn | None = None
        self._is_taken = False
        self._queue: list[tuple[_Rank, int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @property
    def is_shared(self) -> bool:
        """Whether more than one unit was asked so far."""
        return len(self._units) > 1

    @asynccontextmanager
    async def turn(self, unit: int, *, is_write: bool) -> AsyncIterator[Turn]:
        """Have the line while inside.

        Raises:
            UnitRests: The unit was silent, and is not asked now.
        """
        known = self._units.setdefault(unit, _UnitHistory())
        await self._rest(known, is_write=is_write)
        await self._wait((min(known.silences, LOST_AFTER), not is_write), unit)
        self._turn = Turn(unit, min(known.silences, LOST_AFTER))  # silent meanwhile, maybe
        try:
            yield self._turn
        finally:
            self._turn = None
            self._pass_on()

    def begin(self, bound: asyncio.Timeout) -> None:
        """Take note that the request is on its way, within a bound that may be made shorter."""
        assert self._turn is not None
        self._turn.begun_s, self._turn.bound = asyncio.get_running_loop().time(), bound
        for rank, _, unit, waiting in self._queue:
            if not waiting.done():
                self._hurry(rank, unit)

    def answered(self, turn: Turn) -> None:
        """Take note of an answer."""
        now_s = asyncio.get_running_loop().time()
        took_s = now_s - turn.begun_s
        unit, turn.bound = self._units[turn.unit], None
        unit.silences, unit.rests_until = 0, now_s + (took_s if took_s > SLOW_S else 0.0)

    def silent(self, turn: Turn) -> None:
        """Take note that there was no answer."""
        unit, turn.bound = self._units[turn.unit], None
        unit.silences += 1
        rest_s = min(LONGEST_REST_S, self._timeout_s * 2.0 ** min(unit.silences - LOST_AFTER, 10))
        unit.rests_until = asyncio.get_running_loop().time() + rest_s

    async def _rest(self, unit: _UnitHistory, *, is_write: bool) -> None:
        left_s = unit.rests_until - asyncio.get_running_loop().time()
        if left_s <= 0.0 or not self.is_shared:
            return
        if unit.silences >= LOST_AFTER:
            raise UnitRests(left_s)
        if unit.silences == 0 and not is_write:
            await asyncio.sleep(left_s)

    async def _wait(self, rank: _Rank, unit: int) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (rank, next(self._numbers), unit, waiting))
        self._hurry(rank, unit)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._pass_on()  # it was our turn already
            raise

    def _hurry(self, rank: _Rank, unit: int) -> None:
        """Cut short what a silent unit is asked: one that answers better waits."""
        turn, (silences, is_read) = self._turn, rank
        if turn is None or turn.unit == unit or silences >= turn.silences:
            return
        if turn.bound is None or turn.bound.expired():
            return
        patience_s = PATIENCE_READ_S if is_read else PATIENCE_WRITE_S
        at_s, before_s = max(asyncio.get_running_loop().time(), turn.begun_s + patience_s), turn.bound.when()
        if before_s is None or at_s < before_s:
            turn.hurried = True
            turn.bound.reschedule(at_s)

    def _pass_on(self) -> None:
        while self._queue:
            *_, waiting = heapq.heappop(self._queue)
            if not waiting.done():
                waiting.set_result(None)
                return
        self._is_taken = False
