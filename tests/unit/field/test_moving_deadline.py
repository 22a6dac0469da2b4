"""A deadline that moves while it is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

import pytest

from heron_mqtt.field.moving_deadline import MovingDeadline
from support.virtual import run_virtual, virtual_now

LOOK_S = 2.0

SHORT_S = 0.05


class Moment:
    """A deadline whose moment the test sets, and how often it was asked for."""

    def __init__(self, in_s: float) -> None:
        self.at = time.monotonic() + in_s
        self.asked = 0
        self.deadline = MovingDeadline(self._ask, time.monotonic)

    def _ask(self) -> float:
        self.asked += 1
        return self.at

    def move(self, in_s: float) -> None:
        self.at = time.monotonic() + in_s
        self.deadline.moved()


@contextlib.asynccontextmanager
async def waiting(moment: Moment) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(moment.deadline.reached())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()


async def test_it_is_reached_at_its_moment_and_at_once_when_that_is_past() -> None:
    moment = Moment(SHORT_S)
    await asyncio.wait_for(moment.deadline.reached(), 2.0)
    assert time.monotonic() >= moment.at
    await asyncio.wait_for(moment.deadline.reached(), 0.0001)


async def test_one_that_comes_nearer_wakes_its_waiter() -> None:
    moment = Moment(math.inf)
    async with waiting(moment) as task:
        moment.move(60.0)
        await asyncio.sleep(0)
        assert not task.done()
        moment.move(SHORT_S)
        await asyncio.wait_for(task, 2.0)
    assert time.monotonic() >= moment.at


async def test_one_that_is_put_off_wakes_nobody_and_is_kept_all_the_same() -> None:
    moment = Moment(SHORT_S)
    async with waiting(moment) as task:
        before = moment.asked
        for _ in range(10):
            moment.move(3 * SHORT_S)
            await asyncio.sleep(0)
        assert moment.asked == before + 10, "each move is a comparison, and wakes nobody"
        await asyncio.wait_for(task, 2.0)
    assert time.monotonic() >= moment.at


async def test_after_a_cancelled_wait_it_can_be_waited_for_again() -> None:
    moment = Moment(math.inf)
    async with waiting(moment) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    moment.move(SHORT_S)
    await asyncio.wait_for(moment.deadline.reached(), 2.0)


def test_a_moment_that_came_while_timers_stood_still_is_reached_soon_after() -> None:
    """As when the machine slept: the clock is far ahead, and the timer of the loop is not."""

    async def main() -> None:
        slept_s = [0.0]
        deadline = MovingDeadline(lambda: 3600.0, lambda: virtual_now() + slept_s[0])
        waiter = asyncio.create_task(deadline.reached())
        await asyncio.sleep(60.0)
        assert not waiter.done(), "it has not come yet"
        slept_s[0] = 3600.0
        await asyncio.wait_for(waiter, LOOK_S)

    run_virtual(main())
