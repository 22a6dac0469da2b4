"""One thing after another for a disk, away from the event loop; a disk that fails is said once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.core.stats import MessageStats

T = TypeVar("T")

RETRY_S = 5.0  # after the disk has failed
DISK_ERRORS = (OSError, sqlite3.Error, ConfigError)


class Disk:
    """Runs jobs in a thread of its own: a commit may take long, and setpoints must not wait for it.

    Used in one event loop.

    Args:
        where: The file, for messages.
        stats: Where failures are counted (``outbox_errors``) and reported.
        on_idle: Called after each job.
    """

    def __init__(self, where: str, stats: MessageStats, on_idle: Callable[[], None]) -> None:
        self.trouble: str | None = None
        """What is wrong with it; None = nothing."""
        self.retry_at_s = 0.0
        """By the event loop's clock: before, it is not tried again."""
        self._where = where
        self._stats = stats
        self._on_idle = on_idle
        self._thread = ThreadPoolExecutor(1, "outbox")
        self._job: asyncio.Future[Any] | None = None
        self.is_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None

    def begin(self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[], None]) -> None:
        """Do a job in the thread, and then one of the others in the event loop. One at a time."""
        assert self._job is None, "one at a time"
        self._job = asyncio.get_running_loop().run_in_executor(self._thread, job)
        self._job.add_done_callback(partial(self._ended, done, failed))

    def _ended(
        self, done: Callable[[Any], None], failed: Callable[[], None], job: asyncio.Future[Any]
    ) -> None:
        self._job = None
        if job.cancelled():
            failed()
            return
        try:
            result = job.result()
        except DISK_ERRORS as exc:
            failed()
            self.failed(exc, job.get_loop().time())
        else:
            if self.trouble is not None:
                self.trouble = None
                self._stats.report("outbox", self._where, "the disk works again")
            done(result)
        if not self.is_closed:
            self._on_idle()

    def failed(self, exc: BaseException, now_s: float) -> None:
        """Count a failure, and say it if it is the first."""
        self._stats.outbox_errors += 1
        self.retry_at_s = now_s + RETRY_S
        if self.trouble is None:
            self._stats.report(
                "outbox",
                self._where,
                f"cannot be used: {exc}; messages wait in memory alone, and are lost with this process; free "
                "or repair the disk: it is tried again",
            )
        self.trouble = str(exc)

    async def finish(self, prepare: Callable[[], Callable[[], None]]) -> None:
        """Wait for the job under way, do the one that is then prepared, and end."""
        self.is_closed = True
        loop = asyncio.get_running_loop()
        if self._job is not None:
            await asyncio.wait([self._job])
        try:
            await loop.run_in_executor(self._thread, prepare())
        except DISK_ERRORS as exc:
            self.failed(exc, loop.time())
        self._thread.shutdown(wait=False)

    def finish_now(self, prepare: Callable[[], Callable[[], None]]) -> None:
        """Do the same where the event loop has ended."""
        self.is_closed = True
        self._thread.shutdown(wait=True)
        try:
            prepare()()
        except DISK_ERRORS as exc:
            self.failed(exc, 0.0)
