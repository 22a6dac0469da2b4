"""From a scenario to the proxies of its agents. Loads no network: a proxy can run on a small host."""

from __future__ import annotations

from typing import Literal

from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.messaging.base import MessageBroker
from powergrid.agents.grid_agent import GridAgent
from powergrid.scenario import Scenario

LevelWithoutHardware = Literal["simulated", "emulated"]


def emulated_devices(scenario: Scenario, agent: str, default: LevelWithoutHardware) -> tuple[str, ...]:
    """Return the devices of an agent that an emulator stands for: all that are not simulated or external."""
    devices = scenario.microgrids[agent].devices
    return tuple(
        name
        for name, table in devices.items()
        if (table.authority or default) != "simulated" and not (table.external or table.mapping)
    )


def make_proxy(
    scenario: Scenario,
    agent: str,
    broker: MessageBroker,
    *,
    env_id: str,
    devices: LevelWithoutHardware,
    take_over: bool = False,
    succession: Succession | None = None,
) -> Proxy:
    """Return the proxy of one agent, with the agent itself.

    Args:
        scenario: Decides peers, devices and deadlines.
        agent: One of its microgrids.
        broker: Carries the messages.
        env_id: The environment.
        devices: For devices whose authority the scenario leaves open.
        take_over: Displace another proxy of this agent.
        succession: Its earlier starts, whose leases it continues with; not closed here.

    Raises:
        UnsupportedFeature: Devices are not simulated, and the broker keeps no retained messages.
    """
    settings = {name: table.settings(devices) for name, table in scenario.microgrids[agent].devices.items()}
    if not broker.features.retain:  # no hardware there: those that ask for it are refused, by the gateway
        settings = {name: said for name, said in settings.items() if said.authority != "simulated"}
    return Proxy(
        f"{agent}_proxy",
        GridAgent.from_scenario(scenario, agent),
        broker,
        scenario.operator_id,
        peers=[other for other in scenario.microgrids if other != agent],
        devices=settings if broker.features.external else {},
        asks_clearance=scenario.envelope.grid_check,
        env_id=env_id,
        deadlines=scenario.deadlines,
        lease_s=scenario.lease_s,
        take_over=take_over,
        succession=succession,
    )
