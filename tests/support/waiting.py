"""Wait for a condition, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], what: str = "the condition", within_s: float = 30.0) -> None:
    """Return as soon as ``condition()`` is true; fail the test if it is not in time."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {within_s:g} s"
        await asyncio.sleep(0.002)
