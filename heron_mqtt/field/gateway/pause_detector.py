"""Notices that this process did not run for a while: stopped, swapped out, or kept busy.

Messages that are read just after such a pause may have waited in a socket for as long as the pause, but look
as if they had just arrived.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from heron_mqtt.field.steady_clock import steady_s

TICK_S = 0.2
PAUSE_S = 0.8  # longer between two ticks than a busy event loop takes
DISTRUST_S = 0.3  # after a pause: what has waited is read within that time
STALL_S = 0.25  # a shorter standstill than a pause, but long enough for a stop to have come meanwhile
CATCH_UP_S = 0.05  # after a standstill: the newest that has waited is read within that time


class PauseDetector:
    """Ticks in the event loop, and looks whether the ticks come. ``of_running_loop`` returns the shared one.

    Args:
        monotonic: A clock that continues while the process does not, s.
    """

    def __init__(self, monotonic: Callable[[], float] = steady_s) -> None:
        self._monotonic = monotonic
        self._ticked_at: float | None = None
        self._loop_s: Callable[[], float] = monotonic  # the clock of the loop in which it ticks
        self._loop_ticked_at = 0.0  # by that clock, which is a virtual one in virtual time
        self._distrust_until = self._unread_until = 0.0
        self._users = 0
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def of_running_loop() -> PauseDetector:
        """Return the detector of the running loop: one clock ticks for all who watch in it."""
        loop = asyncio.get_running_loop()
        known = _shared.get(loop)
        detector = None if known is None else known()
        if detector is None:
            detector = PauseDetector()
            _shared[loop] = weakref.ref(detector)
        return detector

    def start(self) -> None:
        """Tick in the running loop, until every user that called this has called ``stop``."""
        self._users += 1
        if self._task is None or self._task.done():
            loop = asyncio.get_running_loop()
            self._loop_s = loop.time
            self._ticked_now()
            self._task = loop.create_task(self._tick(), name="pause detector")

    def stop(self) -> None:
        """Stop ticking, unless another user needs it."""
        self._users -= 1
        if self._users == 0 and self._task is not None:
            self._task.cancel()
            self._task = self._ticked_at = None

    def is_recent(self) -> bool:
        """Whether the process has just come back from a pause."""
        return self._look() < self._distrust_until

    def reads(self, clock: Callable[[], float]) -> bool:
        """Whether this is the clock by which it tells the time."""
        return clock is self._monotonic

    def trusted_s(self) -> float | None:
        """Return the time by its clock, s; None where the process has just come back from a pause."""
        now, ticked_at = self._monotonic(), self._ticked_at
        # as ``_look``, without its call where there was no standstill: at each sign of life
        if ticked_at is not None and (
            now - ticked_at > PAUSE_S or self._loop_s() - self._loop_ticked_at > STALL_S
        ):
            now = self._look()
        return None if now < self._distrust_until else now

    async def caught_up(self) -> None:
        """Let the loop read what came while this process stood still; at once where it did not.

        After a pause, expired timers and waiting messages are due at the same time, in an unknown order.
        Nothing may be sent before a stop that waits in the socket was read.
        """
        if self._look() < self._unread_until:
            await asyncio.sleep(CATCH_UP_S)

    def _look(self) -> float:
        """Take note of a standstill; return the time."""
        now = self._monotonic()
        if self._ticked_at is None:
            return now
        has_paused = now - self._ticked_at > PAUSE_S
        if has_paused:
            self._distrust_until = now + DISTRUST_S
        if has_paused or self._loop_s() - self._loop_ticked_at > STALL_S:
            self._unread_until = now + CATCH_UP_S
            self._ticked_now()
        return now

    def _ticked_now(self) -> None:
        self._ticked_at = self._monotonic()
        self._loop_ticked_at = self._loop_s()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._look()
            self._ticked_now()


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[PauseDetector]] = (
    weakref.WeakKeyDictionary()
)
