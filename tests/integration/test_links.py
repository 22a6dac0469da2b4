"""``networks``: without messages an environment loses what the distributed run loses, step by step."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from support.small_grid import scenario as small
from support.virtual import run_virtual

pytestmark = pytest.mark.usefixtures("built_once")

STEPS = 16
SURE = {"pattern": ["run/state", "agents/+/status"], "exempt": True}  # or no episode would begin
LOSSY = ImpairmentTable.model_validate(
    {
        "name": "lossy",
        "rules": [
            SURE,
            {
                "pattern": "#",
                "delay_s": 0.025,
                "jitter": "uniform",
                "jitter_s": 0.03,
                "loss": 0.03,
                "burst": {"enter": 0.02, "leave": 0.5},
                "duplicate": 0.02,
            },
        ],
        "partitions": [
            {"pattern": ["agents/MG1/#", "p2p/MG1/+", "p2p/+/MG1"], "begin_step": 5, "end_step": 7}
        ],
    }
)


FOUR = {
    "microgrids.MG3.buses": [10, 11, 12],
    "microgrids.MG4": {**small()["microgrids"]["MG3"], "buses": [13, 14]},
}


def changed(**changes: Any) -> dict[str, Any]:
    return small({"steps": STEPS, "deadlines": {}, **changes})  # the deadlines of a scenario that names none


def actions(step: int, env: MultiAgentMicrogrids) -> dict[str, Any]:
    """Return actions of one agent, of two, of all, of none, and so on."""
    rng = np.random.default_rng(step)
    drawn = {agent: rng.uniform(-1.0, 1.0, env.action_space(agent).shape) for agent in env.possible_agents}
    return dict(list(drawn.items())[: step % 4])


def without_messages(scenario: dict[str, Any], seed: int) -> list[Any]:
    env = MultiAgentMicrogrids({"scenario": scenario, "observation": "local", "networks": [LOSSY]})
    env.reset(seed=seed)
    steps = []
    while env.agents:
        observations, rewards, _, _, infos = env.step(actions(len(steps), env))
        steps.append((observations, rewards, infos))
    return steps


async def over_messages(scenario: dict[str, Any], seed: int) -> list[Any]:
    async with ImpairedBroker(InMemoryBroker(), LOSSY, seed=seed) as broker:
        env = MultiAgentMicrogrids(
            {"scenario": scenario, "observation": "local", "centralized": False, "message_broker": broker}
        )
        await env.reset_async(seed)
        steps = []
        while env.agents:
            observations, rewards, _, _, infos = await env.step_async(actions(len(steps), env))
            steps.append((observations, rewards, infos))
        await env.close_async()
        return steps


def flat(data: Any, key: str = "") -> dict[str, Any]:
    if isinstance(data, dict):
        return {k: v for name, part in data.items() for k, v in flat(part, f"{key}.{name}").items()}
    if isinstance(data, np.ndarray):
        return flat(data.tolist(), key)
    if isinstance(data, list | tuple):
        return {k: v for i, part in enumerate(data) for k, v in flat(part, f"{key}[{i}]").items()}
    return {key: data}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),  # those with a grid check have it, and more
        pytest.param({"protocol.horizontal": "consensus"}, marks=pytest.mark.slow),
        pytest.param({"protocol.horizontal": "none"}, marks=pytest.mark.slow),
        pytest.param({"protocol.neighbours": "ring", **FOUR}, marks=pytest.mark.slow),
        {"protocol.horizontal": "order_book", **FOUR},
        pytest.param({"envelope.grid_check": True}, marks=pytest.mark.slow),
        {
            "envelope.grid_check": True,
            "protocol.horizontal": "consensus",
            "deadlines": {"upstream_s": 0.37, "peer_s": 1.13},
        },
    ],
    ids=["p2p", "consensus", "none", "p2p, ring", "order book", "p2p, grid check", "consensus, grid check"],
)
def test_what_is_lost_over_messages_is_lost_without_them(changes: dict[str, Any], seed: int) -> None:
    scenario = changed(**changes)
    mine, theirs = without_messages(scenario, seed), run_virtual(over_messages(scenario, seed))
    assert flat(mine) == pytest.approx(flat(theirs), abs=1e-9, nan_ok=True)
    infos = [info for _, _, of_agents in mine for info in of_agents.values()]
    assert sum(info["fallback"] is not None for info in infos) > 3
    assert sum(info["missed"] for info in infos) > 3


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_waits_add_up_to_plans_and_actions_that_are_too_late_and_to_late_next_steps(seed: int) -> None:
    scenario = changed(**{"protocol.horizontal": "consensus", "envelope.grid_check": True})
    mine, theirs = without_messages(scenario, seed), run_virtual(over_messages(scenario, seed))
    assert flat(mine) == pytest.approx(flat(theirs), abs=1e-9, nan_ok=True)
    assert sum(info["fallback"] is not None for _, _, infos in mine for info in infos.values()) > 30


def test_each_episode_has_one_of_the_networks_and_a_fate_of_its_own() -> None:
    perfect = ImpairmentTable(name="perfect")
    env = MultiAgentMicrogrids({"scenario": changed(), "networks": [perfect, LOSSY]})

    def losses(seed: int) -> list[bool]:
        env.reset(seed=seed)
        lost = []
        while env.agents:
            lost += [info["fallback"] is not None for info in env.step({})[4].values()]
        return lost

    each = [losses(seed) for seed in range(8)]
    assert any(not any(lost) for lost in each)
    assert len({tuple(lost) for lost in each}) > 3
    assert losses(3) == each[3]


def test_a_state_put_back_goes_on_with_the_same_losses() -> None:
    env = MultiAgentMicrogrids({"scenario": changed(), "networks": [LOSSY]})
    env.reset(seed=1)
    for _ in range(4):
        env.step({})
    state = env.get_state()
    first = [env.step({})[1] for _ in range(8)]
    env.set_state(state)
    assert [env.step({})[1] for _ in range(8)] == first


@pytest.mark.parametrize("episode", [1, 2])
def test_a_state_without_losses_goes_on_with_those_of_its_episode(episode: int) -> None:
    config = {"scenario": changed(steps=8), "num_envs": 1}
    before, after = BatchedMicrogrids(config), BatchedMicrogrids({**config, "networks": [LOSSY]})
    alone = MultiAgentMicrogrids({"scenario": changed(steps=8), "networks": [LOSSY]})
    before.reset(seed=[5], options={"start_rows": [30]})
    alone.reset(seed=5, options={"start_row": 30})
    if episode == 2:
        for _ in range(8):
            before.step({})
        alone.reset(options={"start_row": 30})
    after.reset()
    after.set_state(before.get_state())
    lost = 0
    for _ in range(7):
        infos = after.step({})[4]
        for agent, info in alone.step({})[4].items():
            assert infos[agent]["fallback"][0] == (info["fallback"] is not None)
            assert infos[agent]["missed"][0] == info["missed"]
            lost += info["missed"]
    assert lost > 1


def test_fates_are_kept_no_longer_than_a_copy_uses_them() -> None:
    batch = BatchedMicrogrids({"scenario": changed(), "num_envs": 3, "networks": [LOSSY]})
    links = batch._links
    assert links is not None
    for seed in range(5):
        batch.reset(seed=[seed, seed, seed + 1])
        batch.step({})
        gc.collect()
        assert set(links._known) == {seed, seed + 1}


def test_networks_are_refused_where_messages_are_sent() -> None:
    with pytest.raises(ConfigError, match="ImpairedBroker"):
        MultiAgentMicrogrids({"centralized": False, "networks": ["lan"]})


def test_a_network_that_is_cut_off_by_the_clock_is_refused() -> None:
    table = ImpairmentTable.model_validate({"partitions": [{"begin_s": 1.0, "end_s": 2.0}]})
    with pytest.raises(ConfigError, match="begin_step"):
        MultiAgentMicrogrids({"networks": [table]})


# -- copies --------------------------------------------------------------------------------------------


POLICIES: dict[str, dict[str, Any]] = {
    "rules": {},
    "all copies": {"use": "powergrid.policies:LearnedPolicy"},
    "one a copy": {"use": "powergrid.policies:RandomPolicy"},
}


@pytest.mark.parametrize(
    ("horizontal", "policy", "checked"),
    [
        pytest.param("p2p", "rules", False, marks=pytest.mark.slow),  # those that follow have it, and more
        pytest.param("p2p, ring", "rules", False, marks=pytest.mark.slow),
        pytest.param("order_book", "rules", True, marks=pytest.mark.slow),
        ("p2p", "one a copy", True),
        pytest.param("consensus", "all copies", False, marks=pytest.mark.slow),
        pytest.param("consensus", "rules", True, marks=pytest.mark.slow),
        pytest.param("none", "one a copy", False, marks=pytest.mark.slow),
    ],
)
def test_every_copy_loses_what_a_single_environment_loses(
    horizontal: str, policy: str, checked: bool
) -> None:
    limits = {"vm_min_pu": 0.985, "vm_max_pu": 1.01, "loading_max_percent": 12.0}
    horizontal, _, ring = horizontal.partition(", ")
    changes: dict[str, Any] = {"protocol.horizontal": horizontal}
    if ring:
        changes |= {"protocol.neighbours": ring, **FOUR}
    if checked:
        changes["envelope"] = {"grid_check": True, **limits}
    changes |= {f"microgrids.{agent}.policy": POLICIES[policy] for agent in ("MG1", "MG3")}
    scenario, seeds = changed(**changes), [5, 6, 9, 5]
    batch = BatchedMicrogrids(
        {"scenario": scenario, "num_envs": 4, "networks": [LOSSY, "lan"], "observation": "local"}
    )
    single = MultiAgentMicrogrids({"scenario": scenario, "networks": [LOSSY, "lan"], "observation": "local"})
    drawn = [actions(step, single) for step in range(STEPS)]
    batch.reset(seed=seeds, options={"start_rows": [30, 30, 40, 44]})
    steps = [
        batch.step({agent: np.tile(action, (4, 1)) for agent, action in given.items()}) for given in drawn
    ]
    lost = 0
    for copy, (seed, row) in enumerate(zip(seeds, [30, 30, 40, 44], strict=True)):
        single.reset(seed=seed, options={"start_row": row})
        for given, (_, rewards, _, _, infos) in zip(drawn, steps, strict=True):
            _, alone, _, _, alone_infos = single.step(given)
            assert {agent: values[copy] for agent, values in rewards.items()} == pytest.approx(
                alone, rel=1e-9, abs=1e-9
            )
            for agent, info in alone_infos.items():
                mine = infos[agent]
                assert mine["fallback"][copy] == (info["fallback"] is not None)
                assert mine["missed"][copy] == info["missed"]
                lost += bool(mine["fallback"][copy])
                for quantity in ("p_mw", "q_mvar", "soc"):
                    values = {name: part[copy] for name, part in mine[quantity].items()}
                    assert values == pytest.approx(info[quantity], rel=1e-9, abs=1e-9), (agent, quantity)
    assert lost > 3


def test_a_batch_put_back_goes_on_with_the_same_losses() -> None:
    batch = BatchedMicrogrids({"scenario": changed(), "num_envs": 3, "networks": [LOSSY]})
    batch.reset(seed=1)
    for _ in range(4):
        batch.step({})
    state = batch.get_state()
    first = [batch.step({})[1]["MG1"] for _ in range(8)]
    batch.set_state(state)
    np.testing.assert_array_equal([batch.step({})[1]["MG1"] for _ in range(8)], first)
