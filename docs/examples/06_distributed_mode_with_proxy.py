"""A tour of distributed mode: a broker, proxies, an operator, the environment; every message is printed.

    python docs/examples/06_distributed_mode_with_proxy.py
    python docs/examples/06_distributed_mode_with_proxy.py --broker mqtt://127.0.0.1:1883

1. A broker by itself: subscribe, publish, consume.
2. One step by hand: an operator, three proxies with their agents, and what they say to each other.
3. The same inside the environment, with messages counted.
4. Centralized against distributed: equal rewards, measured step times.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from heron_mqtt.agents import Proxy, SystemOperator
from heron_mqtt.messages import Command, Observation
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.protocols.p2p import settle
from powergrid.agents import GridAgent
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import load_scenario

ENV_ID = "tour"
METADATA = {"type", "sender", "env_id", "episode", "step", "seq", "boot", "sent_at"}


@asynccontextmanager
async def open_broker(name: str) -> AsyncIterator[MessageBroker]:
    """Open the broker that ``--broker`` names."""
    if name == "memory":
        async with InMemoryBroker() as broker:
            yield broker
    elif name == "embedded":
        async with EmbeddedBroker() as server, MqttBroker(server.url, env_id=ENV_ID) as broker:
            yield broker
    else:
        async with MqttBroker(name, env_id=ENV_ID) as broker:
            yield broker


def heading(text: str) -> None:
    """Print the title of a part."""
    print(f"\n== {text}")


def show(message: Received) -> None:
    """Print one message: its channel, its type, and what it says beside the metadata."""
    said = {name: value for name, value in message.items() if name not in METADATA}
    rounded = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in said.items())
    print(f"  {message.channel:33} {message.get('type', '-'):12} {' '.join(rounded)}")


# -- 1 ------------------------------------------------------------------------------------------------


async def a_broker_by_itself(broker: MessageBroker) -> None:
    """Subscribe with a callback, publish ignored and awaited, consume."""
    heading("1. A broker: subscribe, publish, consume")
    heard: list[float] = []
    unsubscribe = broker.subscribe("control", callback=lambda message: heard.append(message["setpoint"]))
    await unsubscribe  # the subscription is in force
    broker.publish("control", {"setpoint": 1.0})  # not awaited
    await broker.publish("control", {"setpoint": 2.0})  # awaited: delivered to the broker
    first = await broker.consume("control")
    second = await broker.consume("control")
    print(f"  consumed {first['setpoint']} and {second['setpoint']}; the callback heard {heard}")
    unsubscribe()


# -- 2 ------------------------------------------------------------------------------------------------


class TalkingAgent(GridAgent):
    """A GridAgent that prints what its proxy hands to it; these calls are not messages."""

    def observe(self, observation: Observation | None, price: float | None) -> None:
        """Print, then take it."""
        assert observation is not None
        print(
            f"    -> {self.agent_id} is told: price {price} $/MWh, load {observation.p_load_mw} MW, "
            f"sun {observation.values('p_available_').get('pv', 0.0)} MW"
        )
        super().observe(observation, price)

    def decide(self, command: Command | None) -> None:
        """Print, then plan."""
        print(f"    -> {self.agent_id} {'follows a command' if command else 'follows its own policy'}")
        super().decide(command)


async def one_step_by_hand(broker: MessageBroker) -> None:
    """Let an operator and three proxies carry one step, and print every message."""
    heading("2. One step by hand: price, observations, offers, actions")
    scenario = load_scenario().scenario
    agents = list(scenario.microgrids)
    operator = SystemOperator("system_operator", agents, broker, env_id=ENV_ID, scenario="tour")
    proxies = [
        Proxy(
            agent_id=f"{agent}_proxy",
            actual_agent=TalkingAgent.from_scenario(scenario, agent),
            broker=broker,
            upstream_id="system_operator",
            peers=[peer for peer in agents if peer != agent],
            env_id=ENV_ID,
        )
        for agent in agents
    ]
    channels = ["operators/+/price", "agents/+/observation", "agents/+/command", "agents/+/action", "p2p/+/+"]
    printing = [await broker.subscribe(channel, show) for channel in channels]
    await operator.start()
    running = [asyncio.create_task(proxy.run()) for proxy in proxies]
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    await operator.begin_episode(1, seed=0, clock=now, timeout_s=10.0)

    operator.begin_step(1, 0, price=50.0, clock=now)
    operator.command("MG2", Command.model_validate({"p_gen": 0.02}))
    sun_and_load = {"MG1": (0.09, -0.04), "MG2": (0.0, -0.06), "MG3": (0.0, -0.05)}
    for agent, (sun, load) in sun_and_load.items():
        told = {"dt_s": 900.0, "p_load_mw": load, "p_available_pv": sun, "commanded": agent == "MG2"}
        operator.publish_observation(agent, Observation.model_validate(told))
    reports = await operator.gather(timeout_s=10.0)
    for trade in settle({agent: report.trades for agent, report in reports.items()}).trades:
        print(f"  settled: {trade.seller} sells {trade.mwh:.4g} MWh to {trade.buyer} at {trade.price} $/MWh")

    for task in running:
        task.cancel()
    await asyncio.wait(running)
    for proxy in proxies:
        await proxy.close()
    await operator.close()
    for unsubscribe in printing:
        unsubscribe()


# -- 3 and 4 --------------------------------------------------------------------------------------------


async def the_environment(broker: MessageBroker) -> None:
    """Take three steps over the broker and count the messages."""
    heading("3. The environment over the broker")
    counted: Counter[str] = Counter()
    unsubscribe = await broker.subscribe("#", lambda message: counted.update([message.get("type", "-")]))
    env = MultiAgentMicrogrids({"centralized": False, "message_broker": broker, "env_id": ENV_ID})
    await env.reset_async(seed=42)
    for _ in range(3):
        before = counted.copy()
        _, rewards, _, _, infos = await env.step_async({})
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted((counted - before).items()))
        print(f"  {rounded(rewards)}  missed {sum(info['missed'] for info in infos.values())}: {kinds}")
    await env.close_async()
    unsubscribe()


async def timed_episode(config: Mapping[str, Any], steps: int) -> tuple[dict[str, float], list[float]]:
    """Return each agent's sum of rewards, and the time of every step, ms."""
    env = MultiAgentMicrogrids({**config, "max_episode_steps": steps, "env_id": ENV_ID})
    await env.reset_async(seed=42)
    total = dict.fromkeys(env.agents, 0.0)
    times_ms = []
    while env.agents:
        started = time.perf_counter()
        _, rewards, _, _, _ = await env.step_async({})
        times_ms.append((time.perf_counter() - started) * 1e3)
        for agent, reward in rewards.items():
            total[agent] += reward
    await env.close_async()
    return total, times_ms


async def centralized_against_distributed(steps: int) -> None:
    """Run the same episode in each mode and compare rewards and step times."""
    heading(f"4. Centralized against distributed: {steps} steps, the same seed")
    modes: list[tuple[str, dict[str, Any]]] = [("centralized, direct calls", {"centralized": True})]
    async with open_broker("memory") as memory, open_broker("embedded") as embedded:
        modes.append(("distributed, in memory", {"centralized": False, "message_broker": memory}))
        modes.append(("distributed, embedded MQTT", {"centralized": False, "message_broker": embedded}))
        first: dict[str, float] | None = None
        for name, config in modes:
            total, times_ms = await timed_episode(config, steps)
            first = first or total
            largest = max(abs(total[agent] - first[agent]) for agent in total)
            print(
                f"  {name:27} median {statistics.median(times_ms):6.2f} ms, longest {max(times_ms):7.2f} ms, "
                f"rewards {rounded(total)}, difference {largest:.1e}"
            )


def rounded(rewards: Mapping[str, float]) -> str:
    """Return rewards as text."""
    return " ".join(f"{agent} {reward:+.3f}" for agent, reward in rewards.items())


async def tour(broker_name: str, steps: int) -> None:
    """Go through all four parts."""
    async with open_broker(broker_name) as broker:
        await a_broker_by_itself(broker)
        await one_step_by_hand(broker)
        await the_environment(broker)
    await centralized_against_distributed(steps)


def main() -> None:
    """Read the arguments and start."""
    parser = argparse.ArgumentParser(description="A tour of distributed mode.")
    parser.add_argument("--broker", default="memory", help="memory, embedded or mqtt://host:port")
    parser.add_argument("--steps", type=int, default=96, help="steps of the comparison in part 4")
    options = parser.parse_args()
    asyncio.run(tour(options.broker, options.steps))


if __name__ == "__main__":
    main()
