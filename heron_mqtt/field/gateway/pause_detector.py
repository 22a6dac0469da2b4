"""Notices that this process did not run for a while: stopped, swapped out, or kept busy.

What is read just after such a pause may have waited in a socket for as long as the pause was, and looks
as if it had come now.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from heron_mqtt.field.steady_clock import steady_s

TICK_S = 0.2
PAUSE_S = 0.8  # longer between two ticks than a busy event loop takes
DISTRUST_S = 0.3  # after a pause: what has waited is read within that time


class PauseDetector:
    """Ticks in the event loop, and looks whether the ticks come. ``of_running_loop`` returns the shared one.

    Args:
        monotonic: A clock that goes on while the process does not, s.
    """

    def __init__(self, monotonic: Callable[[], float] = steady_s) -> None:
        self._monotonic = monotonic
        self._ticked_at: float | None = None
        self._distrust_until = 0.0
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
        """Tick in the running loop, until everybody has stopped who has started."""
        self._users += 1
        if self._task is None or self._task.done():
            self._ticked_at = self._monotonic()
            self._task = asyncio.get_running_loop().create_task(self._tick(), name="pause detector")

    def stop(self) -> None:
        """Stop ticking, unless another user needs it."""
        self._users -= 1
        if self._users == 0 and self._task is not None:
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


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[PauseDetector]] = (
    weakref.WeakKeyDictionary()
)
