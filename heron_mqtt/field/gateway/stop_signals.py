"""The emergency stop as an agent's gateway knows it: heard, kept, confirmed, and said again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from heron_mqtt.field.emergency_stop import ALWAYS, StopRegister, told_by
from heron_mqtt.messages import EmergencyStop, StopConfirm
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.messaging.subscription_group import SubscriptionGroup

log = logging.getLogger("heron_mqtt.gateway")


class StopSignals:
    """Hears stops and releases, from the broker and from devices that know of one.

    Args:
        agent_id: Owner of the devices.
        broker: Carries the messages.
        stamper: Stamps the confirmations.
        env_id: A release of another environment is none.
        on_change: Called after a stop began or ended.
    """

    def __init__(
        self,
        agent_id: str,
        broker: MessageBroker,
        stamper: MessageStamper,
        env_id: str,
        on_change: Callable[[], None],
    ) -> None:
        self._agent_id = agent_id
        self._broker = broker
        self._stamper = stamper
        self._on_change = on_change
        self._register = StopRegister(env_id)
        self._subscriptions = SubscriptionGroup(broker)

    @property
    def estop(self) -> EmergencyStop | None:
        """The emergency stop in force, if there is one."""
        return self._register.stop

    async def open(self) -> None:
        """Listen."""
        await self._subscriptions.open([(topics.ESTOP, self._on_estop)])

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._subscriptions.close()

    def hear_from(self, device: str) -> None:
        """Take it from a device that a stop is in force, where the broker has forgotten it."""
        if self._register.take_report(device) == "stopped":
            self._changed("stopped")

    def on_reconnect(self) -> None:
        """Say a stop that is known again: the broker may have lost it."""
        self._register.on_reconnect()
        if self._register.is_active:
            self._confirm()

    def _on_estop(self, message: Received) -> None:
        heard = self._register.take(message)
        if heard in {"stopped", "released"}:
            self._changed(heard)
        else:
            self._confirm()

    def _changed(self, heard: str) -> None:
        register = self._register
        what, said = ("pressed", register.stop) if heard == "stopped" else ("released", register.release)
        log.warning("%s: emergency stop %s %s", self._agent_id, what, told_by(said), extra=ALWAYS)
        self._on_change()
        self._confirm()

    def _confirm(self) -> None:
        """Say what is known of the stop; nothing but 0 is sent by the time this leaves."""
        boot, seq = self._register.identity
        told = StopConfirm(active=self._register.is_active, safe=True, stop_boot=boot, stop_seq=seq)
        channel = topics.stop_confirm(self._agent_id)
        self._broker.publish(channel, self._stamper.stamp(channel, told))
