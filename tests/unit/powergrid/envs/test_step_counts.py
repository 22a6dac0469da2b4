"""What a step does, counted rather than timed: speed that comes from not doing things must not creep away."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import pytest

from heron_mqtt.messaging import codec, memory
from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.powerflow import CompiledPowerFlow
from support.small_grid import scenario as small

MGS = ["MG1", "MG2", "MG3"]


pytestmark = pytest.mark.usefixtures("built_once")


@contextmanager
def packages_called() -> Iterator[Counter[str]]:
    """Count the Python functions called inside, by the package they are of."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[str(frame.f_globals.get("__name__", "")).partition(".")[0]] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """Have every call of a function noted, with its positional arguments."""
    calls: list[tuple[Any, ...]] = []
    real: Callable[..., Any] = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)
    return calls


def random_actions(env: MultiAgentMicrogrids | BatchedMicrogrids) -> dict[str, Any]:
    return {agent: env.action_space(agent).sample() for agent in MGS}


# -- centralized ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("acting", [False, True], ids=["own policies", "actions"])
def test_a_step_calls_neither_pandas_nor_pandapower_and_copies_nothing_deeply(acting: bool) -> None:
    env = MultiAgentMicrogrids({"scenario": small()})
    env.reset(seed=0)
    with packages_called() as calls:
        for _ in range(3):
            env.step(random_actions(env) if acting else {})
    assert calls["powergrid"] > 0
    assert not {"pandas", "pandapower", "copy"} & set(calls)


def test_the_reference_solver_shows_that_calls_are_seen() -> None:
    env = MultiAgentMicrogrids({"scenario": small({"network.solver": "pandapower"})})
    env.reset(seed=0)
    with packages_called() as calls:
        env.step({})
    assert calls["pandas"] > 0
    assert calls["pandapower"] > 0


def test_a_step_solves_the_power_flow_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = MultiAgentMicrogrids({"scenario": small()})
    env.reset(seed=0)
    solves = count_calls(monkeypatch, CompiledPowerFlow, "_solved")
    for n_steps in (1, 2, 3):
        env.step(random_actions(env))
        assert len(solves) == n_steps


def test_spaces_are_made_once() -> None:
    env = MultiAgentMicrogrids({"scenario": small()})
    before = {agent: (env.observation_space(agent), env.action_space(agent)) for agent in MGS}
    env.reset(seed=0)
    env.step({})
    env.reset(seed=1)
    for agent in MGS:
        assert env.observation_space(agent) is before[agent][0]
        assert env.action_space(agent) is before[agent][1]


def test_observations_are_the_callers_and_not_written_again() -> None:
    env = MultiAgentMicrogrids({"scenario": small()})
    first, _ = env.reset(seed=0)
    kept = {agent: observation.copy() for agent, observation in first.items()}
    second = env.step({})[0]
    for agent in MGS:
        assert np.array_equal(first[agent], kept[agent])
        assert not np.shares_memory(first[agent], second[agent])
        assert not np.shares_memory(second["MG1"], second[agent]) or agent == "MG1"


# -- distributed ---------------------------------------------------------------------------------------


class Counting(InMemoryBroker):
    """Notes what is published where."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str]] = []

    def publish(self, channel: str, message: Mapping[str, Any], *, retain: bool = False) -> Delivery:
        self.said.append((channel, message["type"]))
        return super().publish(channel, message, retain=retain)


async def test_a_distributed_step_publishes_each_thing_once() -> None:
    broker = Counting()
    env = MultiAgentMicrogrids({"scenario": small(), "centralized": False, "message_broker": broker})
    await env.reset_async(seed=0)
    broker.said.clear()
    await env.step_async({"MG2": np.zeros(4)})
    once = {("run/state", "run_state"), ("operators/system_operator/price", "price")}
    once |= {(f"agents/{agent}/{leaf}", leaf) for agent in MGS for leaf in ("observation", "action")}
    once |= {(f"p2p/{a}/{b}", "offer") for a in MGS for b in MGS if a != b}
    once.add(("agents/MG2/command", "command"))
    answers = {(channel, kind) for channel, kind in broker.said if kind in {"accept", "confirm"}}
    assert Counter(broker.said) == Counter(once | answers)
    assert 0 < len(answers) < 2 * 6, "only where they can matter"
    await env.close_async()


async def test_a_message_is_encoded_once_and_read_once_however_many_hear_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Counting()
    env = MultiAgentMicrogrids({"scenario": small(), "centralized": False, "message_broker": broker})
    await env.reset_async(seed=0)
    for _ in range(3):
        broker.subscribe("agents/#", callback=lambda _: None)
    broker.said.clear()
    encoded = count_calls(monkeypatch, codec, "to_json")
    read = count_calls(monkeypatch, memory, "decode_own")
    decoded = count_calls(monkeypatch, codec, "from_json")
    await env.step_async({})
    assert len(encoded) == len(read) == len(broker.said)
    assert not decoded, "each is a flat object of texts and numbers: a copy of it is the same"
    await env.close_async()


async def test_a_distributed_step_solves_the_power_flow_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = MultiAgentMicrogrids({"scenario": small(), "centralized": False})
    await env.reset_async(seed=0)
    solves = count_calls(monkeypatch, CompiledPowerFlow, "_solved")
    await env.step_async({})
    assert len(solves) == 1
    await env.close_async()


# -- copies --------------------------------------------------------------------------------------------


def test_all_copies_are_solved_in_one_call_and_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = BatchedMicrogrids({"scenario": small(), "num_envs": 5})
    batch.reset(seed=0)
    together = count_calls(monkeypatch, CompiledPowerFlow, "solve_batch")
    alone = count_calls(monkeypatch, CompiledPowerFlow, "_solved")
    with packages_called() as calls:
        batch.step()
        batch.step(random_actions(batch))
    assert (len(together), len(alone)) == (2, 0)
    assert not {"pandas", "pandapower", "copy"} & set(calls)


def test_the_work_of_a_batch_does_not_grow_with_the_number_of_copies() -> None:
    counts = []
    for num_envs in (2, 64):
        batch = BatchedMicrogrids({"scenario": small(), "num_envs": num_envs, "start_rows": "scenario"})
        batch.reset(seed=0)
        with packages_called() as calls:
            batch.step()
        counts.append(calls["powergrid"])
    assert counts[0] == counts[1]
