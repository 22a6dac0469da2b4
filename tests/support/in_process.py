"""A distributed run with its emulated devices in this process: one in-memory broker for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from heron_mqtt.messaging.base import Features, MessageBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.agents.proxies import emulated_devices
from powergrid.emulators.emulator import Emulator
from powergrid.emulators.faults import FaultState
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from support.trajectories import told

Act = Callable[[MultiAgentMicrogrids, np.random.Generator], dict[str, Any]]


class OpenMemoryBroker(InMemoryBroker):
    """An in-memory broker to which emulators are connected, so that setpoints are sent."""

    features: ClassVar[Features] = Features(wildcards=True, retain=True, external=True)


def emulated_trajectory(
    scenario: Any, act: Act, wrap: Callable[[MessageBroker], MessageBroker] = lambda broker: broker
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run an episode over messages with every device emulated here.

    Args:
        scenario: A scenario's dict, or the loaded scenario.
        act: As for ``trajectories.trajectory``.
        wrap: Puts something around the broker of environment and agents.

    Returns:
        What ``trajectories.trajectory`` returns, and the devices' reports.
    """
    return asyncio.run(_run(scenario, act, wrap))


async def _run(
    scenario: Any, act: Act, wrap: Callable[[MessageBroker], MessageBroker]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    loaded = scenario_from_dict(scenario) if isinstance(scenario, dict) else scenario
    plain = loaded.scenario
    async with OpenMemoryBroker() as broker:
        outer = wrap(broker)
        if outer is not broker:
            await outer.connect()
        running = [
            asyncio.create_task(_emulator(plain, agent, name, broker).run(), name=f"{agent}/{name}")
            for agent in plain.microgrids
            for name in emulated_devices(plain, agent, "emulated")
        ]
        env = MultiAgentMicrogrids(
            {
                "scenario": loaded,
                "centralized": False,
                "message_broker": outer,
                "observation": "full",
                "devices": "emulated",
            }
        )
        rng = np.random.default_rng(11)
        try:
            observations, infos = await env.reset_async(seed=11)
            steps = [told(observations, {}, infos)]
            while env.agents:
                observations, rewards, _, _, infos = await env.step_async(act(env, rng))
                steps.append(told(observations, rewards, infos))
            return steps, env.device_reports()
        finally:
            await env.close_async()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if outer is not broker:
                await outer.close()


def _emulator(scenario: Any, agent: str, name: str, broker: MessageBroker) -> Emulator:
    table = scenario.microgrids[agent].devices[name]
    return Emulator(
        table.spec,
        table.emulator,
        FaultState(),
        agent,
        name,
        broker,
        env_id=scenario.topic_env_id,
        period_s=0.0,
    )
