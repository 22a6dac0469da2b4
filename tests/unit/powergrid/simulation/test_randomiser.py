"""A seed matters, and it matters alike in every mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from powergrid.simulation.build import build
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.randomiser import EpisodeSeeds, Randomiser
from support.small_grid import scenario as small
from support.trajectories import assert_same, random_actions, trajectory

pytestmark = pytest.mark.usefixtures("built_once")

ALL = {
    "start": "random",
    "load_scale": [0.7, 1.2],
    "load_noise": 0.1,
    "pv_scale": [0.4, 1.0],
    "pv_noise": 0.2,
    "price_noise_per_mwh": 6.0,
    "initial_soc": [0.2, 0.8],
    "efficiency_factor": [0.85, 1.0],
}
ONE_BY_ONE: list[dict[str, Any]] = [{name: value} for name, value in ALL.items()]
MGS = ["MG1", "MG2", "MG3"]


def scenario(table: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return small({"randomisation": dict(table), **changes})


def make(table: Mapping[str, Any], **config: Any) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids({"scenario": scenario(table), "observation": "full", **config})


@pytest.mark.parametrize("table", [*ONE_BY_ONE, ALL], ids=" ".join)
def test_another_seed_is_another_episode_and_the_same_seed_the_same(table: dict[str, Any]) -> None:
    first = trajectory(make(table), random_actions, seed=3)
    assert_same(first, trajectory(make(table), random_actions, seed=3))
    env = make(table)
    seen = {env.reset(seed=seed)[0]["MG1"].tobytes() + env.step({})[0]["MG1"].tobytes() for seed in range(6)}
    assert len(seen) > 1, "the seed did nothing"


@pytest.mark.parametrize("grid_check", [False, True])
def test_centralized_and_distributed_take_the_same_random_episode(grid_check: bool) -> None:
    changed = scenario(ALL, **{"envelope.grid_check": grid_check})
    config: dict[str, Any] = {"scenario": changed, "observation": "full"}
    central = trajectory(MultiAgentMicrogrids(config), random_actions)
    env = MultiAgentMicrogrids({**config, "centralized": False, "message_broker": InMemoryBroker()})
    assert_same(central, trajectory(env, random_actions))
    env.close()


@pytest.mark.slow_but("start", "initial_soc")
@pytest.mark.parametrize("table", [*ONE_BY_ONE, ALL], ids=" ".join)
def test_every_copy_of_a_batch_takes_the_episodes_of_a_single_environment(table: dict[str, Any]) -> None:
    batch = BatchedMicrogrids({"scenario": scenario(table), "num_envs": 3, "start_rows": "scenario"})
    singles = [make(table) for _ in range(3)]
    seen, _ = batch.reset(seed=7)
    for copy, env in enumerate(singles):
        np.testing.assert_allclose(
            seen["MG1"][copy], env.reset(seed=7 + copy)[0]["MG1"], rtol=1e-6, atol=1e-6
        )
    rng = np.random.default_rng(0)
    for _ in range(30):  # over two ends of episodes
        actions = {a: rng.uniform(-1.0, 1.0, batch.action_space(a).shape) for a in MGS}
        seen, rewards, _, truncated, infos = batch.step(actions)
        for copy, env in enumerate(singles):
            mine = env.step({a: action[copy] for a, action in actions.items()})
            for agent in MGS:
                assert rewards[agent][copy] == pytest.approx(mine[1][agent], rel=1e-9, abs=1e-9)
                assert infos[agent]["soc"]["ess"][copy] == pytest.approx(
                    mine[4][agent]["soc"]["ess"], rel=1e-12
                )
            if truncated["MG1"][copy]:
                begun, _ = env.reset()
                np.testing.assert_allclose(seen["MG1"][copy], begun["MG1"], rtol=1e-6, atol=1e-6)


def test_copies_of_a_random_episode_go_the_same_way() -> None:
    env = make(ALL)
    env.reset(seed=3)
    env.step({})
    state = env.get_state()
    first = [env.step({})[1] for _ in range(4)]
    env.reset(seed=9)
    env.set_state(state)
    assert [env.step({})[1] for _ in range(4)] == first
    batch = BatchedMicrogrids({"scenario": scenario(ALL), "num_envs": 3})
    batch.reset(seed=1)
    batch.step()
    of_batch = batch.get_state()
    rewards = [batch.step()[1]["MG2"].tolist() for _ in range(14)]
    batch.set_state(of_batch)
    assert [batch.step()[1]["MG2"].tolist() for _ in range(14)] == rewards


def test_episodes_that_follow_without_a_seed_differ_and_repeat() -> None:
    seeds = EpisodeSeeds(5)
    drawn = [seeds.draw() for _ in range(4)]
    assert drawn[0] == 5
    assert len(set(drawn)) == 4
    seeds.restart(5)
    assert [seeds.draw() for _ in range(4)] == drawn
    env = make(ALL)
    rows = [env.reset(seed=5 if i == 0 else None)[0]["MG1"] for i in range(3)]
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])


def test_one_quantity_more_changes_nothing_in_the_others() -> None:
    some = {key: ALL[key] for key in ("start", "load_noise", "load_scale", "initial_soc")}
    one, other = make(some), make(ALL)
    one.reset(seed=3)
    other.reset(seed=3)
    names = one.observation_names("MG1")
    for name in ("MG1/p_load_mw", "MG2/p_load_mw", "MG1/soc_ess", "MG1/hour_sin"):
        at = names.index(name)
        assert one.reset(seed=3)[0]["MG1"][at] == other.reset(seed=3)[0]["MG1"][at], name


def randomiser(table: Mapping[str, Any], n_steps: int, **changes: Any) -> Randomiser:
    loaded = scenario_from_dict(scenario(table, **changes))
    return Randomiser(GridSimulation(build(loaded)), n_steps)


@pytest.mark.parametrize("days", ["all", "weekdays", "weekends"])
def test_a_random_start_is_the_same_hour_of_a_day_that_fits(days: str) -> None:
    drawn = randomiser({"start": "random", "days": days}, 12)
    rows = {drawn.start_row(seed) for seed in range(200)}
    expected = {"all": range(7), "weekdays": range(5), "weekends": range(5, 7)}[days]
    assert rows == {28 + 96 * day for day in expected}


def test_days_that_there_are_not_are_refused_by_key() -> None:
    with pytest.raises(ConfigError, match=r"randomisation: no day of the time series fits .* months = \[1\]"):
        make({"start": "random", "months": [1]})
    with pytest.raises(ConfigError, match=r"load_scale = \[2.0, 1.0\]: expected \[least, most\]"):
        make({"load_scale": [2.0, 1.0]})


def test_noise_has_the_stated_deviation_and_correlation() -> None:
    drawn = randomiser({"load_noise": 0.1, "price_noise_per_mwh": 5.0, "noise_correlation_s": 3600.0}, 20_000)
    noise = drawn.noise(1)
    assert noise.load is not None
    assert noise.price is not None
    wander = noise.load[:, 0] - 1.0
    assert wander.std() == pytest.approx(0.1, rel=0.05)
    assert noise.price.std() == pytest.approx(5.0, rel=0.05)
    correlation = np.corrcoef(wander[:-4], wander[4:])[0, 1]  # four steps of 15 minutes
    assert correlation == pytest.approx(np.exp(-1.0), abs=0.05)


def test_what_comes_first_does_not_depend_on_the_length_of_the_episode() -> None:
    short, long = randomiser(ALL, 4).noise(1), randomiser(ALL, 12).noise(1)
    for one, other in zip(short[:3], long[:3], strict=True):
        np.testing.assert_array_equal(one, other[:5])


def test_noise_leaves_powers_within_the_nameplate_and_their_sign() -> None:
    env = make({"pv_noise": 1.0, "load_noise": 1.0, "pv_scale": [1.0, 5.0]})
    for seed in range(5):
        env.reset(seed=seed)
        while env.agents:
            for agent in MGS:
                told = env._records.local_states((), 0.0)[agent]
                assert told.p_load_mw <= 0.0
                assert 0.0 <= told.p_available_mw["pv"] <= 0.02
            env.step({})


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    for env in (make({}), BatchedMicrogrids({"scenario": small(), "num_envs": 2})):
        with pytest.raises(ValueError, match=r"seed"):
            env.reset(seed=seed)


def test_a_misspelt_option_is_refused_and_a_foreign_one_logged(caplog: pytest.LogCaptureFixture) -> None:
    make({}).reset(options={"colour": 3})
    assert "options: 'colour' has no effect" in caplog.text
    with pytest.raises(ValueError, match="options: unknown 'start_rows'; expected start_row"):
        make({}).reset(options={"start_rows": 3})
    with pytest.raises(ValueError, match="options: unknown 'start_row'; expected start_rows or reset_mask"):
        BatchedMicrogrids({"scenario": small(), "num_envs": 2}).reset(options={"start_row": 3})
