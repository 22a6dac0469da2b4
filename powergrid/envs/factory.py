"""From a scenario to the operator and proxies of a distributed run."""

from __future__ import annotations

from typing import Literal

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.messaging.base import MessageBroker
from powergrid.agents import GridAgent
from powergrid.envs.exchange import BrokerExchange
from powergrid.scenario import Scenario

Authority = Literal["simulated", "emulated"]


def emulated_devices(scenario: Scenario, agent: str, default: Authority) -> tuple[str, ...]:
    """Return the devices of an agent that are reached over the broker."""
    devices = scenario.microgrids[agent].devices
    return tuple(name for name, table in devices.items() if (table.authority or default) == "emulated")


def make_proxy(
    scenario: Scenario, agent: str, broker: MessageBroker, *, env_id: str, devices: Authority
) -> Proxy:
    """Return the proxy of one agent, with the agent itself.

    Args:
        scenario: Decides peers, devices and deadlines.
        agent: One of its microgrids.
        broker: Carries the messages.
        env_id: The environment.
        devices: For devices whose authority the scenario leaves open.
    """
    return Proxy(
        f"{agent}_proxy",
        GridAgent.from_scenario(scenario, agent),
        broker,
        scenario.operator_id,
        peers=[other for other in scenario.microgrids if other != agent],
        devices=emulated_devices(scenario, agent, devices),
        env_id=env_id,
        deadlines=scenario.deadlines,
        lease_s=scenario.lease_s,
    )


def make_broker_exchange(
    scenario: Scenario, broker: MessageBroker, *, env_id: str, devices: Authority
) -> BrokerExchange:
    """Return the operator and the proxies of all agents that are not remote."""
    operator = SystemOperator(
        scenario.operator_id, scenario.microgrids, broker, env_id=env_id, scenario=scenario.name
    )
    local = [agent for agent, table in scenario.microgrids.items() if not table.remote]
    return BrokerExchange(
        operator,
        [make_proxy(scenario, agent, broker, env_id=env_id, devices=devices) for agent in local],
        action_s=scenario.deadlines.action_s,
        ready_s=scenario.deadlines.ready_s,
    )
