"""While a program must answer in time, the garbage collector leaves alone what stays loaded."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import heron_mqtt.app.runner as run_module
from heron_mqtt.app.gc_freeze import frozen_gc
from heron_mqtt.app.run_plan import RunOptions, plan_run
from heron_mqtt.app.runner import new_summary
from heron_mqtt.cli.quiet_progress import QuietProgress
from powergrid.scenario import scenario_from_dict
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("unfrozen")


def test_it_lasts_as_long_as_its_block() -> None:
    assert gc.get_freeze_count() == 0
    with frozen_gc():
        with frozen_gc():
            pass
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


def test_a_block_inside_leaves_out_what_has_been_set_up_since_until_the_outer_one_ends() -> None:
    with frozen_gc():
        before = gc.get_freeze_count()
        devices = [[number] for number in range(5_000)]
        with frozen_gc():
            assert gc.get_freeze_count() >= before + 0.9 * len(devices)  # others may have ended meanwhile
        assert gc.get_freeze_count() >= before + 0.9 * len(devices), "the outer block still holds"
    assert gc.get_freeze_count() == 0


def test_a_run_settles_the_heap_for_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = []

    async def steps(*_: Any, **__: Any) -> None:
        frozen.append(gc.get_freeze_count())

    monkeypatch.setattr(run_module, "_steps", steps)
    loaded = scenario_from_dict(small())
    plan = plan_run(loaded, RunOptions(centralized=True))
    asyncio.run(run_module.run(plan, QuietProgress(), new_summary(plan)))
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0
