"""``MicrogridVectorEnv`` is what gymnasium means by a vector environment, and does what a batch does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import (
    ClipReward,
    DtypeObservation,
    FlattenObservation,
    RecordEpisodeStatistics,
)
from pettingzoo.test import api_test
from pettingzoo.utils.conversions import parallel_to_aec

from powergrid.envs import BatchedMicrogrids, MicrogridVectorEnv, MultiAgentMicrogrids
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")

RANDOM = {"randomisation": {"start": "random", "load_noise": 0.1}}

MIGHTY = {"microgrids.MG3.devices.gen": {"kind": "generator", "max_p_mw": 20.0}}


def make(agent: str | None = "MG1", num_envs: int = 3, **config: Any) -> MicrogridVectorEnv:
    return MicrogridVectorEnv({"scenario": small(RANDOM), "num_envs": num_envs, **config}, agent=agent)


def test_it_has_what_gymnasium_asks_of_a_vector_environment() -> None:
    envs = make()
    assert isinstance(envs, VectorEnv)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert envs.observation_space == batch_space(envs.single_observation_space, 3)
    assert envs.action_space == batch_space(envs.single_action_space, 3)
    observations, infos = envs.reset(seed=1)
    assert observations in envs.observation_space
    assert infos["_start_row"].all()
    observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
    assert observations in envs.observation_space
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert terminated.dtype == truncated.dtype == np.bool_
    for name in list(infos):
        if not name.startswith("_"):
            assert infos[f"_{name}"].shape == (3,)
    envs.close()


@pytest.mark.parametrize("agent", ["MG2", None])
def test_it_does_what_the_batch_does(agent: str | None) -> None:
    envs = make(agent, max_episode_steps=4)
    batch = BatchedMicrogrids({"scenario": small(RANDOM), "num_envs": 3, "max_episode_steps": 4})
    driven = batch.agents if agent is None else [agent]
    begun, told = envs.reset(seed=2)[0], batch.reset(seed=2)[0]
    np.testing.assert_array_equal(begun, told[driven[0]])
    rng = np.random.default_rng(0)
    for _ in range(9):
        actions = rng.uniform(-1.0, 1.0, envs.action_space.shape).astype(np.float32)
        sizes = np.cumsum([len(batch.action_names(name)) for name in driven])[:-1]
        given = dict(zip(driven, np.split(actions, sizes, axis=1), strict=True))
        mine, theirs = envs.step(actions), batch.step(given)
        np.testing.assert_array_equal(mine[0], theirs[0][driven[0]])
        np.testing.assert_allclose(mine[1], sum(theirs[1][name] for name in driven))
        np.testing.assert_array_equal(mine[3], theirs[3][driven[0]])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([1], "options: expected a dict with start_row"),
        ("start_row", "options: expected a dict with start_row"),
        ({"strat_row": 1}, "options: unknown 'strat_row'"),
        ({"start_row": True}, "start_row"),
    ],
)
def test_options_that_are_none_are_refused_in_every_form(options: Any, complaint: str) -> None:
    central, batch = MultiAgentMicrogrids({"scenario": small()}), make().batch
    distributed = MultiAgentMicrogrids({"scenario": small(), "centralized": False})
    for env in (central, distributed, batch):
        with pytest.raises(ValueError, match=complaint):
            env.reset(options=options)
    distributed.close()


def test_the_end_of_an_episode_is_told_with_its_last_observation() -> None:
    envs = make(max_episode_steps=2)
    envs.reset(seed=1)
    assert "final_obs" not in envs.step(envs.action_space.sample())[4]
    observations, _, _, truncated, infos = envs.step(envs.action_space.sample())
    assert truncated.all()
    assert infos["_final_obs"].all()
    assert infos["_final_info"].all()
    assert infos["final_info"]["MG1/net_mwh"].shape == (3,)
    assert infos["_start_row"].all()
    assert infos["start_row"].tolist() == envs.batch.get_state().position["start_rows"].tolist()
    for copy_ in range(3):
        assert infos["final_obs"][copy_].shape == observations[copy_].shape
        assert not np.array_equal(infos["final_obs"][copy_], observations[copy_])


def test_losses_and_a_power_flow_without_solution_are_told() -> None:
    envs = make(networks=["lte_poor"])
    envs.reset(seed=1)
    infos = envs.step(np.zeros(envs.action_space.shape, dtype=np.float32))[4]
    assert infos["MG1/fallback"].shape == infos["MG1/missed"].shape == infos["_MG1/missed"].shape == (3,)
    envs = MicrogridVectorEnv({"scenario": small(MIGHTY), "num_envs": 3}, agent="MG3")
    envs.reset(seed=1)
    actions = np.full(envs.action_space.shape, -1.0, dtype=np.float32)
    assert "diverged" not in envs.step(actions)[4]
    actions[1, 0] = 1.0
    _, _, terminated, _, infos = envs.step(actions)
    final = infos["final_info"]
    for told in (terminated, final["diverged"], final["_diverged"], final["_MG3/price"], infos["_start_row"]):
        assert told.tolist() == [False, True, False]
    assert infos["_MG3/price"].tolist() == [True, False, True]


def test_a_mask_begins_some_copies_and_leaves_the_others_alone() -> None:
    envs, undisturbed = make(), make()
    for one in (envs, undisturbed):
        one.reset(seed=1)
        one.step(np.zeros(one.action_space.shape, dtype=np.float32))
    mask = np.array([False, True, False])
    observations, infos = envs.reset(seed=[8, 9, 10], options={"reset_mask": mask})
    assert infos["_start_row"].tolist() == mask.tolist()
    fresh, _ = make(num_envs=1).reset(seed=9)
    np.testing.assert_array_equal(observations[1], fresh[0])
    quiet = np.zeros(envs.action_space.shape, dtype=np.float32)
    mine, theirs = envs.step(quiet), undisturbed.step(quiet)
    for copy_ in (0, 2):
        assert mine[1][copy_] == theirs[1][copy_]
    with pytest.raises(ValueError, match="reset_mask: expected 3 of True and False"):
        envs.reset(options={"reset_mask": np.zeros(3, dtype=bool)})


def test_gymnasiums_wrappers_work_on_it() -> None:
    envs = RecordEpisodeStatistics(ClipReward(make(max_episode_steps=3), -1.0, 1.0))
    envs.reset(seed=1)
    for _ in range(3):
        *_, infos = envs.step(envs.action_space.sample())
    assert infos["episode"]["l"].tolist() == [3, 3, 3]


@pytest.mark.parametrize("form", ["flat", "dict"])
def test_where_copies_wait_for_reset_they_have_the_same_episodes(form: str) -> None:
    config = {"max_episode_steps": 2, "observation_form": form}
    envs = MicrogridVectorEnv(
        {"scenario": small({**RANDOM, **MIGHTY}), "num_envs": 3, **config}, "MG3", autoreset_mode="Disabled"
    )
    same_step = MicrogridVectorEnv({"scenario": small({**RANDOM, **MIGHTY}), "num_envs": 3, **config}, "MG3")
    envs.reset(seed=3)
    same_step.reset(seed=3)
    rng = np.random.default_rng(0)
    for step in range(6):
        actions = rng.uniform(-1.0, -0.9, envs.action_space.shape).astype(np.float32)
        actions[1, 0] = 1.0 if step == 0 else -1.0  # diverges, a step before the others' time limit
        seen, rewards, terminated, truncated, infos = envs.step(actions)
        theirs, expected, _, _, told = same_step.step(actions)
        np.testing.assert_array_equal(rewards, expected)
        ended = terminated | truncated
        assert "final_obs" not in infos
        assert seen in envs.observation_space
        for copy_ in np.flatnonzero(ended):
            np.testing.assert_equal(of_copy(seen, copy_), told["final_obs"][copy_])
        if not ended.any():
            continue
        with pytest.raises(RuntimeError, match=r"episode has ended \(\[.*reset_mask"):
            envs.step(actions)
        last = envs.state()[ended]
        for copy_ in np.flatnonzero(ended):  # one after the other
            begun, infos = envs.reset(options={"reset_mask": np.arange(3) == copy_})
            assert infos["start_row"][copy_] == told["start_row"][copy_]
            np.testing.assert_equal(of_copy(begun, copy_), of_copy(theirs, copy_))
        assert not np.array_equal(envs.state()[ended], last)
        np.testing.assert_equal(begun, theirs)
    assert envs.reset(seed=7)[1]["_start_row"].all()


def of_copy(seen: Any, copy_: int) -> Any:
    return {name: part[copy_] for name, part in seen.items()} if isinstance(seen, dict) else seen[copy_]


def test_start_rows_hold_for_the_reset_that_names_them() -> None:
    envs = MicrogridVectorEnv(
        {"scenario": small(RANDOM), "num_envs": 2, "max_episode_steps": 1}, "MG1", autoreset_mode="Disabled"
    )
    quiet = np.zeros(envs.action_space.shape, dtype=np.float32)
    envs.reset(seed=1, options={"start_rows": [5, 6]})
    envs.step(quiet)
    everyone = np.ones(2, dtype=bool)
    _, infos = envs.reset(options={"reset_mask": everyone})
    assert infos["start_row"].tolist() != [5, 6]
    envs.step(quiet)
    _, infos = envs.reset(options={"reset_mask": everyone, "start_rows": [7, 8]})
    assert infos["start_row"].tolist() == [7, 8]


def test_gymnasiums_wrappers_of_observations_work_where_copies_wait() -> None:
    envs = MicrogridVectorEnv(
        {"scenario": small(RANDOM), "num_envs": 3, "max_episode_steps": 2, "observation_form": "dict"},
        agent="MG1",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    wrapped = DtypeObservation(FlattenObservation(envs), np.float64)
    wrapped.reset(seed=1)
    for step in range(4):
        seen, _, terminated, truncated, _ = wrapped.step(np.zeros(envs.action_space.shape, dtype=np.float32))
        assert seen.shape == wrapped.observation_space.shape
        assert truncated.all() == (step % 2 == 1)
        if truncated.any():
            wrapped.reset(options={"reset_mask": terminated | truncated})


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="agent 'MG9': there are MG1, MG2, MG3"):
        make("MG9")
    for wrong in ("same_step", None, 3):
        with pytest.raises(
            ValueError, match="autoreset_mode: expected 'NextStep' or 'SameStep' or 'Disabled'"
        ):
            MicrogridVectorEnv({"num_envs": 2}, "MG1", autoreset_mode=wrong)  # type: ignore[arg-type]
    envs = make()
    envs.reset()
    with pytest.raises(ValueError, match=r"actions: shape \(2,\), expected \(3, 4\)"):
        envs.step(np.zeros(2, dtype=np.float32))


def test_its_batch_can_be_set_back() -> None:
    envs = make()
    envs.reset(seed=1)
    state = envs.batch.get_state()
    quiet = np.zeros(envs.action_space.shape, dtype=np.float32)
    first = envs.step(quiet)[1].tolist()
    envs.batch.set_state(copy.deepcopy(state))
    assert envs.step(quiet)[1].tolist() == first


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pettingzoos_turn_based_form_passes_its_api_test() -> None:
    env = MultiAgentMicrogrids({"scenario": small(RANDOM)})
    api_test(parallel_to_aec(env), num_cycles=20)
