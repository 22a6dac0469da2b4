"""``TorchMicrogrids`` is what TorchRL means by an environment, and does what a batch does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from powergrid.envs import BatchedMicrogrids
from support.small_grid import scenario as small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("built_once", "torchrl")]

CONFIG: dict[str, Any] = {"num_envs": 3, "max_episode_steps": 4, "start_rows": "scenario"}
RANDOM = {"randomisation": {"load_noise": 0.1, "initial_soc": [0.2, 0.8]}}


@pytest.fixture(scope="module")
def torchrl() -> None:
    """Skip where it is not installed: only tests that were chosen, so not while tests are collected."""
    pytest.importorskip("torchrl", reason="torchrl is not installed: pip install 'heron-mqtt[torchrl]'")


def make(changes: dict[str, Any] | None = None, **config: Any) -> Any:
    from powergrid.envs.torchrl_env import TorchMicrogrids

    return TorchMicrogrids({"scenario": small({**RANDOM, **(changes or {})}), **CONFIG, **config})


def test_its_specs_hold() -> None:
    from torchrl.envs.utils import check_env_specs

    check_env_specs(make())
    check_env_specs(make(observation="full", observation_scale="si"))


def test_agents_that_are_alike_stand_in_one_group() -> None:
    assert make().group_map == {"agents": ["MG1", "MG2", "MG3"]}
    fewer = make({"microgrids.MG2.devices.pv": ...})
    assert fewer.group_map == {"MG1": ["MG1", "MG3"], "MG2": ["MG2"]}


def test_a_rollout_is_what_the_batch_does_over_the_end_of_episodes() -> None:
    env = make()
    env.set_seed(5)
    data = env.rollout(9, break_when_any_done=False)
    batch = BatchedMicrogrids(
        {"scenario": small(RANDOM), **CONFIG, "observation": "local", "observation_scale": "unit"}
    )
    seen, _ = batch.reset(seed=5)
    for step in range(9):
        for i, agent in enumerate(batch.agents):
            np.testing.assert_array_equal(data["agents", "observation"][:, step, i], seen[agent])
        np.testing.assert_array_equal(data["state"][:, step], batch.state())
        actions = {
            agent: data["agents", "action"][:, step, i].numpy() for i, agent in enumerate(batch.agents)
        }
        seen, rewards, _, truncated, infos = batch.step(actions)
        for i, agent in enumerate(batch.agents):
            reward = data["next", "agents", "reward"][:, step, i, 0]
            np.testing.assert_allclose(reward, rewards[agent], rtol=1e-6)
            last = infos[agent].get("final_obs", seen[agent])
            np.testing.assert_array_equal(data["next", "agents", "observation"][:, step, i], last)
        state = infos["MG1"].get("final_state", batch.state())
        np.testing.assert_array_equal(data["next", "state"][:, step], state)
        np.testing.assert_array_equal(data["next", "truncated"][:, step, 0], truncated["MG1"])
        assert not data["next", "terminated"].any()


def test_some_copies_can_be_begun_anew_and_the_others_go_on() -> None:
    import torch

    env = make()
    env.set_seed(1)
    first = env.rollout(2)
    asked = first[:, -1]["next"].clone()
    asked["_reset"] = torch.tensor([[True], [False], [False]])
    begun = env.reset(asked)
    there = first[:, -1]["next", "agents", "observation"]
    assert torch.equal(begun["agents", "observation"][1:], there[1:])
    assert not torch.equal(begun["agents", "observation"][0], there[0])


def test_observations_by_name_are_refused() -> None:
    with pytest.raises(ValueError, match='expected "flat"'):
        make(observation_form="dict")
