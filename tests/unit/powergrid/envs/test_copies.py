"""Copies of an environment, by state, by deepcopy and by pickle, go the very same way."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heron_mqtt.messaging.core.background_loop import background_loop
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from support.rows import each_row
from support.small_grid import scenario as small
from support.trajectories import random_actions, told

pytestmark = pytest.mark.usefixtures("built_once")

CHANGES: dict[str, dict[str, Any]] = {"p2p": {}, "consensus": {"protocol.horizontal": "consensus"}}
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
}


def make(changes: Any = None, **config: Any) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids({"scenario": small(changes), **config})


def make_batch(changes: Any = None, num_envs: int = 3, **config: Any) -> BatchedMicrogrids:
    return BatchedMicrogrids({"scenario": small(changes), "num_envs": num_envs, **config})


def advance(env: MultiAgentMicrogrids, n: int, seed: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(n):
        observations, rewards, terminated, truncated, infos = env.step(random_actions(env, rng))
        steps.append((told(observations, rewards, infos), terminated, truncated))
    return steps


def advance_batch(batch: BatchedMicrogrids, n: int, seed: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(n):
        actions = {a: rng.uniform(-1.2, 1.2, batch.action_space(a).shape) for a in batch.agents}
        steps.append(batch.step(actions))
    return steps


def same(one: Any, other: Any) -> bool:
    """Whether two nested results are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes()
    return bool(one == other) or repr(one) == repr(other) == "nan"


@each_row("how", COPIES)
@each_row("changes", CHANGES)
@each_row("observation", ["full", "local"])
def test_a_copy_goes_the_very_same_way(how: str, changes: str, observation: str) -> None:
    env = make(CHANGES[changes], observation=observation)
    env.reset(seed=5)
    advance(env, 4)
    other = COPIES[how](env)
    mine = advance(env, 5)
    assert same(mine, advance(other, 5)), "stepped after the original"
    env.reset(seed=5)
    other.reset(seed=5)
    assert same(advance(env, 3), advance(other, 3))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_and_its_original_do_not_disturb_each_other(how: str) -> None:
    env = make()
    env.reset(seed=5)
    advance(env, 4)
    other = COPIES[how](env)
    alone = make()
    alone.reset(seed=5)
    advance(alone, 4)
    for seed in range(4):  # in turns, with other actions
        advance(other, 1, seed=100 + seed)
        assert same(advance(env, 1, seed), advance(alone, 1, seed))


def test_a_state_can_be_put_back_as_often_as_wanted_and_elsewhere() -> None:
    env, elsewhere = make(), make()
    env.reset(seed=5)
    advance(env, 4)
    state = pickle.loads(pickle.dumps(env.get_state()))
    first = advance(env, 8)
    assert not env.agents  # the episode is over
    env.set_state(state)
    assert same(advance(env, 8), first)
    elsewhere.set_state(state)
    assert same(advance(elsewhere, 8), first)


def test_a_state_of_another_scenario_is_refused_and_changes_nothing() -> None:
    env, other = make(), make({"name": "other"})
    env.reset(seed=1)
    with pytest.raises(ValueError, match=r"set_state: the state is one of scenario 'small'"):
        other.set_state(env.get_state())
    with pytest.raises(ValueError, match="expected what get_state returned, got a dict"):
        env.set_state({})  # type: ignore[arg-type]
    old = env.get_state()
    del vars(old)["format"]  # as it was pickled before there was one
    with pytest.raises(ValueError, match="made by another version"):
        env.set_state(old)
    assert env.agents


VARIANTS: dict[str, dict[str, Any]] = {
    "no policy": {},
    "another policy": {"microgrids.MG1.policy": "powergrid.policies:IdlePolicy"},
    "a policy": {"microgrids.MG1.policy": "powergrid.policies:RandomPolicy"},
}


@pytest.mark.parametrize("form", [make, make_batch])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "a policy"])
def test_a_state_of_a_variant_is_refused_and_changes_nothing(form: Any, variant: str) -> None:
    env, other = form(VARIANTS["a policy"]), form(VARIANTS[variant])
    for one, another in ((env, other), (other, env)):
        one.reset(seed=1)
        another.reset(seed=2)
        another.step({})
        before = one.get_state()
        with pytest.raises(ValueError, match="MG1 has other devices, another policy"):
            one.set_state(another.get_state())
        mine = one.step({})[1]
        one.set_state(before)
        assert same(mine, one.step({})[1])


@pytest.mark.parametrize("form", [make, make_batch])
@pytest.mark.parametrize("changes", [{}, {"randomisation": {"load_noise": 0.1}}])
def test_a_state_beyond_the_end_of_an_episode_is_refused(form: Any, changes: Any) -> None:
    env, shorter = form(changes), form(changes, max_episode_steps=3)
    env.reset(seed=1)
    shorter.reset(seed=2)
    for _ in range(3):
        env.step({})
    with pytest.raises(ValueError, match="of longer episodes: put it back where max_episode_steps"):
        shorter.set_state(env.get_state())
    shorter.step({})


@pytest.mark.parametrize("way", ["into none", "out of none"])
def test_a_batch_refuses_a_state_with_other_dead_times(way: str) -> None:
    slow = {"randomisation": {"response_delay_s": [100.0, 100.0]}}
    batch, other = (
        BatchedMicrogrids({"scenario": small(changes), "num_envs": 2})
        for changes in ([{}, slow] if way == "into none" else [slow, {}])
    )
    batch.reset(seed=1)
    other.reset(seed=2)
    advance_batch(other, 2)
    before = batch.get_state()
    with pytest.raises(ValueError, match="MG1 has other devices, another policy, or response_delay_s"):
        batch.set_state(other.get_state())
    mine = advance_batch(batch, 2)
    batch.set_state(before)
    assert same(mine, advance_batch(batch, 2))


def test_an_environment_over_a_broker_refuses_to_be_copied() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    for copied in COPIES.values():
        with pytest.raises(TypeError, match="an environment over a broker cannot be copied"):
            copied(env)
    env.close()


def test_what_a_derived_class_adds_is_copied_too() -> None:
    env = Counting({"scenario": small()})
    env.reset(seed=1)
    env.counts.append(1)
    other = copy.deepcopy(env)
    other.counts.append(2)
    assert (env.counts, other.counts) == ([1], [1, 2])
    assert pickle.loads(pickle.dumps(other)).counts == [1, 2]


class Counting(MultiAgentMicrogrids):
    """With an attribute of its own."""

    def __init__(self, config: Any) -> None:
        self.counts: list[int] = []
        super().__init__(config)


def test_other_prices_are_copied_too() -> None:
    env = make()
    env.simulation.series.change_prices(lambda price: 2.0 * price)
    env.reset(seed=1)
    assert same(advance(copy.deepcopy(env), 3), advance(env, 3))


@pytest.mark.slow_but("p2p-deepcopy", "consensus-pickle", "every kind-pickle")
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("changes", [*CHANGES, "every kind"])
def test_a_copy_of_a_batch_goes_the_very_same_way(how: str, changes: str) -> None:
    kinds = {**CHANGES, "every kind": {}}
    source: Any = "neighbourhood" if changes == "every kind" else small(kinds[changes])
    batch = BatchedMicrogrids({"scenario": source, "num_envs": 3, "max_episode_steps": 6})
    batch.reset(seed=5)
    advance_batch(batch, 4)
    other = COPIES[how](batch)
    mine = advance_batch(batch, 9)  # across the end of an episode: the generator goes along
    assert same(mine, advance_batch(other, 9))
    state = batch.get_state()
    mine = advance_batch(batch, 5)
    batch.set_state(state)
    assert same(mine, advance_batch(batch, 5))


def test_step_after_close_asks_for_reset_in_every_mode() -> None:
    over_a_broker = make(centralized=False, message_broker=InMemoryBroker())
    over_its_own = make(centralized=False)
    for env in (make(), over_a_broker, over_its_own, make_batch()):
        env.reset(seed=1)
        env.step({})
        env.close()
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            env.step({})
        env.reset(seed=1)
        env.step({})
        env.close()


def test_an_environment_that_is_dropped_unclosed_leaves_its_broker() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    env.step({})
    del env
    gc.collect()

    async def settle() -> list[str]:
        for _ in range(200):
            names = [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("proxy MG")]
            if not names:
                return []
            await asyncio.sleep(0.01)
        return names

    assert asyncio.run_coroutine_threadsafe(settle(), background_loop()).result(5.0) == []
    retained: dict[str, Any] = {}
    broker.subscribe("#", lambda m: retained.update({m.channel: m}))
    assert {retained[f"agents/{agent}/status"]["state"] for agent in ("MG1", "MG2", "MG3")} == {"offline"}
