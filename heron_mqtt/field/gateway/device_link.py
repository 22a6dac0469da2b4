"""One device as the gateway sees it: setpoints out, telemetry in, its health, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.device_stats import DeviceStats
from heron_mqtt.field.gateway.plausibility import Plausibility
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messages import Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription
from heron_mqtt.messaging.stamping import MessageStamper, utc_now

Health = Literal["online", "stale", "fault", "offline"]

SPEAKS = 2  # telemetry since the first setpoint without answer; a single one may be an old one, late


@dataclass(frozen=True, slots=True)
class SetpointRequest:
    """A setpoint as the agent wants it sent, already bounded by the device's limits.

    Attributes:
        p_mw: MW, positive = injected.
        q_mvar: Mvar, positive = injected.
        p_available_mw: What the source offers in this step, MW (PV); None for other kinds.
    """

    p_mw: float
    q_mvar: float = 0.0
    p_available_mw: float | None = None

    def zero(self) -> SetpointRequest:
        """Return the setpoint of no power."""
        return SetpointRequest(0.0, 0.0, self.p_available_mw)


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
        s_max_mva: Apparent power; reactive power beyond it (and a tolerance) is refused.
        monotonic: The clock by which ages are measured, s; never the device's.
        now: The time of day, UTC, to which the device's clock is compared.
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
        s_max_mva: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.agent_id = agent_id
        self.device = device
        self.name = f"{agent_id}/{device}"
        self.stats = DeviceStats()
        self.status: Status | None = None
        self.telemetry: Telemetry | None = None
        self._broker = broker
        self._lease_s = lease_s
        self._on_change = on_change
        self._settings = settings or GatewayTable()
        self._monotonic = monotonic
        self._setpoint = topics.device(agent_id, device, "setpoint")
        self._telemetry = topics.device(agent_id, device, "telemetry")
        self._subscriptions: list[Subscription] = []
        self._sent: tuple[str, int] | None = None  # boot and seq of the newest setpoint
        self._sent_at = 0.0
        self.round_trip_s: float | None = None
        """From the newest setpoint to its answer; None = not answered (yet)."""
        self._newest_seq = -1  # of setpoints and renewals
        self._given_up: tuple[str, int] | None = None
        self.expects_answer = True
        """Whether a step should wait for it: not after a setpoint without answer, until it answers again."""
        self._last: Setpoint | None = None
        self._arrived_at: float | None = None
        self._refused_at: float | None = None
        self._unanswered_since: float | None = None
        self._heard_unanswered = 0  # telemetry since then
        self._watched_since: float | None = None
        self._heard_at: float | None = None  # of anything, births too
        self._plausible = Plausibility(
            self.name,
            self._settings,
            nameplate_mw=nameplate_mw,
            s_max_mva=s_max_mva,
            tell=lambda what: broker.stats.report("device", self.name, what),
            monotonic=monotonic,
            now=now,
        )

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
    def is_fresh(self) -> bool:
        """Whether the last telemetry is younger than ``stale_after_s``."""
        age_s = self.age_s
        return age_s is not None and age_s <= self._settings.stale_after_s

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

    def send(
        self, wanted: SetpointRequest, stamper: MessageStamper, *, dt_s: float, episode: int, step: int
    ) -> None:
        """Publish a leased setpoint; ``answer`` then tells whether telemetry has acknowledged it."""
        setpoint = Setpoint(
            p_mw=wanted.p_mw,
            q_mvar=wanted.q_mvar,
            lease_s=self._lease_s,
            dt_s=dt_s,
            p_available_mw=wanted.p_available_mw,
        )
        stamped = stamper.stamp(self._setpoint, setpoint, episode=episode, step=step)
        self._sent = (stamper.boot, stamped["seq"])
        self._newest_seq = stamped["seq"]
        self._sent_at = self._monotonic()
        self.round_trip_s = None
        if self._unanswered_since is None:
            self._heard_unanswered = 0
        self._last = setpoint
        self.stats.setpoints += 1
        self._plausible.asked()
        self._broker.publish(self._setpoint, stamped)

    def renew(self, stamper: MessageStamper, *, episode: int, step: int) -> None:
        """Publish the newest setpoint again, to extend its lease and nothing else."""
        if self._last is None:
            return
        again = self._last.model_copy(update={"renewal": True})
        stamped = stamper.stamp(self._setpoint, again, episode=episode, step=step)
        self._newest_seq = stamped["seq"]
        self._broker.publish(self._setpoint, stamped)

    def forget_setpoint(self) -> None:
        """Renew no longer what was sent last: its lease runs out and the device goes safe by itself."""
        self._last = None

    def answer(self) -> Telemetry | None:
        """Return the telemetry that acknowledges the newest setpoint, once it is there."""
        telemetry = self.telemetry
        return telemetry if telemetry is not None and self._acknowledges(telemetry, self._sent) else None

    def unacknowledged(self) -> Telemetry | None:
        """Return what a device measures that takes no setpoints (or does not say so), while it is fresh.

        What a device said before it fell silent tells nothing of now, and one message may have been on
        its way for long: telemetry counts for the step in which it came, and for longer only if the
        device has spoken repeatedly since its first setpoint without answer.
        """
        if self._arrived_at is None or not self.is_fresh or self.health != "online":
            return None
        goes_on = self._arrived_at > self._sent_at or self._heard_unanswered >= SPEAKS
        return self.telemetry if goes_on else None

    def give_up(self) -> None:
        """Wait no longer for the answer; if it still comes it is late, and the device is back."""
        self._given_up = self._sent
        self.expects_answer = False
        if self._unanswered_since is None:
            self._unanswered_since = self._sent_at

    def watch(self) -> None:
        """Name, once, a device that has never been heard, or that never acknowledges; call it every step."""
        now, limit_s = self._monotonic(), self._settings.stale_after_s
        if self._watched_since is None:
            self._watched_since = now
        if self.telemetry is None:
            if now - self._watched_since > limit_s:
                self._plausible.once(
                    "no_data",
                    f"nothing to use has come on {self._telemetry} for {limit_s:g} s: is the device there, "
                    "does it publish on this topic, does its mapping match what it says?",
                )
        elif (
            self._unanswered_since is not None
            and now - self._unanswered_since > limit_s
            and self.unacknowledged() is not None
        ):
            self._plausible.once(
                "no_ack",
                f"it measures but has acknowledged no setpoint for {limit_s:g} s: does it listen on "
                f"{self._setpoint}, and say ack_seq? what it measures is used meanwhile",
            )

    @property
    def waited_s(self) -> float:
        """Time since the newest setpoint was sent, s."""
        return self._monotonic() - self._sent_at

    @property
    def was_refused(self) -> bool:
        """Whether telemetry that came since the newest setpoint was refused."""
        return self._refused_at is not None and self._refused_at >= self._sent_at

    def _answered(self) -> None:
        self._unanswered_since = None

    def _acknowledges(self, telemetry: Telemetry, setpoint: tuple[str, int] | None) -> bool:
        """Whether telemetry answers a setpoint or one after it, but none that was never sent."""
        if setpoint is None or telemetry.ack_seq is None:
            return False
        boot, seq = setpoint
        return telemetry.ack_boot in {None, boot} and seq <= telemetry.ack_seq <= self._newest_seq

    # -- messages in -------------------------------------------------------------------------------

    def _on_telemetry(self, message: Received) -> None:
        if self._plausible.is_flood():
            self.stats.flooded += 1
            return
        if message.retained:
            self._plausible.once(
                "retained",
                f"telemetry on {self._telemetry} is retained: nobody knows its age, it is not used",
            )
            return
        try:
            telemetry = message.parse(Telemetry)
            self._plausible.check_telemetry(telemetry)
        except MessageError as exc:
            self._refused_at = self._monotonic()
            self.stats.refused += 1
            self._broker.reject(message, exc)
            return
        answered = self.answer() is not None
        self.telemetry = telemetry
        self._arrived_at = self._heard_at = self._monotonic()
        self.stats.telemetry += 1
        self._heard_unanswered += 1
        if telemetry.safe_after_s is not None:
            self.stats.time_to_safe_s = max(self.stats.time_to_safe_s or 0.0, telemetry.safe_after_s)
        if self._given_up is not None and self._acknowledges(telemetry, self._given_up):
            self._given_up = None
            self.expects_answer = True
            self._answered()
            self.stats.late += 1
        elif not answered and self.answer() is not None:
            self._answered()
            self.round_trip_s = self.waited_s
            self.stats.sample(self.stats.round_trip_s, self.round_trip_s)
        self._on_change()

    def _on_status(self, message: Received) -> None:
        try:
            status = message.parse(Status)
            self._plausible.check_birth(status)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        self.status = status
        self.expects_answer |= status.state == "online"
        self._heard_at = self._monotonic()
        self._on_change()
