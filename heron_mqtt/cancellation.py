"""A cancel that is never lost, even if other code swallows it.

``asyncio.wait_for`` of Python 3.11 swallows a cancel that arrives together with its result. So does other
library code that uses it, or that turns a cancel into its own error. A task that is cancelled once, because
its program should end, would then run for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> list[Any]:
    """Cancel tasks, and wait until they have cleaned up.

    Returns:
        What each of them ended with, an error too.
    """
    ending = list(tasks)
    for task in ending:
        task.cancel()
    return await asyncio.gather(*ending, return_exceptions=True)


async def unless_cancelled(foreign: Awaitable[T]) -> T:
    """Await something of another library and return its result, unless the task is cancelled meanwhile.

    A cancel of before does not count: what cleans up after one may await, too.

    Raises:
        CancelledError: The task was cancelled while it waited, also where ``foreign`` has hidden that.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        result = await foreign
    except Exception as exc:
        if task.cancelling() > before:
            raise asyncio.CancelledError from exc
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result


async def to_its_end(foreign: Awaitable[T], within_s: float) -> T:
    """Await something of another library and return its result; a cancel leaves it time to end by itself.

    For what should not be broken off in the middle: the rest of a half-read answer would be taken for the
    next one. After a cancel its result is dropped; it is cancelled itself if it continues for longer, or if a
    second cancel comes.

    Args:
        foreign: What is awaited.
        within_s: How long it may continue after a cancel, s; then it has as long to clean up.

    Raises:
        CancelledError: The task that waits here was cancelled.
    """
    task = asyncio.ensure_future(foreign)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task}, timeout=within_s)
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=within_s)
        if task.done() and not task.cancelled():
            task.exception()  # else it is logged as never looked at
