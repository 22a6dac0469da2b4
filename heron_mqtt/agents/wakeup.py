"""Waiting for a condition that arriving messages may make true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Wakeup:
    """Lets one task wait for a condition; whoever may have made it true calls ``notify``.

    Everything happens in one event loop: callbacks and the waiting task.
    """

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    def notify(self) -> None:
        """Have the condition looked at again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Have this and every later wait raise: what is waited for will never come."""
        self._error = error
        self.notify()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until ``condition`` holds; False if ``timeout_s`` is over first (None = no limit).

        Raises:
            BaseException: What ``fail`` was given.
        """
        if self._error is not None:
            raise self._error
        if condition():
            return True
        loop = asyncio.get_running_loop()
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            self.notify()

        timer = None if timeout_s is None else loop.call_later(timeout_s, expire)
        try:
            while not condition():
                if expired:
                    return False
                self._waiter = loop.create_future()
                await self._waiter
                if self._error is not None:
                    raise self._error
        finally:
            if timer is not None:
                timer.cancel()
        return True
