"""Agents on the wire: the proxy that carries one agent's messages, and the operator above them."""

from heron_mqtt.agents.base import Agent, StepReport
from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.proxy import Proxy

__all__ = ["Agent", "Deadlines", "Proxy", "StepReport", "SystemOperator"]
