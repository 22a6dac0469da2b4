"""What policies are compared with: the optimum is above all of them, and each does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heron_mqtt.app.evaluate import BOUND, REPLAYED, evaluate, mean_of
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment import ImpairmentTable
from powergrid.envs import MultiAgentMicrogrids
from powergrid.policies import POLICIES
from powergrid.policies.dispatch_program import DispatchProgram
from powergrid.policies.learned import CHECKPOINT, N_WEIGHTS
from powergrid.policies.scoring import AS_NAMED, with_policy
from powergrid.scenario import load_scenario, scenario_from_dict
from support.small_grid import scenario as small


@pytest.fixture(
    scope="module",
    params=[pytest.param((96, 1), id="one day"), pytest.param((96, 3), id="three days")],
)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return evaluated(*request.param)


@pytest.fixture(scope="module")
def morning() -> dict[str, Any]:
    return evaluated(24, 1)


def evaluated(steps: int, days: int) -> dict[str, Any]:
    """Evaluate every policy; predictive control solves a program in each step, and takes the most time."""
    loaded = load_scenario("training_days")
    loaded = loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"steps": steps})})
    every = evaluate(loaded, list(POLICIES), seeds=range(days), with_bound=True)
    return {one.policy: one for one in every}


def assert_none_earns_more_than_the_optimum(found: dict[str, Any]) -> None:
    for name in (*POLICIES, REPLAYED):
        for mine, best in zip(found[name].episodes, found[BOUND].episodes, strict=True):
            assert mine.score_usd <= best.score_usd + 1e-6, (name, mine.seed)


def test_in_a_morning_no_policy_earns_more_than_the_optimum(morning: dict[str, Any]) -> None:
    assert_none_earns_more_than_the_optimum(morning)


def test_in_a_morning_predictive_control_and_the_learned_policy_earn_more_than_rules_and_rest(
    morning: dict[str, Any],
) -> None:
    for name in ("mpc", "learned"):
        for other in ("rule", "idle"):
            assert morning[name].gain(morning[other]).mean > 0.0, (name, other)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_policy_earns_more_than_the_optimum(found: dict[str, Any]) -> None:
    """``test_in_a_morning_no_policy_earns_more_than_the_optimum`` is the quick one."""
    assert_none_earns_more_than_the_optimum(found)


@pytest.mark.slow
def test_predictive_control_and_the_learned_policy_earn_more_than_rules_and_rest(
    found: dict[str, Any],
) -> None:
    """The quick one is ``test_in_a_morning_...``; a morning is too short for chance to lose."""
    for name in ("mpc", "learned"):
        for other in ("rule", "idle", "random"):
            assert found[name].gain(found[other]).mean > 0.0, (name, other)


def test_without_messages_the_scenarios_own_network_holds_too() -> None:
    loaded = load_scenario("training_days")
    lossy = ImpairmentTable.model_validate(
        {
            "rules": [
                {"pattern": ["run/state", "agents/+/status"], "exempt": True},
                {"pattern": "#", "loss": 0.1},
            ]
        }
    )
    scenario = loaded.scenario.model_copy(update={"steps": 8, "impairment": lossy})
    loaded = loaded.model_copy(update={"scenario": scenario})
    calls, memory = (evaluate(loaded, ["idle"], seeds=[1], over=over)[0] for over in ("calls", "memory"))
    mine, theirs = calls.episodes[0], memory.episodes[0]
    assert mine.missed == theirs.missed > 0
    assert mine.score_usd == pytest.approx(theirs.score_usd, abs=1e-9)


def test_batteries_rest_when_idle_and_use_their_range_at_random() -> None:
    powers = {}
    for name in ("idle", "random"):
        env = MultiAgentMicrogrids({"scenario": with_policy(load_scenario("training_days"), name)})
        env.reset(seed=1)
        powers[name] = np.array([env.step({})[4]["MG1"]["p_mw"]["ess"] for _ in range(48)])
    assert not powers["idle"].any()
    assert powers["random"].min() < -0.02
    assert powers["random"].max() > 0.02


def test_the_program_plans_what_a_battery_can_do_and_waits_for_the_price() -> None:
    scenario = load_scenario("three_microgrids").scenario
    program = DispatchProgram(scenario, ("MG1",), 4)
    price = np.array([10.0, 10.0, 200.0, 200.0])
    solution = program.solve(price, np.full(4, -0.05), {("MG1", "ess"): 0.15}, 0.0)
    power = solution.battery_mw["MG1", "ess"]
    spec: Any = scenario.microgrids["MG1"].devices["ess"].spec
    assert power[:2].sum() < 0.0 < power[2:].min()
    assert np.abs(power).max() <= spec.max_p_discharge_mw + 1e-9
    with_more = program.solve(price, np.full(4, -0.05), {("MG1", "ess"): 0.3}, 0.0)
    assert with_more.value > solution.value


def test_predictive_control_needs_a_forecast() -> None:
    with pytest.raises(ConfigError, match=r'PredictivePolicy of MG1: forecast.kind is "none"'):
        MultiAgentMicrogrids({"scenario": with_policy(load_scenario(), "mpc")})


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, weights=np.zeros(3))
    for path, why in ((other, r"expected \d+ finite weights"), (tmp_path / "none.npz", "cannot be read")):
        loaded = with_policy(load_scenario(), "learned", {"checkpoint": str(path)})
        with pytest.raises(ConfigError, match=why):
            MultiAgentMicrogrids({"scenario": loaded})
    assert np.load(CHECKPOINT)["weights"].shape == (N_WEIGHTS,)
    assert CHECKPOINT.stat().st_size < 100_000


def test_the_interval_is_students() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 / np.sqrt(3.0), rel=1e-6)
    assert mean_of([1.0]).half is None, "JSON has no infinity"


def test_policies_can_be_those_that_the_scenario_names() -> None:
    own = {"use": "powergrid.policies:LearnedPolicy", "arguments": {"checkpoint": str(CHECKPOINT)}}
    loaded = scenario_from_dict(small({f"microgrids.{agent}.policy": own for agent in ("MG1", "MG2", "MG3")}))
    scores = [one.episodes for one in evaluate(loaded, [AS_NAMED, "learned", "rule"], seeds=[0])]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.slow
def test_an_episode_over_mqtt_has_the_score_of_one_by_calls() -> None:
    loaded = scenario_from_dict(small({"steps": 2}))
    called, carried = (
        evaluate(loaded, ["rule"], seeds=[0], over=way)[0].episodes[0] for way in ("calls", "mqtt")
    )
    assert carried.score_usd == pytest.approx(called.score_usd, abs=1e-9)
    assert carried.messages > 0 == called.messages


def test_what_does_not_go_together_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="--over pigeon: expected one of calls, memory, mqtt"):
        evaluate("training_days", ["rule"], seeds=[0], over="pigeon")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--seeds: expected at least one"):
        evaluate("training_days", ["rule"], seeds=[])
    with pytest.raises(ConfigError, match=r"policy 'mcp': expected rule, .*mpc, .*scenario, module:Class or"):
        evaluate("training_days", ["mcp"], seeds=[0])
    with pytest.raises(ConfigError, match="policy 'nothing:There': cannot be imported"):
        evaluate("training_days", ["nothing:There"], seeds=[0])
    with pytest.raises(ConfigError, match="--bound: knows no ev_charger"):
        evaluate("neighbourhood", ["rule"], seeds=[0], with_bound=True)
