"""The gateway at the other end of a device's wire: sends setpoints, keeps what the device says."""

from __future__ import annotations

from typing import Any

from heron_mqtt.messages import EmergencyStop, Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.stamping import MessageStamper
from support.waiting import until


class Gateway:
    """The other end of the wire: sends setpoints, keeps what the device says."""

    def __init__(self, broker: Any, env_id: str = "default") -> None:
        self.broker = broker
        self.stamper = MessageStamper("MG1", env_id)
        self.telemetry: list[dict[str, Any]] = []
        self.status: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "telemetry"), self.telemetry.append)
        broker.subscribe(topics.device("MG1", "ess", "status"), self.status.append)

    def send(self, p_mw: float, lease_s: float, *, renewal: bool = False) -> int:
        channel = topics.device("MG1", "ess", "setpoint")
        message = self.stamper.stamp(channel, Setpoint(p_mw=p_mw, lease_s=lease_s, renewal=renewal))
        self.broker.publish(channel, message)
        return int(message["seq"])

    async def ask(self, p_mw: float, lease_s: float) -> dict[str, Any]:
        """Send a setpoint and return the telemetry that acknowledges it."""
        seq = self.send(p_mw, lease_s)
        await until(lambda: any(t.get("ack_seq") == seq for t in self.telemetry), "the acknowledgement")
        return next(t for t in self.telemetry if t.get("ack_seq") == seq)

    def stop(self, active: bool) -> None:
        message = EmergencyStop(active=active, who="tests")
        self.broker.publish(topics.ESTOP, self.stamper.stamp(topics.ESTOP, message))

    def states(self) -> list[str]:
        return [s["state"] for s in self.status]
