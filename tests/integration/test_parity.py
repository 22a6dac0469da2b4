"""Parity: with the same seed every mode and every broker gives the same trajectory, to 1e-9.

Late or lost messages are all that may make a difference, and here there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.envs import MultiAgentMicrogrids
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario as small
from support.trajectories import (
    Actions,
    assert_same,
    own_policies,
    random_actions,
    some_random_actions,
    told,
    trajectory,
)


def assert_something_happened(steps: list[dict[str, Any]], trades: bool = True) -> None:
    powers = [v for s in steps for path, v in s.items() if "/p_mw/" in path]
    assert max(powers) > 0.0
    assert min(powers) < 0.0
    assert any(s.get(f"info/{a}/trades/n", 0) for s in steps for a in ("MG1", "MG2", "MG3")) == trades


pytestmark = pytest.mark.usefixtures("built_once")


BROKERS = ["memory", "embedded", "mosquitto"]


@pytest.fixture
def make_broker(request: pytest.FixtureRequest, env_id: str) -> Iterator[Callable[[str], MessageBroker]]:
    made: list[MessageBroker] = []

    def make(kind: str) -> MessageBroker:
        broker: MessageBroker
        if kind == "memory":
            broker = InMemoryBroker()
        elif kind == "embedded":
            broker = MqttBroker(request.getfixturevalue("embedded_url"), env_id=env_id)
        else:
            server: Mosquitto = request.getfixturevalue("mosquitto")
            broker = MqttBroker(server.url, env_id=env_id)
        made.append(broker)
        return broker

    yield make
    for broker in made:
        run_sync(broker.close())


_central: dict[tuple[str, str], list[dict[str, Any]]] = {}


def central_and(broker: MessageBroker, scenario: Any, act: Actions) -> tuple[list[Any], list[Any]]:
    """Return the trajectories of centralized mode (worked out once for all brokers) and over a broker."""
    config = {"scenario": scenario, "observation": "full"}
    key = (repr(scenario), act.__name__)
    if key not in _central:
        _central[key] = trajectory(MultiAgentMicrogrids({**config, "centralized": True}), act)
    distributed = MultiAgentMicrogrids({**config, "centralized": False, "message_broker": broker})
    steps = trajectory(distributed, act)
    distributed.close()
    return _central[key], steps


# -- a day of the shipped scenario ---------------------------------------------------------------------


@pytest.mark.slow_but("memory-own_policies")
@pytest.mark.parametrize("act", [own_policies, random_actions])
@pytest.mark.parametrize("kind", BROKERS)
def test_a_day_over_any_broker_is_the_day_of_centralized_mode(
    kind: str, act: Actions, make_broker: Callable[[str], MessageBroker]
) -> None:
    broker = make_broker(kind)
    central, distributed = central_and(broker, "three_microgrids", act)
    assert len(central) == 97
    assert_something_happened(central)
    assert_same(central, distributed)
    counts = broker.stats.counts()
    assert {counts[name] for name in ("duplicated", "rejected", "lost", "overflowed", "undelivered")} == {0}
    assert counts["published"] > 0


# -- every protocol ------------------------------------------------------------------------------------

FOUR = {
    "microgrids.MG3.buses": [10, 11, 12],
    "microgrids.MG4": {**small()["microgrids"]["MG3"], "buses": [13, 14]},
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "p2p": {},
    "consensus, all": {"protocol": {"horizontal": "consensus"}},
    "consensus, ring of four": {"protocol": {"horizontal": "consensus", "neighbours": "ring"}, **FOUR},
    "p2p of four": FOUR,
    "p2p, ring of four": {"protocol": {"neighbours": "ring"}, **FOUR},
    "order book": {"protocol": {"horizontal": "order_book"}},
    "order book of four": {"protocol": {"horizontal": "order_book"}, **FOUR},
    "none": {"protocol": {"horizontal": "none"}},
    "grid check": {"envelope": {"grid_check": True, "vm_max_pu": 1.004, "loading_max_percent": 25.0}},
}


@pytest.mark.slow_but("some_random_actions")
@pytest.mark.parametrize("act", [own_policies, some_random_actions])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_is_the_same_by_direct_calls_and_by_messages(
    protocol: str, act: Actions, make_broker: Callable[[str], MessageBroker]
) -> None:
    central, distributed = central_and(make_broker("memory"), small(PROTOCOLS[protocol]), act)
    assert_something_happened(central, trades=protocol.startswith(("p2p", "order", "grid")))
    assert_same(central, distributed)


@pytest.mark.slow_but(
    *("p2p, ring of four-embedded", "consensus, ring of four-mosquitto", "grid check-mosquitto"),
)
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
@pytest.mark.parametrize(
    "protocol", ["p2p, ring of four", "order book of four", "consensus, ring of four", "none", "grid check"]
)
def test_every_protocol_is_the_same_over_mqtt(
    protocol: str, kind: str, make_broker: Callable[[str], MessageBroker]
) -> None:
    central, distributed = central_and(make_broker(kind), small(PROTOCOLS[protocol]), some_random_actions)
    assert_same(central, distributed)


def test_protocols_differ_from_each_other() -> None:
    """Otherwise the tests above compare nothing."""
    seen = []
    for changes in (
        PROTOCOLS["p2p"],
        PROTOCOLS["p2p of four"],
        PROTOCOLS["p2p, ring of four"],
        PROTOCOLS["order book"],
        PROTOCOLS["consensus, all"],
        PROTOCOLS["none"],
        PROTOCOLS["grid check"],
    ):
        steps = trajectory(MultiAgentMicrogrids({"scenario": small(changes)}), own_policies)
        agents = [path for path in steps[-1] if path.startswith("reward/")]  # what they pay each other, too
        seen.append(tuple(round(sum(s.get(path, 0.0) for s in steps), 6) for path in agents))
    assert len(set(seen)) == len(seen)


# -- ways of calling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mqtt", [False, True], ids=["memory", "mqtt"])
async def test_the_asynchronous_calls_give_the_same_trajectory(
    mqtt: bool, embedded_url: str, env_id: str
) -> None:
    broker: MessageBroker = MqttBroker(embedded_url, env_id=env_id) if mqtt else InMemoryBroker()
    config = {"scenario": small(), "observation": "full"}
    central = await asyncio.to_thread(
        lambda: trajectory(MultiAgentMicrogrids({**config, "centralized": True}), own_policies)
    )
    async with broker:
        env = MultiAgentMicrogrids({**config, "centralized": False, "message_broker": broker})
        observations, infos = await env.reset_async(seed=11)
        steps = [told(observations, {}, infos)]
        while env.agents:
            observations, rewards, _, _, infos = await env.step_async({})
            steps.append(told(observations, rewards, infos))
        await env.close_async()
    assert_same(central, steps)


def test_a_second_episode_is_the_first_again_over_mqtt(make_broker: Callable[[str], MessageBroker]) -> None:
    env = MultiAgentMicrogrids(
        {"scenario": small(), "centralized": False, "message_broker": make_broker("embedded")}
    )
    assert_same(trajectory(env, random_actions), trajectory(env, random_actions))
    env.close()


@pytest.mark.slow_but("fixed_point")
@pytest.mark.parametrize("solver", ["fixed_point", "pandapower"])
def test_parity_holds_with_every_solver(solver: str, make_broker: Callable[[str], MessageBroker]) -> None:
    scenario = small({"network.solver": solver, "steps": 4})
    assert_same(*central_and(make_broker("memory"), scenario, random_actions))
