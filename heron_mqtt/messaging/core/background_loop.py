"""The event loop behind the synchronous calls.

PettingZoo's ``reset`` and ``step`` are synchronous, and may be called from inside a running event loop
(a notebook, an async test). The connections behind them still have to be served between two calls:
acknowledgements, keepalive, devices that publish by themselves. So synchronous callers share one loop on
one daemon thread a process. That is the reason for the thread; asynchronous callers never touch it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from threading import get_ident
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the process's background loop, started at the first call."""
    global _loop  # noqa: PLW0603 - one loop a process is the point
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_loop.run_forever, name="heron-background-loop", daemon=True)
            thread.start()
            atexit.register(_end, _loop, thread)
        return _loop


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it.

    An interrupt (Ctrl-C) cancels the coroutine, waits until it has cleaned up, and is raised again.

    Raises:
        RuntimeError: Called from the background loop itself, where waiting would never end.
    """
    loop = background_loop()
    if running_loop() is loop:
        coroutine.close()
        raise RuntimeError(
            "a synchronous call from the background loop would wait for itself; await the async one"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            done = threading.Event()
            future.add_done_callback(lambda _: done.set())
            future.cancel()
            done.wait(timeout=2.0)
        raise


_seen_running: asyncio.AbstractEventLoop | None = None  # the loop that was found last


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop running in this thread, or None; asked with every message.

    A loop of asyncio knows the thread that it runs in. To ask it takes a fraction of asking asyncio, which
    asks the system each time (Python 3.11) whether this process is a fork.
    """
    global _seen_running  # noqa: PLW0603 - a cache of one
    loop = _seen_running
    if loop is not None:
        try:
            if loop._thread_id == get_ident():  # type: ignore[attr-defined]
                return loop
        except AttributeError:  # a loop that is not asyncio's
            pass
    loop = _seen_running = asyncio._get_running_loop()
    return loop


def current_loop() -> asyncio.AbstractEventLoop:
    """Return the loop running in this thread, for coroutines and callbacks: as ``running_loop`` finds it."""
    loop = running_loop()
    return asyncio.get_running_loop() if loop is None else loop


def _forget_running() -> None:
    """Forget the loop of the process that this one is a fork of; it does not run here."""
    global _seen_running  # noqa: PLW0603 - see above
    _seen_running = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_running)


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Cancel what is left at interpreter exit, so that connections close and nothing complains."""

    async def cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0) if tasks else None
        loop.stop()

    if thread.is_alive():
        asyncio.run_coroutine_threadsafe(cancel_all(), loop)
        thread.join(timeout=2.0)


def _after_fork() -> None:
    """Forget the parent's loop: its thread does not exist in a forked child."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
