"""One device as the gateway sees it: setpoints out, telemetry in, its health, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from heron_mqtt.errors import MessageError
from heron_mqtt.field.record import DeviceRecord
from heron_mqtt.field.settings import GatewayTable
from heron_mqtt.messages import Setpoint, Status, Telemetry, parse
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription
from heron_mqtt.messaging.outbox import Outbox

Health = Literal["online", "stale", "fault", "offline"]
MAX_SKEW = timedelta(minutes=5)  # NTP keeps a box within a second; minutes mean that nothing keeps it


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
        settings: When telemetry is stale, implausible or too much.
        nameplate_mw: Smallest and largest power; telemetry beyond it (and a tolerance) is refused.
        monotonic: The clock by which ages are measured, s; never the device's.
    """

    def __init__(
        self,
        agent_id: str,
        device: str,
        broker: MessageBroker,
        *,
        lease_s: float,
        on_change: Callable[[], None],
        settings: GatewayTable | None = None,
        nameplate_mw: tuple[float, float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agent_id = agent_id
        self.device = device
        self.name = f"{agent_id}/{device}"
        self.record = DeviceRecord()
        self.status: Status | None = None
        self.telemetry: Telemetry | None = None
        self._broker = broker
        self._lease_s = lease_s
        self._on_change = on_change
        self._settings = settings or GatewayTable()
        self._nameplate_mw = nameplate_mw
        self._monotonic = monotonic
        self._setpoint = topics.device(agent_id, device, "setpoint")
        self._subscriptions: list[Subscription] = []
        self._sent: tuple[str, int] | None = None  # boot and seq of the newest setpoint
        self._sent_at = 0.0
        self._given_up: tuple[str, int] | None = None
        self.expects_answer = True
        """Whether a step should wait for it: not after a setpoint without answer, until it answers again."""
        self._last: Setpoint | None = None
        self._arrived_at: float | None = None
        self._heard_at: float | None = None  # of anything, births too
        self._boots: list[str] = []
        self._reported: set[str] = set()
        self._second = (-1, 0)

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

    # -- what is known -----------------------------------------------------------------------------

    def is_ready(self, run: str | None, episode: int | None) -> bool:
        """Whether the device is online and, if it follows episodes at all, in this one of this run."""
        status = self.status
        if status is None or status.state != "online":
            return False
        return status.run is None or (status.run, status.episode) == (run, episode)

    @property
    def age_s(self) -> float | None:
        """Time since the last telemetry arrived, by our clock, s; None before the first."""
        return None if self._arrived_at is None else self._monotonic() - self._arrived_at

    @property
    def health(self) -> Health:
        """What the device says of itself, and how long it has been silent."""
        status = self.status
        if status is not None and status.state != "online":
            return status.state
        if self._heard_at is None:
            return "offline"
        silent_s = self._monotonic() - self._heard_at
        return "stale" if silent_s > self._settings.stale_after_s else "online"

    # -- setpoints ---------------------------------------------------------------------------------

    def send(self, wanted: Wanted, outbox: Outbox, *, dt_s: float, episode: int, step: int) -> None:
        """Publish a leased setpoint; ``answer`` then tells whether telemetry has acknowledged it."""
        setpoint = Setpoint(
            p_mw=wanted.p_mw,
            q_mvar=wanted.q_mvar,
            lease_s=self._lease_s,
            dt_s=dt_s,
            p_available_mw=wanted.p_available_mw,
        )
        stamped = outbox.stamp(self._setpoint, setpoint, episode=episode, step=step)
        self._sent = (outbox.boot, stamped["seq"])
        self._sent_at = self._monotonic()
        self._last = setpoint
        self.record.setpoints += 1
        self._broker.publish(self._setpoint, stamped)

    def renew(self, outbox: Outbox, *, episode: int, step: int) -> None:
        """Publish the newest setpoint again, to extend its lease and nothing else."""
        if self._last is None:
            return
        again = self._last.model_copy(update={"renewal": True})
        self._broker.publish(self._setpoint, outbox.stamp(self._setpoint, again, episode=episode, step=step))

    def forget_setpoint(self) -> None:
        """Renew no longer what was sent last."""
        self._last = self._sent = None

    def answer(self) -> Telemetry | None:
        """Return the telemetry that acknowledges the newest setpoint, once it is there."""
        telemetry = self.telemetry
        if telemetry is None or self._sent is None or telemetry.ack_seq is None:
            return None
        boot, seq = self._sent
        return telemetry if telemetry.ack_boot in {None, boot} and telemetry.ack_seq >= seq else None

    def give_up(self) -> None:
        """Wait no longer for the answer; if it still comes it is late, and the device is back."""
        self._given_up = self._sent
        self.expects_answer = False

    @property
    def waited_s(self) -> float:
        """Time since the newest setpoint was sent, s."""
        return self._monotonic() - self._sent_at

    # -- messages in -------------------------------------------------------------------------------

    def _on_telemetry(self, message: Received) -> None:
        if self._is_flood():
            return
        try:
            telemetry = parse(Telemetry, message)
            self._check(telemetry)
        except MessageError as exc:
            self.record.refused += 1
            self._broker.reject(message, exc)
            return
        answered = self.answer() is not None
        self.telemetry = telemetry
        self._arrived_at = self._heard_at = self._monotonic()
        self.record.telemetry += 1
        if telemetry.safe_after_s is not None:
            self.record.time_to_safe_s = max(self.record.time_to_safe_s or 0.0, telemetry.safe_after_s)
        if self._is_late(telemetry):
            self._given_up = None
            self.expects_answer = True
            self.record.late += 1
        elif not answered and self.answer() is not None:
            self.record.sample(self.record.round_trip_s, self.waited_s)
        self._on_change()

    def _on_status(self, message: Received) -> None:
        try:
            status = parse(Status, message)
            self._check_name(status.sender)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        self.status = status
        self.expects_answer |= status.state == "online"
        self._heard_at = self._monotonic()
        self._on_change()

    def _is_late(self, telemetry: Telemetry) -> bool:
        if self._given_up is None or telemetry.ack_seq is None:
            return False
        boot, seq = self._given_up
        return telemetry.ack_boot in {None, boot} and telemetry.ack_seq >= seq

    def _check(self, telemetry: Telemetry) -> None:
        """Refuse what cannot be this device's telemetry; report what is odd."""
        self._check_name(telemetry.sender)
        self._watch_boot(telemetry.boot)
        if self._nameplate_mw is not None:
            low, high = self._nameplate_mw
            slack = self._settings.tolerance * max(abs(low), abs(high))
            if not low - slack <= telemetry.p_mw <= high + slack:
                raise MessageError(
                    f"p_mw = {telemetry.p_mw} is outside the nameplate {low} .. {high} MW by more than "
                    f"{self._settings.tolerance:.0%}: wrong unit or sign? expected MW, positive = injected"
                )
        if telemetry.sent_at is not None and abs(datetime.now(UTC) - telemetry.sent_at) > MAX_SKEW:
            self._once(
                "skew", f"its clock says {telemetry.sent_at:%Y-%m-%d %H:%M:%SZ}; ages go by our own clock"
            )

    def _check_name(self, sender: str | None) -> None:
        if sender is not None and sender != self.name:
            raise MessageError(f"sender {sender!r} speaks on the channel of {self.name}")

    def _watch_boot(self, boot: str | None) -> None:
        """Two devices of one name take turns with two boots; one that restarts never goes back to its old."""
        if boot is None or self._boots[-1:] == [boot]:
            return
        if boot in self._boots:
            self._once("twice", "two devices speak under this name; give each its own")
            return
        self._boots = [*self._boots[-9:], boot]

    def _is_flood(self) -> bool:
        second = int(self._monotonic())
        count = self._second[1] + 1 if self._second[0] == second else 1
        self._second = (second, count)
        if count <= self._settings.max_rate_per_s:
            return False
        self.record.flooded += 1
        self._once(
            "flood", f"more than {self._settings.max_rate_per_s:g} telemetry a second; the rest is dropped"
        )
        return True

    def _once(self, kind: str, what: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._broker.stats.report("device", self.name, what)
