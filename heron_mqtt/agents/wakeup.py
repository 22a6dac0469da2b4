"""Waiting for a condition that arriving messages may make true."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from heron_mqtt.messaging.core.background_loop import current_loop


class Wakeup:
    """Lets one task wait for a condition; code that may have made it true calls ``notify``.

    Everything happens in one event loop: callbacks and the waiting task. The condition is looked at where
    ``notify`` is called, so that the task is switched to only when it can go on: most messages of a step are
    not the one that is waited for.

    One timer serves many waits, because a step has a dozen of them and hardly any lasts: a wait that
    ends in time leaves the timer running, and when it goes off it is set again for who waits then.
    """

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._condition: Callable[[], bool] = lambda: True  # of the wait under way
        self._error: BaseException | None = None
        self._ends_s: float | None = None  # of the wait under way, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._rings_s = math.inf  # when the timer goes off, on the loop's clock
        self._loop: asyncio.AbstractEventLoop | None = None  # of the timer

    def notify(self) -> None:
        """Look at the condition again."""
        if self._waiter is not None and not self._waiter.done() and self._condition():
            self._waiter.set_result(None)

    def _wake(self) -> None:
        """Let the task look what has become of its wait."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Have this and every later wait raise: what is waited for will never come."""
        self._error = error
        self._wake()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until ``condition`` holds; False if ``timeout_s`` is over first (None = no limit).

        Raises:
            BaseException: What ``fail`` was given.
        """
        if self._error is not None:
            raise self._error
        if condition():
            return True
        loop = current_loop()
        ends_s = None if timeout_s is None else loop.time() + timeout_s
        self._condition = condition
        self._ends_s = ends_s
        if loop is not self._loop or (ends_s is not None and ends_s < self._rings_s):
            self._expect(loop, ends_s)
        try:
            while True:  # even where the time is over already: what is on its way may still come
                self._waiter = loop.create_future()
                await self._waiter
                if self._error is not None:
                    raise self._error
                if condition():
                    return True
                if ends_s is not None and loop.time() >= ends_s:
                    return False
        finally:
            self._ends_s = None

    def _expect(self, loop: asyncio.AbstractEventLoop, ends_s: float | None) -> None:
        """Have the timer go off when the wait is over: it would later, or does not in this loop."""
        if loop is not self._loop:  # the timer of a loop that has ended never goes off
            self._loop, self._timer, self._rings_s = loop, None, math.inf
        if ends_s is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_s = loop.call_at(ends_s, self._ring, loop), ends_s

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:  # left behind in a loop that goes on; who waits now waits elsewhere
            return
        self._timer, self._rings_s = None, math.inf
        if self._ends_s is None:
            return
        if loop.time() < self._ends_s:
            self._expect(loop, self._ends_s)
        else:
            self._wake()
