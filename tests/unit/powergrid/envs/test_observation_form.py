"""Bounds, units and forms of observations; the same in single, batched, vector and distributed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Dict
from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.utils.conversions import parallel_to_aec

from powergrid.envs import BatchedMicrogrids, MicrogridVectorEnv, MultiAgentMicrogrids
from powergrid.envs.observation_form import by_name
from support.env_modes import MGS, make
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")

UNSURE: dict[str, Any] = {
    "randomisation": {
        "load_noise": 0.1,
        "pv_noise": 0.2,
        "price_noise_per_mwh": 5.0,
        "initial_soc": [0.1, 0.9],
    },
    "forecast": {"kind": "perfect", "horizon": 3},
}


def random_actions(env: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {a: rng.uniform(-1.0, 1.0, len(env.action_names(a))) for a in env.possible_agents}


def walk(env: MultiAgentMicrogrids, seed: int = 3) -> list[tuple[dict[str, Any], Any]]:
    """Return observations and state of every step of an episode of random actions."""
    rng = np.random.default_rng(seed)
    seen = [(env.reset(seed=seed)[0], env.state())]
    while env.agents:
        seen.append((env.step(random_actions(env, rng))[0], env.state()))
    env.close()
    return seen


@pytest.mark.parametrize("scale", ["si", "unit"])
@pytest.mark.parametrize("kind", ["full", "local"])
def test_every_entry_has_finite_bounds_and_stays_within_them(scale: str, kind: str) -> None:
    env = make({**UNSURE, "observation_scale": scale}, observation=kind)
    for agent in MGS:
        assert env.observation_space(agent).is_bounded()
        assert env.observation_space(agent) is env.observation_space(agent)
    for observations, state in walk(env):
        assert all(observations[agent] in env.observation_space(agent) for agent in MGS)
        assert state in env.state_space


def test_physical_bounds_are_not_reached_by_clipping_what_really_happens() -> None:
    """Random actions, noise and trades: what is observed is what infos say."""
    env = make(UNSURE, observation="full")
    names = env.observation_names("MG1")
    rng = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        while env.agents:
            observations, _, _, _, infos = env.step(random_actions(env, rng))
            seen = dict(zip(names, observations["MG1"].tolist(), strict=True))
            for agent in MGS:
                for device, p_mw in infos[agent]["p_mw"].items():
                    assert seen[f"{agent}/p_{device}"] == np.float32(p_mw)
                assert seen[f"{agent}/vm_min_pu"] == np.float32(infos[agent]["vm_pu"]["min"])
                assert seen[f"{agent}/loading_max_percent"] == np.float32(infos[agent]["loading_max_percent"])
                for trade in infos[agent]["trades"]:
                    if trade.seller == agent:
                        assert seen[f"{agent}/trade_{trade.buyer}"] == np.float32(trade.mwh)


def test_bounds_come_from_nameplates_series_and_limits() -> None:
    env = make(
        {"reward.vm_min_pu": 0.96, "envelope": {"vm_min_pu": 0.92, "vm_max_pu": 1.08}}, observation="local"
    )
    space = env.observation_space("MG1")
    bounds = dict(zip(env.observation_names("MG1"), zip(space.low, space.high, strict=True), strict=True))
    assert bounds["p_gen"] == (0.0, np.float32(0.02))
    assert bounds["p_ess"] == (np.float32(-0.008), np.float32(0.01))
    assert bounds["q_pv"] == (np.float32(-0.022), np.float32(0.022))
    assert bounds["soc_ess"] == (0.0, 1.0)
    assert bounds["p_available_pv"] == (0.0, np.float32(0.02))
    prices = env.simulation.series.prices
    assert bounds["price"] == (np.float32(prices.min()), np.float32(prices.max()))
    assert bounds["vm_min_pu"] == (np.float32(0.92 - 0.16), np.float32(1.08 + 0.16))
    assert bounds["loading_max_percent"] == (0.0, 200.0)
    assert bounds["p_load_mw"][0] < 0.0 == bounds["p_load_mw"][1]


def test_unit_is_the_linear_map_of_the_bounds_to_plus_and_minus_one() -> None:
    si, unit = (
        walk(make({**UNSURE, "observation_scale": scale}, observation="full")) for scale in ("si", "unit")
    )
    space = make(UNSURE, observation="full").observation_space("MG1")
    width = (space.high - space.low).astype(float)
    for (physical, _), (scaled, state) in zip(si, unit, strict=True):
        wanted = (
            np.divide(2.0 * (physical["MG1"] - space.low), width, out=np.ones_like(width), where=width > 0)
            - 1
        )
        np.testing.assert_allclose(scaled["MG1"], wanted, atol=2e-5)
        np.testing.assert_array_equal(state, scaled["MG1"])


def test_the_configuration_can_choose_another_scale_than_the_scenario() -> None:
    env = make({"observation_scale": "si"}, observation_scale="unit")
    assert set(env.observation_space("MG1").high.tolist()) == {1.0}


def test_a_value_beyond_its_bounds_counts_as_the_bound_and_infos_have_it() -> None:
    """A meter may show more than the nameplate."""
    env = make(observation="local")
    env.reset(seed=1)
    env._state.p_mw[:] = 1.0
    env._state.price[:] = np.nan
    seen = dict(zip(env.observation_names("MG1"), env._state.observations(["MG1"])["MG1"], strict=True))
    assert seen["p_gen"] == np.float32(0.02)
    assert np.isnan(seen["price"]), "what is unknown is not made up"
    assert env._state.views["MG1"].info(env._state.plain())["p_mw"]["gen"] == 1.0


# -- the form by name ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "local"])
def test_the_form_by_name_holds_the_same_numbers(kind: str) -> None:
    flat, named = make(UNSURE, observation=kind), make(UNSURE, observation=kind, observation_form="dict")
    assert isinstance(named.observation_space("MG1"), Dict)
    parts = by_name(flat.observation_names("MG1"))
    for (one, _), (other, _) in zip(walk(flat), walk(named), strict=True):
        assert other["MG1"] in named.observation_space("MG1")
        assert other["MG1"].keys() == parts.keys()
        np.testing.assert_array_equal(np.concatenate(list(other["MG1"].values())), one["MG1"])


def test_forecasts_and_the_grid_are_one_entry_each() -> None:
    parts = by_name(["price", "price+1", "price+2", "vm_pu/Bus+1", "vm_pu/b/2", "trafo_loading_percent/0"])
    assert {name: part.stop - part.start for name, part in parts.items()} == {
        "price": 1,
        "price_ahead": 2,
        "vm_pu": 2,
        "trafo_loading_percent": 1,
    }


# -- the same in every form of environment -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "local"])
def test_observations_and_state_are_the_same_centralized_batched_and_distributed(kind: str) -> None:
    data = small({**UNSURE, "observation_scale": "unit"})
    config = {"scenario": data, "observation": kind}
    central = walk(MultiAgentMicrogrids(config))
    distributed = walk(MultiAgentMicrogrids({**config, "centralized": False}))
    for (one, state), (other, its) in zip(central, distributed, strict=True):
        np.testing.assert_array_equal(state, its)
        for agent in MGS:
            np.testing.assert_array_equal(one[agent], other[agent])
    batch = BatchedMicrogrids({**config, "num_envs": 2, "start_rows": "scenario"})
    single = MultiAgentMicrogrids(config)
    for agent in MGS:
        assert batch.single_observation_space(agent) == single.observation_space(agent)
    assert batch.single_state_space == single.state_space
    assert batch.state_names() == single.state_names()
    rng = np.random.default_rng(3)
    seen = batch.reset(seed=3)[0]
    for one, state in central[:-1]:  # the last step resets the copies
        np.testing.assert_allclose(batch.state()[0], state, atol=1e-6)
        for agent in MGS:
            np.testing.assert_allclose(seen[agent][0], one[agent], atol=1e-6)
        actions = random_actions(single, rng)
        seen = batch.step({agent: np.stack([action, action]) for agent, action in actions.items()})[0]


def test_a_vector_environment_shows_what_the_batch_does_by_name_too() -> None:
    config = {"scenario": small({"observation_scale": "unit"}), "num_envs": 2, "max_episode_steps": 2}
    envs = MicrogridVectorEnv({**config, "observation_form": "dict"}, agent="MG1")
    flat = MicrogridVectorEnv(config, agent="MG1")
    assert envs.reset(seed=1)[0] in envs.observation_space
    flat.reset(seed=1)
    np.testing.assert_array_equal(envs.state(), flat.state())
    for _ in range(2):
        actions = np.zeros(envs.action_space.shape, dtype=np.float32)
        named, _, _, _, infos = envs.step(actions)
        told = flat.step(actions)
        assert named in envs.observation_space
        np.testing.assert_array_equal(np.concatenate(list(named.values()), axis=1), told[0])
    last = np.concatenate(list(infos["final_obs"][1].values()))
    np.testing.assert_array_equal(last, told[4]["final_obs"][1])


@pytest.mark.parametrize("form", ["flat", "dict"])
def test_pettingzoo_takes_it_parallel_and_turn_by_turn(form: str) -> None:
    config = {
        "scenario": small({"observation_scale": "unit"}),
        "observation": "local",
        "observation_form": form,
    }
    parallel_api_test(MultiAgentMicrogrids(config), num_cycles=15)
    if form == "flat":  # the test takes two dicts for unequal
        aec = parallel_to_aec(MultiAgentMicrogrids(config))
        api_test(aec, num_cycles=15)
        assert aec.state() in aec.state_space
