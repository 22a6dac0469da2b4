"""MultiAgentMicrogrids over a broker: event loops, brokers, agents elsewhere, episodes one after another."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import BrokerClosed, NotReady
from heron_mqtt.messaging.base import Features
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids
from support.small_grid import scenario as small

MGS = ["MG1", "MG2", "MG3"]
SHORT = {"upstream_s": 0.1, "peer_s": 0.1, "device_s": 0.1, "action_s": 0.3, "ready_s": 0.2}


def make(scenario: dict[str, Any] | None = None, **config: Any) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids({"scenario": small(scenario), **config})


pytestmark = pytest.mark.usefixtures("built_once")


def test_without_a_broker_it_has_one_of_its_own() -> None:
    env = make(centralized=False)
    env.reset(seed=1)
    env.step({})
    env.close()
    env.close()


def test_closing_twice_and_before_reset_is_harmless() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.close()
    env.reset(seed=1)
    env.close()
    env.close()
    make().close()


def test_the_broker_is_usable_after_the_environment_has_left_it() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    first = env.step({})
    env.close()
    got: list[Any] = []
    broker.subscribe("control", got.append)
    broker.publish("control", {"setpoint": 1.0})
    assert got == [{"setpoint": 1.0}]
    again = make(centralized=False, message_broker=broker)
    again.reset(seed=1)
    assert again.step({})[1] == first[1]
    again.close()


def test_it_can_be_reset_after_close() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.reset(seed=1)
    first = env.step({})[1]
    env.close()
    env.reset(seed=1)
    assert env.step({})[1] == first
    env.close()


def test_the_last_words_on_the_broker_are_finished_and_offline() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    env.close()
    retained: dict[str, Any] = {}
    broker.subscribe("#", lambda m: retained.update({m.channel: m}))
    assert retained["run/state"]["state"] == "finished"
    assert {retained[f"agents/{agent}/status"]["state"] for agent in MGS} == {"offline"}


def test_it_can_be_closed_after_its_broker() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    asyncio.run(broker.close())
    env.close()
    with pytest.raises(BrokerClosed):
        env.reset(seed=1)


async def test_the_synchronous_calls_work_inside_a_running_event_loop() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.reset(seed=1)
    assert env.step({})[1] == (await asyncio.to_thread(one_central_step))[1]
    env.close()


def one_central_step() -> Any:
    env = make()
    env.reset(seed=1)
    return env.step({})


async def test_the_asynchronous_calls_run_in_the_callers_loop() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    await env.reset_async(seed=1)
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert {f"proxy {agent}_proxy" for agent in MGS} <= names
    result = await env.step_async({})
    await env.close_async()
    assert not {task.get_name() for task in asyncio.all_tasks()} & {f"proxy {agent}_proxy" for agent in MGS}
    assert result[1] == one_central_step()[1]


async def test_a_synchronous_call_that_would_wait_for_its_own_loop_says_so() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    await env.reset_async(seed=1)
    for call in (lambda: env.step({}), env.reset, env.close):
        with pytest.raises(RuntimeError, match=r"would block the event loop.*await"):
            call()
    await env.close_async()


async def test_calls_from_a_second_event_loop_say_so() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.reset(seed=1)  # lives in the background loop
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        await env.step_async({})
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        await env.reset_async()
    await env.close_async()
    await env.reset_async(seed=1)
    await env.step_async({})
    await env.close_async()


def test_an_environment_left_open_in_a_loop_that_has_ended_can_be_closed_and_used_again() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    asyncio.run(leave_open(env))
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        env.step({})
    env.close()
    env.reset(seed=1)
    env.step({})
    env.close()


async def leave_open(env: MultiAgentMicrogrids) -> None:
    await env.reset_async(seed=1)
    await env.step_async({})


class Served(InMemoryBroker):
    """Lives in an event loop, as a broker with a connection does."""

    home_loop: asyncio.AbstractEventLoop | None = None


async def test_a_broker_connected_in_the_same_loop_is_refused_before_anything_happens() -> None:
    broker = Served()
    broker.home_loop = asyncio.get_running_loop()
    env = make(centralized=False, message_broker=broker)
    with pytest.raises(RuntimeError, match=r"would block the event loop that serves its broker"):
        env.reset(seed=1)
    await env.reset_async(seed=1)
    await env.step_async({})
    await env.close_async()


def test_two_environments_share_a_broker_without_hearing_each_other() -> None:
    broker = InMemoryBroker()
    envs = [make(centralized=False, message_broker=broker, env_id=name) for name in ("one", "two")]
    expected = one_central_step()[1]
    for env in envs:
        env.reset(seed=1)
    for env in envs:
        assert env.step({})[1] == expected
        assert all(info["missed"] == 0 for info in env.step({})[4].values())
    for env in envs:
        env.close()


def test_an_agent_that_never_comes_is_named_and_the_episode_does_not_begin() -> None:
    env = make({"microgrids.MG2.remote": True, "deadlines": SHORT}, centralized=False)
    with pytest.raises(NotReady, match=r"not ready after 0.2 s: agent MG2 \(not online for this episode\)"):
        env.reset(seed=1)
    assert env.agents == []
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({})
    env.close()


async def test_with_every_agent_remote_nothing_is_heard_twice() -> None:
    """The operator is alone in this process: it must not subscribe again at each reset."""
    broker = InMemoryBroker()
    changes: dict[str, Any] = {f"microgrids.{mg}.remote": True for mg in MGS}
    env = make({**changes, "deadlines": SHORT}, centralized=False, message_broker=broker)
    for _ in range(3):
        with pytest.raises(NotReady):
            await env.reset_async(seed=1)
    assert env._exchange is not None
    broker.publish("agents/MG1/action", {"type": "action", "env_id": "small", "episode": 99, "step": 0})
    assert env._exchange.operator.dropped == 1
    await env.close_async()


def test_identifiers_that_mqtt_reserves_come_back_unchanged() -> None:
    names = {"MG1": "a/b", "MG2": "+ #", "MG3": "50%"}
    data = small({"name": "Ünï/+#", "operator_id": "#/op%"}, names=names)
    env = MultiAgentMicrogrids({"scenario": data, "centralized": False})
    env.reset(seed=1)
    _, rewards, _, _, infos = env.step({"+ #": np.zeros(4)})
    assert list(rewards) == ["a/b", "+ #", "50%"]
    assert all(info["missed"] == 0 and info["fallback"] is None for info in infos.values())
    env.close()
    central = MultiAgentMicrogrids({"scenario": data})
    central.reset(seed=1)
    assert central.step({"+ #": np.zeros(4)})[1] == rewards


def test_a_broker_without_wildcards_or_retain_is_enough() -> None:
    class Plain(InMemoryBroker):
        features = Features()

        def publish(self, channel: str, message: Any, *, retain: bool = False) -> Any:
            assert not retain
            return super().publish(channel, message)

        def subscribe(self, channel: str, callback: Any) -> Any:
            assert "+" not in channel
            assert "#" not in channel
            return super().subscribe(channel, callback)

    env = make(centralized=False, message_broker=Plain())
    env.reset(seed=1)
    assert env.step({})[1] == one_central_step()[1]
    env.close()
