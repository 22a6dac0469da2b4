"""One device as the gateway sees it: setpoints out, telemetry in, and whether it is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import Setpoint, Status, Telemetry, parse
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription
from heron_mqtt.messaging.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Wanted:
    """A setpoint as the agent wants it sent, already bounded by the device's limits.

    Attributes:
        p_mw: MW, positive = injected.
        q_mvar: Mvar, positive = injected.
        p_available_mw: What the source offers in this step, MW (PV); None for other kinds.
    """

    p_mw: float
    q_mvar: float = 0.0
    p_available_mw: float | None = None


class DeviceLink:
    """The gateway's end of one device.

    Args:
        agent_id: The agent that owns the device.
        device: The device's name.
        broker: Carries the messages; callbacks run in the loop that called ``open``.
        lease_s: How long a setpoint holds on the device without a newer one, wall-clock s.
        on_change: Called after every message from the device.
    """

    def __init__(
        self,
        agent_id: str,
        device: str,
        broker: MessageBroker,
        *,
        lease_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self.agent_id = agent_id
        self.device = device
        self.status: Status | None = None
        self.telemetry: Telemetry | None = None
        self._broker = broker
        self._lease_s = lease_s
        self._on_change = on_change
        self._setpoint = topics.device(agent_id, device, "setpoint")
        self._subscriptions: list[Subscription] = []
        self._sent: tuple[str, int] | None = None  # boot and seq of the newest setpoint

    async def open(self) -> None:
        """Listen to the device."""
        for leaf, callback in (("telemetry", self._on_telemetry), ("status", self._on_status)):
            channel = topics.device(self.agent_id, self.device, leaf)
            self._subscriptions.append(self._broker.subscribe(channel, callback))
        for subscription in self._subscriptions:
            await subscription

    def close(self) -> None:
        """Stop listening."""
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions.clear()

    def is_ready(self, run: str | None, episode: int | None) -> bool:
        """Whether the device is online and, if it follows episodes at all, in this one of this run."""
        status = self.status
        if status is None or status.state != "online":
            return False
        return status.run is None or (status.run, status.episode) == (run, episode)

    def send(self, wanted: Wanted, outbox: Outbox, *, dt_s: float, episode: int, step: int) -> None:
        """Publish a leased setpoint; ``answer`` then waits for the telemetry that acknowledges it."""
        message = Setpoint(
            p_mw=wanted.p_mw,
            q_mvar=wanted.q_mvar,
            lease_s=self._lease_s,
            dt_s=dt_s,
            p_available_mw=wanted.p_available_mw,
        )
        stamped = outbox.stamp(self._setpoint, message, episode=episode, step=step)
        self._sent = (outbox.boot, stamped["seq"])
        self._broker.publish(self._setpoint, stamped)

    def answer(self) -> Telemetry | None:
        """Return the telemetry that acknowledges the newest setpoint, once it is there."""
        telemetry = self.telemetry
        if telemetry is None or self._sent is None or telemetry.ack_seq is None:
            return None
        boot, seq = self._sent
        is_ours = telemetry.ack_boot in {None, boot}
        return telemetry if is_ours and telemetry.ack_seq == seq else None

    def _on_telemetry(self, message: Received) -> None:
        try:
            self.telemetry = parse(Telemetry, message)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        self._on_change()

    def _on_status(self, message: Received) -> None:
        try:
            self.status = parse(Status, message)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        self._on_change()
