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

    def notify(self) -> None:
        """Have the condition looked at again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until ``condition`` holds; False if ``timeout_s`` is over first (None = no limit)."""
        if condition():
            return True
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        except TimeoutError:
            return condition()
        return True
