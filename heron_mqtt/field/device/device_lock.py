"""One thing at a time is done with a device, and what comes first breaks off what is being done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from heron_mqtt.cancellation import unless_cancelled

T = TypeVar("T")


class BrokenOff(Exception):
    """Something was broken off, because a stop or the end of a lease comes first."""


class DeviceLock:
    """Lets one at a time work with a device: ``async with lock``."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._working: asyncio.Future[Any] | None = None  # what may be broken off
        self._broken_off: str | None = None  # why it was
        self._urgent = 0  # how many wait that come first

    async def __aenter__(self) -> None:
        """Wait for what is being done."""
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Let the next one work."""
        self._lock.release()

    @property
    def is_wanted_first(self) -> bool:
        """Whether something waits that comes first."""
        return self._urgent > 0

    @contextlib.asynccontextmanager
    async def coming_first(self, why: str) -> AsyncIterator[None]:
        """Hold it, without waiting for what may be broken off or left out; ``why`` is for people."""
        self._urgent += 1
        try:
            self.break_off(why)
            await self._lock.acquire()
        finally:
            self._urgent -= 1
        try:
            yield
        finally:
            self._lock.release()

    async def taken_within(self, within_s: float, why: str) -> bool:
        """Break off what is being done, and hold it; returns whether that has ended within so long, s."""
        self.break_off(why)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return await self._lock.acquire()
        return False

    def release(self) -> None:
        """Let the next one work."""
        self._lock.release()

    async def breakable(self, done: Awaitable[T]) -> T:
        """Return the result of something that a stop, or the end of a lease, does not wait for.

        Raises:
            BrokenOff: Something came first.
        """
        working = self._working = asyncio.ensure_future(done)
        try:
            return await unless_cancelled(working)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._broken_off is None or (task is not None and task.cancelling()):
                raise
            raise BrokenOff(self._broken_off) from None
        finally:
            self._working = self._broken_off = None

    def break_off(self, why: str) -> None:
        """End what is still being done, if it may be: something comes first."""
        if self._working is not None and not self._working.done():
            self._broken_off = why
            self._working.cancel()
