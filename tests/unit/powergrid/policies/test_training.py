"""Which days ``scripts/train_policy.py`` trains on, and on which its curves are measured."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from powergrid.policies.scoring import with_policy
from powergrid.scenario import load_scenario

SCRIPT = Path(__file__).parents[4] / "scripts" / "train_policy.py"
STEPS = 96
JANUARY = datetime(2016, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_policy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_curves_are_measured_on_days_that_are_neither_trained_on_nor_of_the_shipped_week(
    script: ModuleType,
) -> None:
    series = SimpleNamespace(
        n_rows=366 * STEPS,
        last_start=lambda steps: 366 * STEPS - steps,
        local_clock=lambda row: JANUARY + timedelta(minutes=15 * int(row)),
    )
    batch: Any = SimpleNamespace(simulation=SimpleNamespace(series=series), max_episode_steps=STEPS)
    held_out, trained = (
        {series.local_clock(row).date() for row in script._days(batch, held_out=which)}
        for which in (True, False)
    )
    shipped = {script.SHIPPED_WEEK + timedelta(days=i) for i in range(7)}
    assert not held_out & trained
    assert not (held_out | trained) & shipped
    assert len(held_out | trained) == 366 - 7
    assert len(held_out) > script.HELD_OUT_DAYS


def test_each_day_of_a_curve_is_there_once(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "day_scores", lambda batch, days, seeds: 0.0 * days)
    found = script.HeldOut(with_policy(load_scenario("training_days"), "learned"), [])
    assert sorted(found._days) == [STEPS * day for day in range(7)]
