"""The steps of a run in real time begin when they are due, and say when they do not."""

from __future__ import annotations

import pytest

from heron_mqtt.app.step_clock import StepClock


class Time:
    """Time that only waiting and working move; timers are late."""

    def __init__(self, timers_late_s: float = 0.0) -> None:
        self.now_s = 50.0
        self.timers_late_s = timers_late_s
        self.paused_s = 0.0

    def clock(self) -> float:
        return self.now_s

    async def rest(self, duration_s: float) -> None:
        self.now_s += duration_s + self.timers_late_s

    def pause(self, duration_s: float) -> None:
        self.paused_s = max(self.paused_s, duration_s)
        self.now_s += duration_s

    def steps(self, period_s: float) -> StepClock:
        return StepClock(period_s, self.rest, self.clock, self.pause)


@pytest.mark.parametrize("timers_late_s", [0.0, 0.0004, 0.00099])
async def test_a_step_begins_on_time_though_timers_are_late(timers_late_s: float) -> None:
    time = Time(timers_late_s)
    steps = time.steps(0.01)
    for n in range(5):
        assert not await steps.next_step()
        assert time.now_s == pytest.approx(50.0 + n * 0.01, abs=1e-9)
        time.now_s += 0.004
    assert time.paused_s <= 0.001 + 1e-9, "the event loop is not blocked for longer"


@pytest.mark.parametrize(("work_s", "late"), [(0.0099, False), (0.0108, False), (0.0112, True)])
async def test_a_step_is_late_by_more_than_a_millisecond(work_s: float, late: bool) -> None:
    time = Time()
    steps = time.steps(0.01)
    assert not await steps.next_step()
    time.now_s += work_s
    assert await steps.next_step() is late


async def test_a_timer_that_is_later_than_usual_makes_a_step_late() -> None:
    time = Time(timers_late_s=0.003)
    steps = time.steps(0.01)
    assert not await steps.next_step()
    assert await steps.next_step()


async def test_what_is_less_than_a_period_is_caught_up_with() -> None:
    time = Time()
    steps = time.steps(0.01)
    await steps.next_step()
    time.now_s += 0.015
    assert await steps.next_step()
    time.now_s += 0.002
    assert not await steps.next_step()
    assert time.now_s == pytest.approx(50.02)


async def test_steps_do_not_follow_each_other_at_once_after_a_long_one() -> None:
    time = Time()
    steps = time.steps(0.01)
    await steps.next_step()
    time.now_s += 0.1
    assert await steps.next_step()
    begun_s = time.now_s
    assert not await steps.next_step()
    assert time.now_s - begun_s == pytest.approx(0.01)
