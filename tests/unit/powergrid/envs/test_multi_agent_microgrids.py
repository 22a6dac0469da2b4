"""MultiAgentMicrogrids as a PettingZoo environment, in both modes, over the in-memory broker."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

from powergrid.envs import MultiAgentMicrogrids
from support.env_modes import MGS, MODES, make, sampled

pytestmark = pytest.mark.usefixtures("built_once")


def play(
    env: MultiAgentMicrogrids, seed: int, act: Callable[[MultiAgentMicrogrids], dict[str, Any]]
) -> list[Any]:
    """Return everything that an episode says, in a form that compares with ==, NaN included."""
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + i)
    observations, infos = env.reset(seed=seed)
    said: list[Any] = [{a: o.tobytes() for a, o in observations.items()}, infos]
    while env.agents:
        observations, rewards, terminations, truncations, infos = env.step(act(env))
        said.append({a: o.tobytes() for a, o in observations.items()})
        said.append([repr(x) for x in (rewards, terminations, truncations, infos)])
    return said


# -- PettingZoo's contract -----------------------------------------------------------------------------


def test_it_passes_pettingzoos_parallel_api_test(env: MultiAgentMicrogrids) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(env, num_cycles=30)


def test_the_same_space_objects_come_back_at_every_call(env: MultiAgentMicrogrids) -> None:
    for agent in MGS:
        assert env.action_space(agent) is env.action_space(agent)
        assert env.observation_space(agent) is env.observation_space(agent)


def test_dicts_are_keyed_by_the_acting_agents_and_observations_are_in_their_space(
    env: MultiAgentMicrogrids,
) -> None:
    observations, infos = env.reset(seed=1)
    assert list(observations) == list(infos) == env.agents == env.possible_agents == MGS
    for result in env.step(sampled(env)):
        assert list(result) == MGS
    for agent, observation in env.step({})[0].items():
        assert env.observation_space(agent).contains(observation)
        assert observation.dtype == np.float32
        assert np.isfinite(observation).all()


@pytest.mark.parametrize("act", [sampled, lambda env: {}], ids=["random actions", "own policies"])
def test_a_seeded_episode_repeats_to_the_last_bit(
    env: MultiAgentMicrogrids, act: Callable[[MultiAgentMicrogrids], dict[str, Any]]
) -> None:
    first, second = play(env, 7, act), play(env, 7, act)
    assert len(first) == 2 + 2 * 12
    assert first == second
    if act is sampled:
        assert play(env, 8, act) != first, "another seed of the actions must show"


def test_truncated_at_the_time_limit_and_never_terminated() -> None:
    env = make(max_episode_steps=3)
    env.reset(seed=1)
    ends = [env.step({})[2:4] for _ in range(3)]
    assert [set(terminated.values()) for terminated, _ in ends] == [{False}] * 3
    assert [set(truncated.values()) for _, truncated in ends] == [{False}, {False}, {True}]
    assert env.agents == []


def test_without_a_limit_of_its_own_an_episode_has_the_scenarios_steps(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    n = 0
    while env.agents:
        env.step({})
        n += 1
    assert n == env.max_episode_steps == 12


def test_a_step_before_reset_or_after_the_end_is_refused() -> None:
    env = make(max_episode_steps=1)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({})
    env.reset()
    env.step({})
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({})


def test_the_scenarios_seed_holds_where_none_is_given(env: MultiAgentMicrogrids) -> None:
    first, _ = env.reset()
    second, _ = env.reset(seed=0)
    assert all((first[a] == second[a]).all() for a in MGS)


# -- bad actions: an error, and nothing has happened ---------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "action", "expected"),
    [
        ("MG2", [0.0, float("nan"), 0.0, 0.0], r"action of MG2: index 1 \(p_ess\) is nan"),
        ("MG3", [0.0, 0.0, 0.0, float("inf")], r"action of MG3: index 3 \(q_pv\) is inf"),
        ("MG1", [0.0] * 3, r"action of MG1: shape \(3,\), expected \(4,\)"),
        ("MG9", [0.0] * 4, r"unknown agent 'MG9' in step\(\); the agents are MG1, MG2, MG3"),
    ],
)
def test_a_bad_action_names_agent_and_index_and_nothing_has_happened(
    env: MultiAgentMicrogrids, agent: str, action: list[float], expected: str
) -> None:
    good = {"MG1": np.full(4, 0.5, np.float32)}
    env.reset(seed=1)
    env.step(good)
    undisturbed = env.step(good)
    env.reset(seed=1)
    env.step(good)
    with pytest.raises(ValueError, match=expected):
        env.step({**good, agent: np.array(action)})
    assert env.agents == MGS
    after = env.step(good)
    assert all((after[0][a] == undisturbed[0][a]).all() for a in MGS)
    assert after[1:] == undisturbed[1:]


def test_an_action_is_followed_and_others_keep_their_policy(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    own = env.step({})[4]
    env.reset(seed=1)
    infos = env.step({"MG2": np.array([-1.0, -0.5, 0.0, 0.0])})[4]
    assert infos["MG2"]["p_mw"] == pytest.approx({"gen": 0.0, "ess": -0.004, "pv": 0.0})
    assert infos["MG1"]["p_mw"] == own["MG1"]["p_mw"]


# -- divergence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", ["penalty", "nan"])
def test_a_diverged_power_flow_terminates_with_the_reason_and_nothing_invented(mode: str, rule: str) -> None:
    """A generator of 20 MW behind a transformer of 160 kVA: its own action ends the episode."""
    env = make(
        {
            "microgrids.MG3.devices.gen.max_p_mw": 20.0,
            "microgrids.MG3.devices.gen.ramp_mw_per_s": ...,
            "reward": {"on_divergence": rule, "divergence_penalty": 7.0},
        },
        **MODES[mode],
    )
    env.reset(seed=1)
    calm = env.step({"MG3": np.array([-1.0, 0.0, 0.0, 0.0])})
    assert not any(calm[2].values())
    assert all("diverged" not in info for info in calm[4].values())
    observations, rewards, terminations, truncations, infos = env.step(
        {"MG3": np.array([1.0, 0.0, 0.0, 0.0])}
    )
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}
    assert env.agents == []
    for agent in MGS:
        info = infos[agent]
        assert "no convergence" in info["diverged"] or "diverged" in info["diverged"]
        expected = -7.0 if rule == "penalty" else math.nan
        assert rewards[agent] == pytest.approx(expected, nan_ok=True)
        assert all(math.isnan(term) for term in info["reward_terms"].values())
        found = (info["vm_pu"]["min"], info["vm_pu"]["max"], info["loading_max_percent"])
        assert all(math.isnan(value) for value in found)
        seen = dict(zip(env.observation_names(agent), observations[agent].tolist(), strict=True))
        unknown = {name for name, value in seen.items() if math.isnan(value)}
        results = {name for name in seen if "vm_" in name or "loading" in name}
        assert unknown == (results if rule == "nan" else set())
        before = dict(zip(env.observation_names(agent), calm[0][agent].tolist(), strict=True))
        if rule == "penalty":
            assert {name: seen[name] for name in results} == {name: before[name] for name in results}
    assert infos["MG3"]["p_mw"]["gen"] == pytest.approx(20.0), "what was done is known all the same"
    observations, _ = env.reset(seed=1)
    assert all(np.isfinite(observation).all() for observation in observations.values())
    again = env.step({"MG3": np.array([-1.0, 0.0, 0.0, 0.0])})
    assert again[1] == calm[1]
    env.close()


def test_loads_that_grow_beyond_the_grid_end_the_episode_in_the_step_in_which_they_do() -> None:
    """Thirty times the industrial loads: the grid has a solution at seven o'clock and none later on."""
    env = make({"microgrids.MG2.loads.scale": 30.0})
    env.reset(seed=1)
    n = 0
    while env.agents:
        _, rewards, terminations, truncations, infos = env.step({})
        n += 1
    assert 1 < n < 12
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}
    assert set(rewards.values()) == {-100.0}
    assert {info["diverged"] for info in infos.values()} == {infos["MG1"]["diverged"]}
    assert infos["MG1"]["diverged"].startswith("no convergence after 20 iterations")


def test_an_episode_that_diverges_at_its_last_step_is_terminated_not_truncated() -> None:
    env = make({"microgrids.MG3.devices.gen": {"kind": "generator", "max_p_mw": 20.0}}, max_episode_steps=1)
    env.reset(seed=1)
    _, _, terminations, truncations, _ = env.step({"MG3": np.array([1.0, 0.0, 0.0, 0.0])})
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}


# -- render --------------------------------------------------------------------------------------------


def test_render_ansi_shows_the_last_step(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    assert (env.render() or "").startswith("step 0")
    _, rewards, _, _, infos = env.step({})
    text = env.render() or ""
    lines = text.splitlines()
    assert lines[0].startswith("step 1")
    assert len(lines) == 1 + len(MGS)
    for line, agent in zip(lines[1:], MGS, strict=True):
        assert agent in line
        assert f"gen {infos[agent]['p_mw']['gen']:+.4f}" in line
        assert f"{infos[agent]['vm_pu']['min']:.4f}" in line
        assert f"{rewards[agent]:+.3f} $" in line


def test_without_a_render_mode_there_is_nothing_to_see(central: MultiAgentMicrogrids) -> None:
    central.reset(seed=1)
    assert central.render() is None
