"""The event loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from support.virtual import run_virtual


def test_a_day_passes_at_once_and_to_the_second() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400.0)
        return asyncio.get_running_loop().time()

    begin = time.monotonic()
    assert run_virtual(main()) == pytest.approx(86_400.0)
    assert time.monotonic() - begin < 5.0


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def main() -> list[float]:
        fired: list[float] = []

        async def wait(s: float) -> None:
            await asyncio.sleep(s)
            fired.append(s)

        await asyncio.gather(*(wait(s) for s in (30.0, 0.5, 7.0, 0.0)))
        return fired

    assert run_virtual(main()) == [0.0, 0.5, 7.0, 30.0]


def test_computing_takes_no_time_so_a_deadline_never_fails_for_a_busy_machine() -> None:
    async def main() -> float:
        async with asyncio.timeout(0.001):
            time.sleep(0.01)
            await asyncio.sleep(0.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0.0


def test_without_a_timer_it_really_waits_for_other_threads() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.02, loop.call_soon_threadsafe, (answer.set_result, "from outside")).start()
        return await answer

    assert run_virtual(main()) == "from outside"
