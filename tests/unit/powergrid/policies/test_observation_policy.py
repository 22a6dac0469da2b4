"""A policy that acts on a learner's observation acts as the learner does, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.agents.policy import PolicyContext
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.policies import LearnedPolicy, NetworkPolicy
from powergrid.scenario import scenario_from_dict
from support.env_modes import MGS, make
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")

UNIT = {
    "observation_scale": "unit",
    "observation": "local",
    "forecast": {"kind": "perfect", "horizon": 2},
    "randomisation": {"load_noise": 0.1, "initial_soc": [0.3, 0.7]},
}


def checkpoint(folder: Path, n_in: int, n_out: int = 4, **more: Any) -> Path:
    rng = np.random.default_rng(5)
    layers = {
        "weight_0": rng.normal(size=(8, n_in)).astype(np.float32),
        "bias_0": rng.normal(size=8).astype(np.float32),
        "weight_1": rng.normal(size=(n_out, 8)).astype(np.float32),
        "bias_1": rng.normal(size=n_out).astype(np.float32),
    }
    np.savez(folder / "net.npz", **{**layers, **more})
    return folder / "net.npz"


def deciding(file: Path) -> dict[str, Any]:
    """Return the scenario in which every agent is driven by the network."""
    policy = {"use": "powergrid.policies:NetworkPolicy", "arguments": {"checkpoint": str(file)}}
    return small(
        {**UNIT, **{f"microgrids.{agent}.policy.{k}": v for agent in MGS for k, v in policy.items()}}
    )


def context(agent: str = "MG1") -> PolicyContext:
    return PolicyContext(agent, scenario_from_dict(small(UNIT)).scenario)


@pytest.fixture
def learner(tmp_path: Path) -> tuple[Path, list[dict[str, float]]]:
    """The network, and the rewards of an episode in which a learner acts by it from outside."""
    env = make(UNIT)
    file = checkpoint(tmp_path, len(env.observation_names("MG1")))
    network = NetworkPolicy(context(), str(file))
    observations, _ = env.reset(seed=4)
    rewards = []
    while env.agents:
        actions = {
            agent: np.asarray(network.act(seen[np.newaxis]))[0] for agent, seen in observations.items()
        }
        observations, reward, _, _, _ = env.step(actions)
        rewards.append(reward)
    return file, rewards


@pytest.mark.parametrize("centralized", [True, False])
def test_it_does_what_a_learner_does_in_every_mode(
    learner: tuple[Path, list[dict[str, float]]], centralized: bool
) -> None:
    file, wanted = learner
    env = MultiAgentMicrogrids({"scenario": deciding(file), "centralized": centralized})
    env.reset(seed=4)
    found = []
    while env.agents:
        found.append(env.step({})[1])
    env.close()
    assert found == wanted


def test_it_does_what_a_learner_does_in_a_batch(learner: tuple[Path, list[dict[str, float]]]) -> None:
    file, wanted = learner
    batch = BatchedMicrogrids({"scenario": deciding(file), "num_envs": 2, "start_rows": "scenario"})
    batch.reset(seed=[4, 9])
    for rewards in wanted:
        found = batch.step({})[1]
        for agent in MGS:
            assert found[agent][0] == pytest.approx(rewards[agent], abs=1e-7)


@pytest.mark.parametrize("learners_scale", ["si", "unit"])
def test_it_sees_the_scenarios_scale_whatever_learners_beside_it_see(
    learner: tuple[Path, list[dict[str, float]]], learners_scale: str
) -> None:
    file, wanted = learner
    config = {"scenario": deciding(file), "observation_scale": learners_scale}
    env = MultiAgentMicrogrids(config)
    batch = BatchedMicrogrids({**config, "num_envs": 2, "start_rows": "scenario"})
    seen = env.reset(seed=4)[0]["MG1"]
    batch.reset(seed=[4, 9])
    assert (np.abs(seen).max() > 1.0) == (learners_scale == "si")
    assert env.step({})[1] == wanted[0]
    found = batch.step({})[1]
    for agent in MGS:
        assert found[agent][0] == pytest.approx(wanted[0][agent], abs=1e-7)


def test_only_policies_that_ask_for_it_get_the_observation_over_messages(
    learner: tuple[Path, list[dict[str, float]]],
) -> None:
    scenario = deciding(learner[0])
    scenario["microgrids"]["MG2"]["policy"] = {}
    told: dict[str, Any] = {}
    broker = InMemoryBroker()
    broker.subscribe("agents/+/observation", lambda m: told.setdefault(m.channel.split("/")[1], dict(m)))
    env = MultiAgentMicrogrids({"scenario": scenario, "centralized": False, "message_broker": broker})
    observations, _ = env.reset(seed=4)
    env.step({})
    env.close()
    assert np.array_equal(np.float32(told["MG1"]["observation"]), observations["MG1"])
    assert "observation" not in told["MG2"]


def test_without_an_observation_the_rules_decide(learner: tuple[Path, list[dict[str, float]]]) -> None:
    policy = NetworkPolicy(context(), str(learner[0]))
    view: Any = type("View", (), {"observation": None})()
    assert policy.decide(view) == {}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"weight_1": np.ones((4, 7))}, "layers of"),
        ({"weight_1": np.ones((3, 8)), "bias_1": np.ones(3)}, "3 outputs, and MG1 has 4 actions: p_gen"),
        ({"bias_0": np.full(8, np.nan)}, "expected finite weights"),
        ({"activation": "gelu"}, "'gelu': expected tanh or relu"),
        ({"bias_1": np.array(["a"])}, "bias_1: expected numbers, got <U1"),
        ({"weight_0": np.float32(1.0)}, r"expected weight_0 \(outputs, inputs\) and bias_0 \(outputs,\)"),
        ({"bias_1": np.array([None] * 4)}, "expected a .npz file"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, more: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        NetworkPolicy(context(), str(checkpoint(tmp_path, 5, **more)))


def _cut_off(file: Path) -> None:
    np.savez(file, weight_0=np.ones((4, 5)), bias_0=np.ones(4))
    file.write_bytes(file.read_bytes()[:200])


def _single_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.ones(3))


@pytest.mark.parametrize("policy", [NetworkPolicy, LearnedPolicy])
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda file: None, "No such file"),
        (lambda file: file.touch(), "expected a .npz file"),
        (lambda file: file.write_text("weights"), "expected a .npz file"),
        (_single_array, "expected a .npz file"),
        (_cut_off, "expected a .npz file"),
        (lambda file: np.savez(file, other=np.ones(3)), "expected weight.*; it has other"),
        (lambda file: np.savez(file, weights=1.0, weight_0=1.0, bias_0=1.0), "expected .*weight"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(
    tmp_path: Path, policy: Any, spoil: Callable[[Path], Any], complaint: str
) -> None:
    file = tmp_path / "net.npz"
    spoil(file)
    with pytest.raises(ConfigError, match=complaint) as caught:
        policy(context(), str(file))
    assert f"checkpoint {file}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_observation_is_refused_by_name(tmp_path: Path) -> None:
    env = MultiAgentMicrogrids({"scenario": deciding(checkpoint(tmp_path, 5))})
    env.reset(seed=1)
    with pytest.raises(ConfigError, match="5 inputs, and the observation of MG1 has"):
        env.step({})
