"""What stops an agent's devices from outside the step: the emergency stop, and the end of the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.messages import EmergencyStop, RunState
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription

log = logging.getLogger("heron_mqtt.gateway")


class StopSignals:
    """Hears both, and lets no lease be renewed any more.

    Args:
        agent_id: Owner of the devices.
        broker: Carries the messages.
        links: The devices, by name.
        notify: Called after an emergency stop was pressed or released.
    """

    def __init__(
        self,
        agent_id: str,
        broker: MessageBroker,
        links: Mapping[str, DeviceLink],
        notify: Callable[[], None],
    ) -> None:
        self.estop: EmergencyStop | None = None
        """The emergency stop in force, if there is one."""
        self._agent_id = agent_id
        self._broker = broker
        self._links = links
        self._notify = notify
        self._subscriptions: list[Subscription] = []

    async def open(self) -> None:
        """Listen."""
        self._subscriptions.append(self._broker.subscribe(topics.ESTOP, self._on_estop))
        if self._links:
            self._subscriptions.append(self._broker.subscribe(topics.RUN_STATE, self._on_run_state))
        for subscription in self._subscriptions:
            await subscription

    def close(self) -> None:
        """Stop listening. Idempotent."""
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions.clear()

    def _on_estop(self, message: Received) -> None:
        stop = self._broker.parsed(message, EmergencyStop)
        if stop is None:
            return
        self.estop = stop if stop.active else None
        log.warning(
            "%s: emergency stop %s by %s: %s",
            self._agent_id,
            "pressed" if stop.active else "released",
            stop.who or "unknown",
            stop.why or "no reason given",
        )
        if stop.active:
            self._forget_setpoints()  # the devices hear the stop themselves; nothing must be renewed
        self._notify()

    def _on_run_state(self, message: Received) -> None:
        """Renew nothing any more once the run is over: devices must not hold what nobody watches."""
        state = self._broker.parsed(message, RunState)
        if state is None:
            return
        if state.state in {"lost", "finished"} and not message.retained:
            self._forget_setpoints()

    def _forget_setpoints(self) -> None:
        for link in self._links.values():
            link.forget_setpoint()
