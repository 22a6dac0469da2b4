"""When the steps of a run in real time begin."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

LATE_S = 0.001
"""A step that begins later than this after its time is late."""
TIMER_S = 0.001
"""What the timers of an event loop may be late by: epoll counts in whole milliseconds, rounded up."""


class StepClock:
    """Waits for one step after another, each a period after the one before.

    A step that takes longer makes the next one late. Lost time is caught up, unless it is more than one
    period. So steps never follow each other at once for long.

    Args:
        period_s: Between two steps, s.
        rest: Waits, s, without blocking the event loop.
        clock: Monotonic time, s.
        pause: Waits, s, for less than ``TIMER_S``; blocks the event loop.
    """

    def __init__(
        self,
        period_s: float,
        rest: Callable[[float], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_s = period_s
        self._rest, self._clock, self._pause = rest, clock, pause
        self._due_s = clock()

    async def next_step(self) -> bool:
        """Return when the next step is to begin; whether it begins late."""
        due_s = self._due_s
        wait_s = due_s - self._clock()
        if wait_s > TIMER_S:
            await self._rest(wait_s - TIMER_S)
            wait_s = due_s - self._clock()
        if wait_s > 0.0:
            self._pause(wait_s)
        late_s = self._clock() - due_s
        self._due_s = due_s + self._period_s
        if late_s > self._period_s:
            self._due_s += late_s
        return late_s > LATE_S
