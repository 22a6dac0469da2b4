"""One at a time, and fairly: a client with many requests waits behind those with one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class TooManyWait(Exception):
    """So many of the same name wait already that one more would only be late."""


class Turns:
    """Hands out turns, name by name; those of one name in the order in which they came.

    Args:
        max_waiting: Of one name.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the next name first
        self._busy = False

    @contextlib.asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block ends.

        Raises:
            TooManyWait: At once.
        """
        if self._busy:
            await self._wait(name)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._next()

    async def _wait(self, name: str) -> None:
        queue = self._waiting.setdefault(name, deque())
        if len(queue) >= self._max_waiting:
            raise TooManyWait
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was our turn: pass it on
                self._busy = False
                self._next()
            elif mine in queue:
                queue.remove(mine)
            raise

    def _next(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            queue = self._waiting.pop(name)
            mine = queue.popleft() if queue else None
            if queue:
                self._waiting[name] = queue  # behind the other names
            if mine is not None and not mine.done():
                self._busy = True
                mine.set_result(None)
                return
