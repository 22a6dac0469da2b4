"""Agents on the wire: the proxy that carries one agent's messages, and the operator above them.

Each is imported when it is first asked for: a device script needs a scenario's deadlines, and no gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.names_on_demand import on_demand

if TYPE_CHECKING:
    from heron_mqtt.agents.base import Agent, StepReport
    from heron_mqtt.agents.deadlines import Deadlines
    from heron_mqtt.agents.operator import SystemOperator
    from heron_mqtt.agents.proxy import Proxy

__all__ = ["Agent", "Deadlines", "Proxy", "StepReport", "SystemOperator"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Agent": "heron_mqtt.agents.base",
        "Deadlines": "heron_mqtt.agents.deadlines",
        "Proxy": "heron_mqtt.agents.proxy",
        "StepReport": "heron_mqtt.agents.base",
        "SystemOperator": "heron_mqtt.agents.operator",
    },
)
