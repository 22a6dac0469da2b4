"""Blocking work on a thread that does not outlive the program."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking work on a thread that does not keep the process alive if we do not wait for it."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(cast("T", result))
        else:
            outcome.set_exception(error)

    def target() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as exc:  # handed to who waits, traceback and all
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended: no task waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=target, name="build environment", daemon=True).start()
    return await outcome
