"""Real-time mode: steps begin on a steady clock, lateness is counted, and never two steps run at once."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.app import runner as run_module
from heron_mqtt.app import step_clock
from heron_mqtt.app.loaded_modules import LoadedModules
from support.virtual import run_virtual, virtual_now

SLOT_S = 0.05


class FakeEnv:
    """Steps that take as long as they are told."""

    def __init__(self, took_s: list[float]) -> None:
        self.took_s = took_s
        self.begun: list[float] = []
        self.running = 0
        self.agents = ["MG1"]

    estop = None

    async def rest_async(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    async def step_async(self, actions: Any) -> Any:
        self.running += 1
        assert self.running == 1, "two steps at once"
        self.begun.append(virtual_now())
        await asyncio.sleep(self.took_s[len(self.begun) - 1])
        self.running -= 1
        if len(self.begun) == len(self.took_s):
            self.agents = []
        return {}, {}, {}, {}, {"MG1": {"price": 50.0}}


class FakeSummary:
    scenario = "fake"
    steps = 0
    overruns = 0

    def add_step(self, *_: Any) -> None:
        self.steps += 1

    def note_stop(self, stop: object) -> None: ...


def drive(monkeypatch: pytest.MonkeyPatch, took_s: list[float]) -> tuple[FakeEnv, FakeSummary]:
    env, summary = FakeEnv(took_s), FakeSummary()
    monkeypatch.setattr(step_clock, "TIMER_S", 0.0)  # those of virtual time are exact
    monkeypatch.setattr(run_module, "StepClock", partial(step_clock.StepClock, clock=virtual_now))

    async def no_fault(step: int) -> None: ...

    async def main() -> None:
        await run_module._steps(
            env,  # type: ignore[arg-type]
            SimpleNamespace(begin=no_fault),  # type: ignore[arg-type]
            SimpleNamespace(realtime_s=SLOT_S, steps=len(took_s)),  # type: ignore[arg-type]
            SimpleNamespace(step=lambda *_: None),  # type: ignore[arg-type]
            summary,  # type: ignore[arg-type]
            policy=None,
            first={},
            modules=LoadedModules((), {}, None),
        )

    run_virtual(main())
    return env, summary


def test_the_clock_does_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    env, summary = drive(monkeypatch, [0.013 + 0.001 * (k % 7) for k in range(200)])
    first = env.begun[0]
    assert [t - first for t in env.begun] == pytest.approx([k * SLOT_S for k in range(200)], abs=1e-6)
    assert summary.overruns == 0


def test_a_step_that_begins_late_is_counted_and_the_next_is_on_time_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took_s = [0.3 * SLOT_S] * 10
    took_s[4] = 1.5 * SLOT_S
    env, summary = drive(monkeypatch, took_s)
    assert summary.overruns == 1
    begun = [t - env.begun[0] for t in env.begun]
    assert begun[5] == pytest.approx(5.5 * SLOT_S)
    assert begun[6:] == pytest.approx([k * SLOT_S for k in range(6, 10)]), "the clock is the same"


def test_a_step_that_takes_too_long_is_counted_and_no_others_run_at_once_to_catch_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took_s = [0.01] * 20
    took_s[5] = 3.4 * SLOT_S
    env, summary = drive(monkeypatch, took_s)
    assert summary.overruns == 1
    gaps = [b - a for a, b in zip(env.begun, env.begun[1:], strict=False)]
    assert gaps[5] == pytest.approx(3.4 * SLOT_S)
    assert gaps[6:] == pytest.approx([SLOT_S] * len(gaps[6:])), "a new clock, not a burst"
