"""What a run amounts to: totals worked out by hand, and nothing invented where nothing is known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.app.run_summary import AgentTotals, Summary
from heron_mqtt.field.gateway.hand_back import Unreturned
from heron_mqtt.protocols.p2p import SettledTrade
from heron_mqtt.record.run_part import RunPart
from heron_mqtt.scheduling import is_possible_here

QUARTER_S = 900.0


def summary(**fields: Any) -> Summary:
    agents = {"MG1": AgentTotals(), "MG2": AgentTotals()}
    plain: dict[str, Any] = {"scenario": "s", "mode": "distributed", "broker": "memory", "seed": 1}
    return Summary(**{**plain, "step_s": QUARTER_S, "agents": agents, **fields})


def info(**changes: Any) -> dict[str, Any]:
    """What the environment tells of one agent in one step."""
    plain: dict[str, Any] = {
        "net_mwh": 0.0,
        "p_load_mw": 0.0,
        "p_mw": {"gen": 0.0, "ess": 0.0},
        "reward_terms": {"generation": 0.0, "grid": 0.0, "trades": 0.0, "voltage": 0.0},
        "vm_pu": {"min": 1.0, "max": 1.0},
        "loading_max_percent": 10.0,
        "trades": [],
        "void_trades": [],
        "missed": 0,
        "fallback": None,
        "fallbacks": {},
    }
    return {**plain, **changes}


def one_step(*infos: dict[str, Any], rewards: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any]:
    made = summary()
    for each in infos:
        made.add_step(dict(zip(("MG1", "MG2"), rewards, strict=True)), {"MG1": each, "MG2": info()}, 1.0)
    return made.as_dict()


def test_a_device_that_was_not_handed_back_is_named_and_fails_a_strict_run() -> None:
    made = summary(unreturned={"MG1/ess": Unreturned("it is silent", False)})
    assert made.as_dict()["not_handed_back"] == {"MG1/ess": "it is silent"}
    assert made.over_budget(strict=True, max_fallbacks=None) == ["--strict: 1 devices not handed back"]
    assert made.over_budget(strict=False, max_fallbacks=None) == []


def test_energy_is_power_times_time_and_sorted_by_direction() -> None:
    made = summary()
    for net_mwh, load_mw, gen_mw in ((0.5, -1.0, 3.0), (-0.25, -2.0, 1.0)):
        step = info(net_mwh=net_mwh, p_load_mw=load_mw, p_mw={"gen": gen_mw, "ess": -0.4})
        made.add_step({"MG1": -1.0, "MG2": 0.0}, {"MG1": step, "MG2": info()}, 1.0)
    totals = made.agents["MG1"]
    assert totals.net_mwh == pytest.approx(0.25)
    assert (totals.exported_mwh, totals.imported_mwh) == pytest.approx((0.5, 0.25))
    assert totals.consumed_mwh == pytest.approx(3.0 * 0.25)
    assert totals.generated_mwh == pytest.approx((4.0 - 0.8) * 0.25)
    assert totals.reward == -2.0
    assert made.agents["MG2"] == AgentTotals()
    assert made.as_dict()["energy_mwh"] == {"MG1": pytest.approx(0.25), "MG2": 0.0}


def test_cost_is_money_and_leaves_penalties_out() -> None:
    terms = {"generation": -3.0, "grid": -2.0, "trades": 1.5, "voltage": -100.0, "loading": -7.0}
    result = one_step(info(reward_terms=terms), rewards=(-110.5, 0.0))
    assert result["cost"]["MG1"] == pytest.approx(3.5)
    assert result["rewards"]["MG1"] == -110.5


def test_a_trade_counts_once_though_both_sides_tell_of_it() -> None:
    trade = SettledTrade("MG1", "MG2", 0.25, 50.0)
    made = summary()
    told = {"MG1": info(trades=[trade]), "MG2": info(trades=[trade], void_trades=["MG1"])}
    made.add_step({"MG1": 0.0, "MG2": 0.0}, told, 1.0)
    assert made.as_dict()["trades"] == {"count": 1, "mwh": 0.25, "void": 1}


def test_extremes_are_those_of_all_steps_and_agents() -> None:
    result = one_step(
        info(vm_pu={"min": 0.95, "max": 1.01}, loading_max_percent=80.0),
        info(vm_pu={"min": 0.97, "max": 1.04}, loading_max_percent=20.0),
    )
    assert result["vm_pu"] == {"min": 0.95, "max": 1.04}
    assert result["loading_max_percent"] == 80.0


def test_an_agent_that_was_late_is_a_miss_and_a_fallback_and_so_is_each_device() -> None:
    result = one_step(
        info(fallback="no action before the deadline"),
        info(missed=2, fallbacks={"ess": "late", "gen": "late"}),
    )
    assert result["deadline_misses"] == 3
    assert result["fallbacks"] == 3


def test_before_the_first_step_nothing_is_known() -> None:
    result = summary().as_dict()
    assert result["steps"] == 0
    assert result["vm_pu"] == {"min": None, "max": None}
    assert result["step_ms"] == {"median": None, "p99": None, "max": None}
    assert result["loading_max_percent"] is None
    assert result["rewards"] == {"MG1": 0.0, "MG2": 0.0}
    assert result["messages"] == dict.fromkeys(("published", "received", "duplicated", "rejected", "lost"), 0)


def test_a_step_without_a_solution_is_null_and_leaves_the_extremes_of_the_others() -> None:
    nan = math.nan
    lost = info(
        net_mwh=nan,
        vm_pu={"min": nan, "max": nan},
        loading_max_percent=nan,
        reward_terms=dict.fromkeys(("generation", "grid", "trades"), nan),
        diverged="no convergence",
    )
    result = one_step(info(vm_pu={"min": 0.98, "max": 1.02}), lost, rewards=(nan, nan))
    assert result["diverged"] == "no convergence"
    assert result["rewards"] == {"MG1": None, "MG2": None}
    assert result["energy_mwh"]["MG1"] is None
    assert result["cost"]["MG1"] is None
    assert result["vm_pu"] == {"min": 0.98, "max": 1.02}
    json.dumps(result, allow_nan=False)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=200))
def test_percentiles_are_step_times_that_occurred_in_order(times: list[float]) -> None:
    made = summary(step_ms=times)
    median, p99, longest = (made.percentile_ms(share) for share in (0.5, 0.99, 1.0))
    assert median is not None
    assert p99 is not None
    assert {median, p99, longest} <= set(times)
    assert median <= p99 <= max(times) == longest
    assert sum(t <= median for t in times) >= len(times) / 2
    assert sum(t <= p99 for t in times) >= 0.99 * len(times)


def test_a_resumed_run_counts_what_its_earlier_parts_told() -> None:
    first = summary(overruns=2, estop={"who": "ann", "active": False, "first_step": 1, "last_step": 2})
    first.note_messages({"published": 5, "received": 4, "duplicated": 0, "rejected": 0, "lost": 3, "x": 1})
    second = summary()
    second.carry_on([RunPart(summary=first.as_dict())])
    second.note_messages({"published": 1, "received": 1, "duplicated": 0, "rejected": 0, "lost": 1})
    third = summary()
    third.carry_on([RunPart(summary=first.as_dict()), RunPart(summary=second.as_dict())])
    assert (third.messages["published"], third.messages["lost"], third.overruns) == (6, 4, 2)
    assert third.estop == first.estop
    assert third.over_budget(strict=True, max_fallbacks=None) == ["--strict: 4 lost messages"]


def test_a_part_that_was_killed_is_not_known_and_fails_when_strict() -> None:
    told = summary(overruns=1).as_dict()
    made = summary()
    made.carry_on([RunPart(summary=told), RunPart()])
    assert (made.overruns, made.as_dict()["unknown_parts"]) == (1, 1)
    assert made.over_budget(strict=True, max_fallbacks=0) == [
        "--strict: a part of the run was killed: its lost messages are not known"
    ]
    later = summary()
    later.carry_on([RunPart(summary=told), RunPart(), RunPart(summary=made.as_dict()), RunPart()])
    assert later.unknown_parts == 2
    assert made.over_budget(strict=False, max_fallbacks=0) == []
    direct = summary(mode="centralized")
    direct.carry_on([RunPart()])
    assert direct.over_budget(strict=True, max_fallbacks=0) == [], "there are no messages"


def test_rows_that_are_missing_count_those_of_earlier_parts() -> None:
    made = summary(record={"file": "day.heron", "lost": 3}, csv={"file": "day.csv", "lost": 2})
    made.carry_on(
        [RunPart(summary={"lost_rows": 4}), RunPart(summary=None), RunPart(summary={"lost_rows": 5})]
    )
    assert made.lost_rows == 12
    assert made.shortfalls == {"rows missing in the record": 12, "rows missing in the CSV file": 2}
    assert made.as_dict()["csv"] == {"file": "day.csv", "lost": 2}
    (line,) = summary(csv={"file": "day.csv", "lost": 2}).over_budget(strict=True, max_fallbacks=None)
    assert line == "--strict: 2 rows missing in the CSV file"
    assert summary(record={"file": "day.heron", "lost": 0}).shortfalls == {}


def test_late_steps_are_told_with_what_helps_and_with_nothing_where_nothing_does() -> None:
    """Only where a processor was missing: steps that take longer or wait for messages stay late with any."""

    def late(took_ms: float, **fields: Any) -> str:
        return summary(
            **{"overruns": 2, "realtime_s": 0.01, "step_ms": [took_ms] * 3, **fields}
        ).overruns_told

    helps = "2 steps began late: beside other programs --priority 40 may help"
    assert late(9.9) == (helps if is_possible_here() else "2 steps began late")
    assert late(10.0) == "2 steps began late: a step takes 10.0 ms here, and has 10 ms"
    for nothing in ({"priority": 40}, {"deadline_misses": 1}, {"fallbacks": 1}, {"realtime_s": None}):
        assert late(5.0, **nothing) == "2 steps began late", nothing
    assert late(20.0, priority=40) == "2 steps began late: a step takes 20.0 ms here, and has 10 ms"
    assert summary(overruns=2, realtime_s=0.01).overruns_told == "2 steps began late", "no step was timed"
    assert summary(priority=7).as_dict()["priority"] == 7
