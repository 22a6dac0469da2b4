"""The thread in which a device's library may block."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DeviceThread:
    """Does in turn what blocks, in one thread: libraries of vendors wait for hardware in the call itself.

    It begins with the first work, and is a daemon: a call that never returns keeps no program from ending,
    and writes nothing after its end.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._left: Future[Any] | None = None  # what continues although it was broken off

    @property
    def goes_on(self) -> bool:
        """Whether work continues that was broken off."""
        return self._left is not None and not self._left.done()

    def has_gone_on(self) -> bool:
        """Whether work that was broken off has ended since this was asked last."""
        if self._left is None or not self._left.done():
            return False
        self._left = None
        return True

    async def do(self, work: Callable[[], T]) -> T:
        """Return the result of some work; what is cancelled before its turn is not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._work.put((future, work))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.running():
                self._left = future
            raise

    def end(self) -> None:
        """End the thread after what it is doing."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)
