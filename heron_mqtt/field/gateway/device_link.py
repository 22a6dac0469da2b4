"""One device as the gateway sees it: setpoints out, telemetry in, its health, and what is wrong with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.acknowledgements import Acknowledgements
from heron_mqtt.field.gateway.device_lives import DeviceLives
from heron_mqtt.field.gateway.device_stats import DeviceStats
from heron_mqtt.field.gateway.hand_back import HandBack, Unreturned
from heron_mqtt.field.gateway.lease_taking import LeaseTaking
from heron_mqtt.field.gateway.mapping_hint import MappingHint
from heron_mqtt.field.gateway.plausibility import Plausibility
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.messages import LeaseState, Setpoint, Status, Telemetry, fields_of
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.stamping import MessageStamper, utc_now
from heron_mqtt.messaging.subscription_group import SubscriptionGroup
from heron_mqtt.named_tuples import make_tuple

Health = Literal["online", "stale", "fault", "offline"]

SAME_MEASUREMENT_S = 0.05  # what is repeated says its age anew, to a millisecond and what the way took


@dataclass(frozen=True, slots=True)
class SetpointRequest:
    """A setpoint as the agent wants it sent, already bounded by the device's limits.

    Attributes:
        p_mw: MW, positive = injected.
        q_mvar: Mvar, positive = injected.
        p_available_mw: What the source offers in this step, MW (PV); None for other kinds.
        asked_p_mw: What was asked for before the device's state bounded it, MW; None = the same.
        reach_mw: As far as sun or demand let the device go in this step, MW; None = as far as it is told.
    """

    p_mw: float
    q_mvar: float = 0.0
    p_available_mw: float | None = None
    asked_p_mw: float | None = None
    reach_mw: float | None = None

    def zero(self) -> SetpointRequest:
        """Return the setpoint of no power."""
        return SetpointRequest(0.0, 0.0, self.p_available_mw, reach_mw=self.reach_mw)


class _SentLease(NamedTuple):
    """What was sent last, and when its lease ends by our clock, s.

    A device that counts from the telemetry that is echoed ends it a little earlier, one that counts from the
    arrival a little later.
    """

    setpoint: Setpoint
    ends_at: float


class DeviceLink:
    """The gateway's end of one device.

    Args:
        agent_id: The agent that owns the device.
        device: The device's name.
        broker: Carries the messages; callbacks run in the loop that called ``open``.
        env_id: What names another environment is refused.
        lease_s: How long a setpoint holds on the device without a newer one, wall-clock s.
        on_change: Called after every message from the device.
        settings: When telemetry is stale, implausible or too much.
        nameplate_mw: Smallest and largest power; telemetry beyond it (and a tolerance) is refused.
        s_max_mva: Apparent power; reactive power beyond it (and a tolerance) is refused.
        kind: What the scenario says it is; a birth that says another kind is sent nothing. None = not known.
        take_over: Displace another holder of the device's lease, with the first setpoint.
        predecessors: Boots of earlier starts of this gateway, all dead: their lease is taken, too.
        monotonic: The clock by which ages are measured, s; never the device's.
        now: The time of day, UTC, to which the device's clock is compared.
    """

    __slots__ = (
        "__dict__",
        # what each telemetry touches, side by side: with thousands of devices it has left the cache meanwhile
        "_acks",
        "_answer",
        "_arrived_at",
        "_env_id",
        "_heard_at",
        "_lives",
        "_measured_at",
        "_monotonic",
        "_on_change",
        "_plausible",
        "awaits_rebirth_telemetry",
        "measurements",
        "plausible_in_a_row",
        "says_stopped",
        "stats",
        "telemetry",
    )

    def __init__(
        self,
        agent_id: str,
        device: str,
        broker: MessageBroker,
        *,
        env_id: str = "default",
        lease_s: float,
        on_change: Callable[[], None],
        settings: GatewayTable | None = None,
        nameplate_mw: tuple[float, float] | None = None,
        s_max_mva: float | None = None,
        kind: str | None = None,
        take_over: bool = False,
        predecessors: frozenset[str] = frozenset(),
        monotonic: Callable[[], float] = steady_s,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.agent_id = agent_id
        self.device = device
        self.name = f"{agent_id}/{device}"
        self.stats = DeviceStats()
        self.telemetry: Telemetry | None = None
        self._broker = broker
        self._lease_s = lease_s
        self._on_change = on_change
        self._settings = settings or GatewayTable()
        self._monotonic = monotonic
        self._setpoint = topics.device(agent_id, device, "setpoint")
        self._telemetry = topics.device(agent_id, device, "telemetry")
        self._subscriptions = SubscriptionGroup(broker)
        self._acks = Acknowledgements()
        self._answer: Telemetry | None = None  # to the newest setpoint, if the newest telemetry is one
        self._lease: _SentLease | None = None
        self._arrived_at: float | None = None
        self._refused_at: float | None = None
        self._watched_since: float | None = None
        self._heard_at: float | None = None  # of anything, births too
        self.awaits_rebirth_telemetry = False
        """Whether it was born again and has not said since what it does: no setpoint until it has."""
        self.measurements = 0
        """Measurements heard; one that is only repeated counts once."""
        self._measured_at = -math.inf
        self._measures_every_s = self._shows_after_s = 0.0
        self.plausible_in_a_row = 0
        """New telemetry without anything wrong in it, since the last that was, or since a new birth."""
        self.says_stopped = False
        """Whether the device knows of an emergency stop."""
        self._reseed_due = False
        self._hears_lease = self._is_lease_free = False
        self.hand_back = HandBack(nameplate_mw or (0.0, 0.0))
        """Whether it was driven, and shows since that it was let go."""
        self._hint = MappingHint(max(map(abs, nameplate_mw or (0.0,))))
        self._taking = LeaseTaking(agent_id, from_anybody=take_over, predecessors=predecessors)
        self._env_id = env_id
        self._plausible = Plausibility(
            self.name,
            self._settings,
            nameplate_mw=nameplate_mw,
            s_max_mva=s_max_mva,
            tell=lambda what: broker.stats.report("device", self.name, what),
            monotonic=monotonic,
            now=now,
        )
        self._lives = DeviceLives(
            agent_id,
            device,
            broker,
            env_id=env_id,
            kind=kind,
            subscriptions=self._subscriptions,
            plausible=self._plausible,
            on_new_life=self._begin_life,
            on_change=on_change,
        )

    async def open(self) -> None:
        """Listen to the device."""
        channels = [
            (self.telemetry_channel, self._on_telemetry),
            (self.status_channel, self._on_status),
        ]
        await self._subscriptions.open(channels)
        if self._taking.depends_on_holder:
            await self.hear_lease()

    async def hear_lease(self) -> None:
        """Listen to what the device says of its lease, if that is not done yet; the broker keeps it."""
        if not self._hears_lease:
            self._hears_lease = True
            channel = topics.device(self.agent_id, self.device, "lease")
            await self._subscriptions.open([(channel, self._on_lease)])

    def on_reconnect(self) -> None:
        """What the broker tells of the device now is news again: its will may have been sent meanwhile."""
        self._lives.on_reconnect()

    def close(self) -> None:
        """Stop listening."""
        self._lives.close()
        self._subscriptions.close()

    # -- what is known -----------------------------------------------------------------------------

    @property
    def status(self) -> Status | None:
        """What the device has said of itself last; None = nothing."""
        return self._lives.status

    @property
    def reborn(self) -> int:
        """How often it was born again."""
        return self._lives.reborn

    @property
    def status_channel(self) -> str:
        """Where its birth is expected."""
        return topics.device(self.agent_id, self.device, "status")

    @property
    def telemetry_channel(self) -> str:
        """Where its telemetry is expected."""
        return self._telemetry

    @property
    def status_topic(self) -> str:
        """The whole topic of its birth; for messages."""
        return self._broker.topic_of(self.status_channel)

    @property
    def telemetry_topic(self) -> str:
        """The whole topic of its telemetry; for messages."""
        return self._broker.topic_of(self._telemetry)

    @property
    def is_born(self) -> bool:
        """Whether the device has said of itself that it is online."""
        return self.status is not None and self.status.state == "online"

    @property
    def was_heard(self) -> bool:
        """Whether anything usable has come from it, live."""
        return self.stats.telemetry > 0 or (self.is_born and self._lives.has_live_status)

    def waits_for(self, wanted: int) -> str:
        """Say what lacks before the device counts as proven by ``wanted`` messages; for people."""
        if self.telemetry is None:
            return f"nothing on {self.telemetry_topic}"
        if not self.is_born:
            return f"no birth on {self.status_topic}, retained"
        if self.health != "online":
            return f"it is {self.health}"
        return f"{self.plausible_in_a_row} of {wanted} plausible messages in a row on {self.telemetry_topic}"

    def takes_up_again(self) -> bool:
        """Whether the device has measured for the first time since it was born again; tells it once."""
        due, self._reseed_due = self._reseed_due and self.telemetry is not None, False
        return due

    def is_ready(self, run: str | None, episode: int | None) -> bool:
        """Whether the device is online and, if it follows episodes at all, in this one of this run."""
        status = self._lives.status
        if status is None or status.state != "online":
            return False
        return status.run is None or (status.run, status.episode) == (run, episode)

    @property
    def age_s(self) -> float | None:
        """Age of the last measurement, by our clock, s; None before the first.

        Time since it arrived, and what the device said of its age then.
        """
        return None if self._arrived_at is None else self._monotonic() - self._measured_at

    @property
    def shows_within_s(self) -> float:
        """How long a change at the device may take to be told here, as it has measured last, s.

        The time between its last two measurements, and how old the last one was when it came; 0 = not known.
        """
        return self._measures_every_s + self._shows_after_s

    @property
    def is_fresh(self) -> bool:
        """Whether the last telemetry is younger than ``stale_after_s``."""
        age_s = self.age_s
        return age_s is not None and age_s <= self._settings.stale_after_s

    @property
    def health(self) -> Health:
        """What the device says of itself, how long it has been silent, and whether it is one device."""
        status = self._lives.status
        if status is not None and status.state != "online":
            return status.state
        if self._plausible.is_contested:
            return "fault"
        if self._heard_at is None:
            return "offline"
        silent_s = self._monotonic() - self._heard_at
        return "stale" if silent_s > self._settings.stale_after_s else "online"

    # -- setpoints ---------------------------------------------------------------------------------

    @property
    def can_prove_age(self) -> bool:
        """Whether the device numbers its telemetry, so that setpoints can echo it."""
        return self._lives.echo is not None

    @property
    def why_not_sent(self) -> str | None:
        """Why no setpoint may go to the device now; None = one may.

        A device without telemetry within the last lease gets no setpoint: the echo would be older than the
        lease. A device whose telemetry cannot be echoed gets none on the basis of older telemetry, either.
        """
        health = self.health
        is_contested = health in {"offline", "fault"} and self._plausible.is_contested
        if health in {"offline", "fault"} and not is_contested:
            return f"device {health}"
        if self._lives.wrong_kind is not None:
            return self._lives.wrong_kind
        if is_contested:
            return "two devices publish under this name"
        if self.awaits_rebirth_telemetry:
            return "device has not measured since it was born again"
        age_s = self.age_s
        if age_s is None:
            return "device has not measured anything yet"
        if age_s > self._lease_s:
            return f"device silent for {age_s:.3g} s, longer than its lease"
        return None

    def send(
        self,
        wanted: SetpointRequest,
        stamper: MessageStamper,
        *,
        lease_s: float,
        dt_s: float,
        episode: int,
        step: int,
    ) -> None:
        """Publish a leased setpoint; ``answer`` then tells whether telemetry has acknowledged it.

        Args:
            wanted: What to send, bounded.
            stamper: Stamps it.
            lease_s: How long it holds on the device, wall-clock s.
            dt_s: Length of the step, s.
            episode: Under way.
            step: Under way.
        """
        setpoint = Setpoint(
            p_mw=wanted.p_mw,
            q_mvar=wanted.q_mvar,
            lease_s=lease_s,
            dt_s=dt_s,
            p_available_mw=wanted.p_available_mw,
        )
        now_s = self._monotonic()
        self._lease = make_tuple(_SentLease, (setpoint, now_s + lease_s))
        takes = {"take_over": True} if self._taking.may_displace(self._lives.boot) else {}
        stamped = self._stamped(setpoint, stamper, episode, step, **takes)
        self._acks.note_sent(stamper.boot, stamped["seq"], now_s)
        self._answer = None
        self.stats.setpoints += 1
        self.hand_back.note_setpoint((stamper.boot, stamped["seq"]))
        self._plausible.asked()
        self._publish(stamped, lease_s)

    def renew(self, stamper: MessageStamper, *, lease_s: float, episode: int, step: int) -> None:
        """Publish the newest setpoint again, to extend a lease that runs and nothing else."""
        if self._lease is None or not self.holds_setpoint:
            return
        sent, ends_at = self._lease
        self._lease = _SentLease(sent, max(ends_at, self._monotonic() + lease_s))
        stamped = self._stamped(sent, stamper, episode, step, renewal=True, lease_s=lease_s)
        self._publish(stamped, lease_s)

    def release(self, stamper: MessageStamper) -> None:
        """Give the lease back, if setpoints were sent: the device goes to its safe state now."""
        if self._lease is not None:
            self._lease = None
            self.release_again(stamper)

    def release_again(self, stamper: MessageStamper) -> None:
        """Publish a release: the one before may be lost. It changes nothing where the lease is not ours."""
        back = Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=self._lease_s, release=True)
        stamped = self._stamped(back, stamper, None, None)
        self.hand_back.note_end((stamper.boot, stamped["seq"]))
        self._publish(stamped, self._lease_s)

    def forget_setpoint(self) -> None:
        """Renew no longer what was sent last: its lease runs out and the device goes safe by itself."""
        self._lease = None
        self.hand_back.note_end()

    @property
    def is_to_be_handed_back(self) -> bool:
        """Whether it was driven and does not show that it was let go.

        One whose program has ended shows it by its lease: after a kill that is still held.
        """
        return self.hand_back.is_due and not (self.is_offline and self._is_lease_free)

    @property
    def is_offline(self) -> bool:
        """Whether its program has ended, or its connection was lost."""
        return self.status is not None and self.status.state == "offline"

    @property
    def unreturned(self) -> Unreturned | None:
        """What is wrong with a device that was driven and let go; None = nothing."""
        status = self.status
        return self.hand_back.unreturned(
            None if status is None else status.state, None if status is None else status.reason
        )

    @property
    def holds_setpoint(self) -> bool:
        """Whether something was sent that is still to be renewed: a lease that is over is not."""
        return self._lease is not None and self._monotonic() < self._lease.ends_at

    def _stamped(
        self,
        setpoint: Setpoint,
        stamper: MessageStamper,
        episode: int | None,
        step: int | None,
        **changed: float | bool,
    ) -> dict[str, Any]:
        """Return a setpoint as it is published: with the echo of the newest telemetry, and numbered.

        Args:
            setpoint: Checked.
            stamper: Stamps it.
            episode: Under way.
            step: Under way.
            changed: Fields that are said otherwise this time.
        """
        fields = fields_of(setpoint)
        fields.update(changed)
        if (echo := self._lives.echo) is not None:
            fields["heard_boot"], fields["heard_seq"] = echo
        stamped = stamper.stamp(self._setpoint, fields, episode=episode, step=step)
        self._acks.note_number(stamped["seq"])
        return stamped

    def _publish(self, stamped: dict[str, Any], lease_s: float) -> None:
        """Publish within the lease or never."""
        not_after = (running_loop() or asyncio.get_running_loop()).time() + lease_s
        self._broker.publish(self._setpoint, stamped, not_after=not_after)

    def answer(self) -> Telemetry | None:
        """Return the telemetry that acknowledges the newest setpoint, once it is there."""
        return self._answer

    def unacknowledged(self) -> Telemetry | None:
        """Return what a device measures that takes no setpoints (or does not say so), while it is fresh."""
        if self._arrived_at is None or not self.is_fresh or self.health != "online":
            return None
        return self.telemetry if self._acks.is_of_now(self._arrived_at) else None

    def compare(self, told_mw: float, measured_mw: float) -> None:
        """Name, once, a device that does the opposite of what it is told, or another order of magnitude."""
        if (hint := self._hint.compare(told_mw, measured_mw)) is not None:
            self._plausible.once("mapping", hint)

    def give_up(self) -> None:
        """Wait no longer for the answer; if it still comes it is late, and the device is back."""
        self._acks.give_up()

    def watch(self) -> None:
        """Name, once, a device that has never been heard, or that never acknowledges; call it every step."""
        now, limit_s = self._monotonic(), self._settings.stale_after_s
        unanswered_since = self._acks.unanswered_since
        if self._watched_since is None:
            self._watched_since = now
        if self.telemetry is None:
            if now - self._watched_since > limit_s:
                self._plausible.once(
                    "no_data",
                    f"no usable message on {self.telemetry_topic} for {limit_s:g} s: is the device "
                    "there, does it publish on this topic, does its mapping match its messages?",
                )
        elif (
            unanswered_since is not None
            and now - unanswered_since > limit_s
            and self.unacknowledged() is not None
        ):
            self._plausible.once(
                "no_ack",
                f"it measures but has acknowledged no setpoint for {limit_s:g} s: does it subscribe to "
                f"{self._broker.topic_of(self._setpoint)}, and publish ack_seq? its measurements are used "
                "meanwhile",
            )

    @property
    def expects_answer(self) -> bool:
        """Whether a step should wait for it: not after a setpoint without answer, until it answers again."""
        return self._acks.is_expected

    @property
    def round_trip_s(self) -> float | None:
        """From the newest setpoint to its answer, s; None = not answered (yet)."""
        return self._acks.round_trip_s

    @property
    def waited_s(self) -> float:
        """Time since the newest setpoint was sent, s."""
        return self._monotonic() - self._acks.sent_at

    @property
    def was_refused(self) -> bool:
        """Whether telemetry that came since the newest setpoint was refused."""
        return self._refused_at is not None and self._refused_at >= self._acks.sent_at

    # -- messages in -------------------------------------------------------------------------------

    def _on_telemetry(self, message: Received) -> None:
        if message.late or message.get("held_s") is not None:
            self.stats.held += 1  # it tells what was, for records: nothing is decided by it
            return
        now_s, plausible = self._monotonic(), self._plausible
        if plausible.is_flood(now_s):
            self.stats.flooded += 1
            return
        if message.retained:
            self.stats.refused += 1
            plausible.once(
                "retained",
                f"telemetry on {self.telemetry_topic} is retained: its age is unknown, it is not used",
            )
            return
        try:
            telemetry, left_out = message.parse_known_fields(Telemetry)
            if telemetry.env_id != self._env_id and telemetry.env_id is not None:
                raise MessageError(f"telemetry of environment {telemetry.env_id!r}, not of {self._env_id!r}")
            plausible.check_telemetry(telemetry)
        except MessageError as exc:
            self._refused_at = now_s
            self.stats.refused += 1
            self.plausible_in_a_row = 0
            self._broker.reject(message, exc)
            return
        if left_out:
            plausible.once(left_out, f"telemetry: {left_out}")
        if not self._lives.take_telemetry(telemetry.boot, telemetry.seq):
            self.stats.refused += 1
            return
        if self.awaits_rebirth_telemetry:
            self._reseed_due, self.awaits_rebirth_telemetry = True, False
        age_s = telemetry.age_s
        measured_at = now_s if age_s is None else now_s - age_s
        if age_s is None or measured_at > self._measured_at + SAME_MEASUREMENT_S:
            self.measurements += 1
            self.plausible_in_a_row += 1
            if self.measurements > 1:
                self._measures_every_s = measured_at - self._measured_at
            self._measured_at = measured_at
            self._shows_after_s = age_s or 0.0
        self.says_stopped = telemetry.stopped is True
        self.telemetry = telemetry
        self._arrived_at = self._heard_at = now_s
        self.stats.telemetry += 1
        self.hand_back.note_telemetry(telemetry)
        acks = self._acks
        acks.heard_unanswered += 1
        if telemetry.safe_after_s is not None:
            longest_s = self.stats.time_to_safe_s
            safe_after_s = telemetry.safe_after_s
            self.stats.time_to_safe_s = safe_after_s if longest_s is None else max(longest_s, safe_after_s)
        if acks.newest is not None:
            self._take_answer(acks, telemetry)
        self._on_change()

    def _take_answer(self, acks: Acknowledgements, telemetry: Telemetry) -> None:
        """See whether telemetry answers the newest setpoint, which the one before may have done already."""
        before, self._answer = self._answer, telemetry if acks.is_answer(telemetry) else None
        if self._answer is not None and telemetry.rejected is None:
            self._taking.is_ours()
        if acks.note_late_answer(telemetry):
            self.stats.late += 1
        elif self._answer is not None and before is None:
            self.stats.sample(self.stats.round_trip_s, acks.note_answer(self._monotonic()))

    def _on_status(self, message: Received) -> None:
        try:
            status, left_out = message.parse_known_fields(Status)
            if status.env_id not in {None, self._env_id}:
                raise MessageError(f"status of environment {status.env_id!r}, not of {self._env_id!r}")
            self._plausible.check_birth(status)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        if left_out:
            self._plausible.once(left_out, f"status: {left_out}")
        if not self._lives.take_status(status, retained=message.retained):
            return
        if status.state != "online":
            self.plausible_in_a_row = 0
        self.says_stopped = status.stopped is True
        self._acks.is_expected |= status.state == "online"
        self._heard_at = self._monotonic()
        self._on_change()

    def _on_lease(self, message: Received) -> None:
        lease = self._broker.parsed(message, LeaseState)
        if lease is not None and lease.env_id in {None, self._env_id}:
            self._taking.heard(lease)
            self._is_lease_free = lease.state == "free"
            self._on_change()

    def _begin_life(self) -> None:
        """Forget what the device did and was told before it was born again."""
        self.awaits_rebirth_telemetry = True
        self.plausible_in_a_row = 0
        self.telemetry = self._answer = None
        self._arrived_at = None
        self.forget_setpoint()
        self.hand_back.note_restart()
