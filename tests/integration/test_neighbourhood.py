"""The shipped neighbourhood, with every kind of device: the same day in every mode, and each kind at work."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from powergrid.devices import DEVICES
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.scenario import LoadedScenario, load_scenario
from support.heron_command import run_heron
from support.in_process import emulated_trajectory
from support.trajectories import assert_same, own_policies, some_random_actions, trajectory


def loaded(steps: int, start_row: int = 68) -> LoadedScenario:
    found = load_scenario("neighbourhood")
    profiles = found.scenario.profiles.model_copy(update={"start_row": start_row})
    return found.model_copy(
        update={"scenario": found.scenario.model_copy(update={"steps": steps, "profiles": profiles})}
    )


def devices_of(scenario: LoadedScenario) -> set[str]:
    grids = scenario.scenario.microgrids.items()
    return {f"{agent}/{name}" for agent, table in grids for name in table.devices}


def test_every_kind_that_is_shipped_is_in_it() -> None:
    tables = load_scenario("neighbourhood").scenario.microgrids.values()
    of_a_file = {"fmu"}  # which is the user's; docs/examples/fmu_battery has one
    assert {table.spec.kind for grid in tables for table in grid.devices.values()} == set(DEVICES) - of_a_file


@pytest.fixture(scope="module")
def day() -> list[dict[str, Any]]:
    env = MultiAgentMicrogrids({"scenario": "neighbourhood", "observation": "full"})
    return trajectory(env, own_policies)


def test_in_a_day_cars_are_charged_heat_is_served_and_loads_catch_up(day: list[dict[str, Any]]) -> None:
    steps = day[1:]

    def of(path: str) -> list[float]:
        return [step[f"info/{path}"] for step in steps]

    car, fleet = of("MG1/soc/car"), of("MG3/soc/fleet")
    assert max(car) == pytest.approx(0.8)
    assert max(fleet) > 0.85
    for owner, name, least in (("MG1", "car", 0.0041), ("MG3", "fleet", 0.0083)):
        drawn = [-p for p in of(f"{owner}/p_mw/{name}") if p < 0.0]
        assert drawn
        assert sum(power < least - 1e-12 for power in drawn) <= 2, "less only where the target was reached"
    for agent in ("MG1", "MG3"):
        cost = sum(of(f"{agent}/reward_terms/generation"))
        assert cost == pytest.approx(0.0, abs=1e-9), "every car and every flat got what it wanted"
    assert max(of("MG1/soc/heating")) > 0.9
    assert min(of("MG1/soc/heating")) < 0.1
    for owner, name in (("MG2", "cold_store"), ("MG3", "laundry")):
        owed = of(f"{owner}/soc/{name}")
        assert min(owed) < 0.1
        assert max(owed[owed.index(min(owed)) :]) == pytest.approx(1.0)
    for agent in ("MG1", "MG2", "MG3"):
        assert min(of(f"{agent}/vm_pu/min")) > 0.95
        assert max(of(f"{agent}/loading_max_percent")) < 100.0


@pytest.mark.slow_but("68")
@pytest.mark.parametrize("start_row", [68, 112])  # an evening, a morning
def test_with_emulated_devices_it_is_the_day_of_centralized_mode(start_row: int) -> None:
    scenario = loaded(12, start_row)
    central = trajectory(
        MultiAgentMicrogrids({"scenario": scenario, "observation": "full"}), some_random_actions
    )
    steps, devices = emulated_trajectory(scenario, some_random_actions)
    assert_same(central, [{k: v for k, v in s.items() if "/authority" not in k} for s in steps])
    assert set(devices) == devices_of(scenario)
    assert all(report["setpoints"] == 12 for report in devices.values())
    assert {report["residual_mw"] for report in devices.values()} == {0.0}, "twins that differ"


def test_over_messages_it_is_the_day_of_centralized_mode(day: list[dict[str, Any]]) -> None:
    env = MultiAgentMicrogrids({"scenario": "neighbourhood", "centralized": False, "observation": "full"})
    assert_same(day, trajectory(env, own_policies))
    env.close()


def test_in_a_batch_each_copy_is_a_single_environment() -> None:
    scenario = loaded(20)
    batch = BatchedMicrogrids({"scenario": scenario, "num_envs": 3, "observation": "full"})
    rows = [20, 68, 112]
    batch.reset(options={"start_rows": rows})
    singles = [MultiAgentMicrogrids({"scenario": scenario, "observation": "full"}) for _ in rows]
    for single, row in zip(singles, rows, strict=True):
        single.reset(seed=1, options={"start_row": row})
    rng = np.random.default_rng(5)
    for step in range(19):
        shapes = {} if step % 2 else {a: batch.action_space(a).shape for a in batch.agents}
        actions = {a: rng.uniform(-1.0, 1.0, shape) for a, shape in shapes.items()}
        _, rewards, _, _, infos = batch.step(actions)
        for copy, single in enumerate(singles):
            _, expected, _, _, alone = single.step({a: values[copy] for a, values in actions.items()})
            for agent in batch.agents:
                assert rewards[agent][copy] == pytest.approx(expected[agent], abs=1e-9)
                for quantity in ("p_mw", "soc"):
                    here = {name: values[copy] for name, values in infos[agent][quantity].items()}
                    assert here == alone[agent][quantity], (step, copy, agent, quantity)


@pytest.mark.slow
def test_with_devices_in_processes_of_their_own_it_earns_the_same() -> None:
    arguments = ("run", "neighbourhood", "--steps", "8", "--json")
    distributed, centralized = run_heron(*arguments), run_heron(*arguments, "--centralized")
    for ended in (distributed, centralized):
        assert ended.code == 0, ended.err
    mine, theirs = json.loads(distributed.out), json.loads(centralized.out)
    assert mine["rewards"] == pytest.approx(theirs["rewards"], abs=1e-9)
    assert mine["fallbacks"] == theirs["fallbacks"]
    assert set(mine["devices"]) == devices_of(load_scenario("neighbourhood"))
