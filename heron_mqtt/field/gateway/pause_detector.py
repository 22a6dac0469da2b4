"""Notices that this process did not run for a while: stopped, swapped out, or kept busy.

What is read just after such a pause may have waited in a socket for as long as the pause was, and looks
as if it had come now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.2
PAUSE_S = 0.8  # longer between two ticks than a busy event loop takes
DISTRUST_S = 0.3  # after a pause: what has waited is read within that time


class PauseDetector:
    """Ticks in the event loop, and looks whether the ticks come.

    Args:
        monotonic: A clock that goes on while the process does not, s.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ticked_at: float | None = None
        self._distrust_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tick in the running loop."""
        self._ticked_at = self._monotonic()
        self._task = asyncio.get_running_loop().create_task(self._tick(), name="pause detector")

    def stop(self) -> None:
        """Tick no more. Idempotent."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._ticked_at = None

    def is_recent(self) -> bool:
        """Whether the process has just come back from a pause."""
        now = self._monotonic()
        if self._ticked_at is not None and now - self._ticked_at > PAUSE_S:
            self._distrust_until = now + DISTRUST_S
            self._ticked_at = now
        return now < self._distrust_until

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.is_recent()
            self._ticked_at = self._monotonic()
