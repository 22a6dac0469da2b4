"""The faults of a scenario, which a run publishes to its emulated devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.messages import Fault
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper

if TYPE_CHECKING:
    from powergrid.scenario import Scenario


class FaultPlan:
    """Publishes each fault of a scenario before its step begins."""

    def __init__(self, scenario: Scenario, broker: MessageBroker | None) -> None:
        self._broker = broker
        self._stamper = MessageStamper("scenario", scenario.topic_env_id)
        self._faults = scenario.faults if broker is not None else []

    async def begin(self, step: int) -> None:
        """Publish the faults that begin with a step."""
        for fault in self._faults:
            if fault.at_step == step and self._broker is not None:
                agent, _, name = fault.device.rpartition("/")
                channel = topics.device(agent, name, "fault")
                told = Fault(kind=fault.kind, steps=fault.steps, value=fault.value)
                await self._broker.publish(channel, self._stamper.stamp(channel, told, step=step))
