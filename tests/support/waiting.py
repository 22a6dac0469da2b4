"""Wait for a condition, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_FIRST_PAUSE_S, _GROWTH, _LONGEST_PAUSE_S = 0.001, 1.2, 0.01
"""To look every 2 ms takes 3 % of a processor, in each of the tests that wait."""


async def until(condition: Callable[[], object], what: str = "the condition", within_s: float = 30.0) -> None:
    """Return as soon as ``condition()`` is true; fail the test if it is not in time."""
    end = time.monotonic() + within_s
    pause_s = _FIRST_PAUSE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {within_s:g} s"
        await asyncio.sleep(pause_s)
        pause_s = min(_GROWTH * pause_s, _LONGEST_PAUSE_S)
