"""A cancel that is never lost, whatever the code of others makes of it.

``asyncio.wait_for`` of Python 3.11 swallows a cancel that arrives together with its result; so does code
of other libraries that uses it, or that turns a cancel into an error of its own. A task that is cancelled
once, because its program shall end, would go on for ever.
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
