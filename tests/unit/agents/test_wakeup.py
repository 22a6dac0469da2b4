"""Wakeup: who waits goes on when the condition holds or at its own deadline, however many waited before."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.agents.wakeup import Wakeup
from support.virtual import run_virtual, virtual_now


def never() -> bool:
    return False


async def notified(wakeup: Wakeup, after_s: float, timeout_s: float | None) -> bool:
    """Wait for something that comes true after a while."""
    true = False

    def come() -> None:
        nonlocal true
        true = True
        wakeup.notify()

    asyncio.get_running_loop().call_later(after_s, come)
    return await wakeup.until(lambda: true, timeout_s)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 2.0, 7.0, 30.0]), st.sampled_from([0.05, 0.3, 1.0, 5.0, 60.0])),
        min_size=1,
        max_size=12,
    )
)
def test_every_wait_ends_at_the_first_of_condition_and_deadline(waits: list[tuple[float, float]]) -> None:
    async def main() -> None:
        wakeup = Wakeup()
        for timeout_s, after_s in waits:
            began_s = virtual_now()
            assert await notified(wakeup, after_s, timeout_s) == (after_s < timeout_s)
            assert virtual_now() - began_s == pytest.approx(min(timeout_s, after_s), abs=1e-6)

    run_virtual(main())


def test_a_short_wait_after_a_long_one_is_short() -> None:
    async def main() -> None:
        wakeup = Wakeup()
        assert await notified(wakeup, 0.1, 1000.0)
        began_s = virtual_now()
        assert not await wakeup.until(never, 0.5)
        assert virtual_now() - began_s == pytest.approx(0.5)

    run_virtual(main())


def test_waits_that_end_in_time_leave_one_timer() -> None:
    async def main() -> None:
        wakeup, loop = Wakeup(), asyncio.get_running_loop()
        timers = []
        real = loop.call_at
        loop.call_at = lambda *a, **k: timers.append(a) or real(*a, **k)  # type: ignore[method-assign, func-returns-value]
        for _ in range(50):
            loop.call_soon(wakeup.notify)
            flags = iter([False, True])
            assert await wakeup.until(lambda flags=flags: next(flags, True), 2.0)  # type: ignore[misc]
        assert len(timers) == 1

    asyncio.run(main())


async def test_what_is_not_waited_for_wakes_nobody() -> None:
    wakeup, looks, came = Wakeup(), [], False

    def condition() -> bool:
        looks.append(came)
        return came

    waiting = asyncio.create_task(wakeup.until(condition, 60.0))
    await asyncio.sleep(0)
    before = len(looks)
    for _ in range(3):
        wakeup.notify()
        await asyncio.sleep(0)
    assert looks[before:] == [False] * 3, "one look a message, and none by the task"
    came = True
    wakeup.notify()
    assert await waiting


def test_it_works_in_one_loop_after_another() -> None:
    wakeup = Wakeup()

    async def main() -> None:
        assert await notified(wakeup, 0.1, 1.0), "and its timer is still on"
        assert not await wakeup.until(never, 1.5)

    for _ in range(3):
        run_virtual(main())


async def test_what_failed_is_raised_by_the_wait_under_way_and_by_every_later_one() -> None:
    wakeup = Wakeup()
    asyncio.get_running_loop().call_soon(wakeup.fail, KeyError("gone"))
    for _ in range(2):
        with pytest.raises(KeyError, match="gone"):
            await wakeup.until(never, None)


async def test_what_is_on_its_way_when_the_time_is_over_still_comes() -> None:
    wakeup, came = Wakeup(), []
    asyncio.get_running_loop().call_soon(came.append, True)
    assert await wakeup.until(lambda: bool(came), -1.0)


async def test_a_condition_that_holds_is_not_waited_for() -> None:
    assert await Wakeup().until(lambda: True, 0.0)
    assert not await Wakeup().until(never, 0.0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_timer_left_in_a_loop_that_still_runs_does_not_disturb_a_wait_in_another() -> None:
    wakeup = Wakeup()
    flags = iter([False, True])
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    failed: list[object] = []
    first.set_exception_handler(lambda _, context: failed.append(context["exception"]))
    thread = threading.Thread(target=first.run_forever)
    thread.start()
    try:
        ended = asyncio.run_coroutine_threadsafe(wakeup.until(lambda: next(flags), 0.1), first)
        assert ended.result(5.0), "in time: its timer stays"

        second.set_debug(True)  # has asyncio say what is called from a foreign thread
        second.call_later(0.2, time.sleep, 0.3)  # busy while the deadline passes: the first loop is sooner
        wait = second.create_task(wakeup.until(never, 0.3))
        done, _ = second.run_until_complete(asyncio.wait({wait}, timeout=2.0))
        assert not failed
        assert done, "the deadline has passed and nobody noticed"
        assert not wait.result()
    finally:
        first.call_soon_threadsafe(first.stop)
        thread.join()
        first.close()
        second.close()
