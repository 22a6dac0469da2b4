"""The snippets of the documentation, as they are written there, with the obvious names filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from heron_mqtt.agents import StepReport
from heron_mqtt.messages import Action
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.agents import GridAgent
from powergrid.scenario import load_scenario
from support.virtual import run_virtual

FIRST = {"episode": 1, "step": 0}


pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(params=["memory", "mqtt"])
def broker(request: pytest.FixtureRequest) -> Iterator[MessageBroker]:
    """``InMemoryBroker()``, and ``MqttBroker("mqtt://127.0.0.1:1883")`` at a port that is free here."""
    made: MessageBroker
    if request.param == "memory":
        from heron_mqtt.messaging.memory import InMemoryBroker

        made = InMemoryBroker()
    else:
        made = MqttBroker(request.getfixturevalue("embedded_url"), env_id=request.getfixturevalue("env_id"))
    yield made
    run_sync(made.close())


def grid_agents() -> dict[str, GridAgent]:
    scenario = load_scenario("three_microgrids").scenario
    return {agent: GridAgent.from_scenario(scenario, agent) for agent in scenario.microgrids}


def test_the_environment(broker: MessageBroker) -> None:
    from powergrid.envs import MultiAgentMicrogrids

    env = MultiAgentMicrogrids({"centralized": False, "message_broker": broker, "max_episode_steps": 24})
    observations, infos = env.reset(seed=42)
    observations, rewards, terminations, truncations, infos = env.step(
        {agent: env.action_space(agent).sample() for agent in env.agents})  # fmt: skip
    env.close()

    assert set(observations) == set(rewards) == set(infos) == {"MG1", "MG2", "MG3"}
    assert not any(terminations.values())
    assert not any(truncations.values())
    assert all(info["missed"] == 0 for info in infos.values())


def test_the_two_modes(broker: MessageBroker) -> None:
    from powergrid.envs import MultiAgentMicrogrids

    env_central = MultiAgentMicrogrids({"centralized": True})  # full state, direct calls
    env_dist = MultiAgentMicrogrids(
        {"centralized": False, "message_broker": broker}
    )  # local state + messages

    assert env_central.observation_space("MG1").shape > env_dist.observation_space("MG1").shape
    env_central.reset(seed=42)
    env_dist.reset(seed=42)
    for _ in range(3):
        assert env_central.step({})[1] == env_dist.step({})[1]
    env_dist.close()


async def test_a_broker_by_itself(broker: MessageBroker) -> None:
    heard: list[Any] = []
    handle_control = heard.append

    broker.subscribe("control", callback=handle_control)
    broker.publish("control", {"setpoint": 1.0})  # not awaited
    await broker.publish("control", {"setpoint": 1.0})  # awaited: delivered
    message = await broker.consume("control")

    assert message == {"setpoint": 1.0}
    assert await broker.consume("control") == {"setpoint": 1.0}
    async with asyncio.timeout(5):
        while len(heard) < 2:
            await asyncio.sleep(0.002)
    assert heard == [{"setpoint": 1.0}] * 2


def test_a_proxy_by_itself_takes_its_step_alone() -> None:
    """No other agent is there: it waits for an observation and for its peers' offers, then acts."""
    from heron_mqtt.agents import Proxy
    from heron_mqtt.messaging.memory import InMemoryBroker

    grid_agent = grid_agents()["MG1"]

    async def main() -> StepReport:
        broker = InMemoryBroker()
        proxy = Proxy(
            agent_id="mg1_proxy", actual_agent=grid_agent, broker=broker, upstream_id="system_operator"
        )
        return await proxy.step_distributed()

    report = run_virtual(main())
    assert report.missed == 2
    assert set(report.p_mw) == {"gen", "ess", "pv"}


async def test_proxies_among_themselves(broker: MessageBroker) -> None:
    """Beside those of its peers it needs to be told nothing more than is written."""
    from heron_mqtt.agents import Proxy

    acted: dict[str, Action] = {}
    await broker.subscribe("agents/+/action", lambda m: acted.update({m.channel: Action(**m)}))
    proxies = []
    for name, grid_agent in grid_agents().items():
        proxies.append(
            Proxy(
                agent_id=f"{name}_proxy",
                actual_agent=grid_agent,
                broker=broker,
                upstream_id="system_operator",
            )
        )
        await proxies[-1].start()
    await broker.publish("operators/system_operator/price", {"type": "price", "value": 55.0, **FIRST})
    for agent, load_mw in (("MG1", -0.05), ("MG2", -0.02), ("MG3", -0.1)):
        observation = {"type": "observation", "dt_s": 900.0, "p_load_mw": load_mw, **FIRST}
        await broker.publish(f"agents/{agent}/observation", observation)

    reports = await asyncio.gather(*(proxy.step_distributed() for proxy in proxies))

    assert [report.missed for report in reports] == [0, 0, 0], "they know their peers from their agents"
    async with asyncio.timeout(5):
        while len(acted) < 3:
            await asyncio.sleep(0.002)
    for proxy, report in zip(proxies, reports, strict=True):
        assert acted[f"agents/{proxy.agent.agent_id}/action"].values("p_") == report.p_mw
        await proxy.close()
