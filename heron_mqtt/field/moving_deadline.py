"""A moment to wait for that moves while it is waited for, as the end of a lease does with each setpoint."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

LOOK_S = 2.0


class MovingDeadline:
    """Wakes its one waiter when the moment has come, wherever it has moved by then.

    A waiter is woken early only if the moment has come nearer. Most moves put it off: these cost a
    comparison, and the waiter finds out when it wakes at the old moment. It also wakes every ``LOOK_S``:
    timers of an event loop stand still while the machine sleeps, and the clock may not.

    Args:
        at: Returns the moment, by ``monotonic``, s; infinite = never.
        monotonic: The clock.
    """

    def __init__(self, at: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._at = at
        self._monotonic = monotonic
        self._sleeps_until = -math.inf
        self._nearer = asyncio.Event()

    def moved(self) -> None:
        """Take note that the moment has moved."""
        if self._at() < self._sleeps_until:
            self._nearer.set()

    async def reached(self) -> None:
        """Return once the moment has come."""
        try:
            while (left_s := (at := self._at()) - self._monotonic()) > 0.0:
                self._sleeps_until = at
                self._nearer.clear()
                try:
                    async with asyncio.timeout(min(left_s, LOOK_S) if left_s < math.inf else None):
                        await self._nearer.wait()
                except TimeoutError:
                    pass
        finally:
            self._sleeps_until = -math.inf
