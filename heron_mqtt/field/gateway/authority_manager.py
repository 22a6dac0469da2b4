"""Answers requests for authority over an agent's devices, and for manual control of one device."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.authority import (
    HAS_WAITED,
    MAX_HISTORY,
    RULES,
    Authority,
    AuthorityChange,
    Evidence,
)
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import Band, SetpointLimits, reactive_room_mvar, standing_range_mw
from heron_mqtt.field.gateway.settings import DeviceSettings
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.messages import ROUNDING_MW, AuthorityRequest, AuthorityState, Level, Take
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.messaging.subscription_group import SubscriptionGroup

log = logging.getLogger("heron_mqtt.authority")

PUT_RIGHT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Manual:
    """One device in the hand of a person.

    Attributes:
        who, why: For the record.
        p_mw: MW, positive = injected.
        q_mvar: Mvar, positive = injected.
        ends_at: By our clock, s.
        request: boot and seq of the take, by which it is withdrawn.
    """

    who: str
    why: str
    p_mw: float
    q_mvar: float
    ends_at: float
    request: tuple[str | None, int | None]


class AuthorityManager:
    """Holds the authority over each of an agent's devices and answers requests for another.

    Requests come on ``devices/<agent>/<device>/authority`` and ``.../take``; the level in force and the
    answer to the last request stand, retained, on ``devices/<agent>/<device>/authority_state``.

    Args:
        agent_id: Owner of the devices.
        devices: Their settings, by name.
        broker: Carries the messages.
        stamper: Stamps what is published.
        evidence: Returns what is known of a device.
        on_change: Called with a device and its new level.
        now: Clock for the record, UTC.
        monotonic: Clock for how long a person holds a device, s.
        bounds: Returns what bounds a device's setpoint whatever its state, and the band in force.
        why_no_manual_control: Why manual control cannot begin now (a stop, no live environment); else None.
        may_have_waited: Whether what is read now may have waited as long as this process stood still.
        hand_back_s: How long a released device may take to show its release, s; None = it need not.
    """

    def __init__(
        self,
        agent_id: str,
        devices: Mapping[str, DeviceSettings],
        broker: MessageBroker,
        stamper: MessageStamper,
        *,
        evidence: Callable[[str], Evidence],
        on_change: Callable[[str, Level], None],
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = steady_s,
        bounds: Callable[[str], tuple[SetpointLimits, Band | None]],
        why_no_manual_control: Callable[[], str | None],
        may_have_waited: Callable[[], bool],
        hand_back_s: Callable[[str], float | None],
    ) -> None:
        self.step = 0
        """The step under way, for the record."""
        self._agent_id = agent_id
        self._broker = broker
        self._stamper = stamper
        self._evidence = evidence
        self._on_change = on_change
        self._now = now
        self._monotonic = monotonic
        self._retain = {"retain": True} if broker.features.retain else {}
        self._subscriptions = SubscriptionGroup(broker)
        self._manual: dict[str, Manual] = {}
        self._told_gate: dict[str, str] = {}
        self._heard_requests: dict[tuple[str, str, int], None] = {}
        self._has_begun = False
        self._put_right_at: dict[str, float] = {}
        self._bounds = bounds
        self._why_no_manual_control = why_no_manual_control
        self._may_have_waited = may_have_waited
        self._hand_back_s = hand_back_s
        self._gaps_mw = {name: settings.gap_mw for name, settings in devices.items()}
        self._held = {
            name: Authority(
                settings.authority,
                gate_steps=settings.gateway.gate_steps,
                has_band=settings.gateway.band is not None,
                is_real=settings.is_real,
            )
            for name, settings in devices.items()
        }

    # -- what is in force ----------------------------------------------------------------------------

    def level(self, name: str) -> Level:
        """Return the level in force; a device that it does not hold is simulated."""
        held = self._held.get(name)
        return "simulated" if held is None else held.level

    def sends(self, name: str) -> bool:
        """Whether setpoints are sent to a device at the level in force."""
        held = self._held.get(name)
        return RULES["simulated" if held is None else held.level].sends

    def ceiling(self, name: str) -> Level:
        """Return the level to which a device rises by itself."""
        held = self._held.get(name)
        return "simulated" if held is None else held.ceiling

    def waits_for(self, name: str) -> str:
        """Return the gate that keeps a device below its ceiling; empty where none does."""
        held = self._held.get(name)
        return "" if held is None else held.waits_for

    @property
    def all_simulated(self) -> bool:
        """Whether every device is simulated, and none is to rise."""
        if not self._held:
            return True
        return all(held.level == held.ceiling == "simulated" for held in self._held.values())

    def history(self, name: str) -> tuple[AuthorityChange, ...]:
        """Return every request for a device, granted or refused, oldest first."""
        return tuple(self._held[name].history)

    def manual_control(self, name: str) -> Manual | None:
        """Return the setpoint by which a person controls a device now; None = no person does."""
        manual = self._manual.get(name)
        if manual is None:
            return None
        if self._monotonic() >= manual.ends_at or not self.sends(name):
            self._give_back(name, "the time is over" if self.sends(name) else "the level sends nothing")
            return None
        return manual

    def override(
        self, wanted: Mapping[str, SetpointRequest]
    ) -> tuple[dict[str, SetpointRequest], dict[str, Manual]]:
        """Replace what the agent wants by the setpoints of manual control; return these too, by device."""
        result, controlled = dict(wanted), {}
        for name in list(self._manual):
            manual = self.manual_control(name)
            if manual is not None and name in result:
                result[name] = replace(
                    result[name], p_mw=manual.p_mw, q_mvar=manual.q_mvar, asked_p_mw=manual.p_mw
                )
                controlled[name] = manual
        return result, controlled

    def manual_left_s(self, name: str, asked: Manual | None) -> float:
        """Return for how long a device is still in the same hand, with the same setpoint, s; 0 = it is not.

        Args:
            name: The device.
            asked: Its manual control when its setpoint was made; None = the agent's own setpoint, which
                lasts for ever unless manual control begins.
        """
        manual = self.manual_control(name)
        if asked is None:
            return math.inf if manual is None else 0.0
        if manual is None or (manual.p_mw, manual.q_mvar) != (asked.p_mw, asked.q_mvar):
            return 0.0
        return max(0.0, manual.ends_at - self._monotonic())

    # -- life ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take requests, and hear what an earlier run has left; ``begin`` then says what is in force."""
        callbacks: dict[str, Callable[[Received], None]] = {
            "authority": self._on_request,
            "take": self._on_take,
            "authority_state": self._on_state,
        }
        await self._subscriptions.open(
            (topics.device(self._agent_id, name, leaf), callback)
            for name in self._held
            for leaf, callback in callbacks.items()
        )

    def begin(self) -> None:
        """Say which level each device has; what an earlier run has left has arrived by now."""
        self._has_begun = True
        for name in self._held:
            self._tell(name)

    def close(self) -> None:
        """Take no more requests. Idempotent."""
        self._subscriptions.close()

    # -- changes -------------------------------------------------------------------------------------

    def rise(self) -> None:
        """Let every device rise towards its ceiling whose gates pass; call it once a step."""
        for name, authority in self._held.items():
            if authority.level == authority.ceiling:
                continue
            change = authority.rise(self._evidence(name), at=self._now(), step=self.step)
            if change is not None:
                self._note(name, change)
                self._on_change(name, change.requested)
            gate = authority.waits_for.partition(":")[0]
            if change is not None or gate != self._told_gate.get(name):
                self._told_gate[name] = gate
                if authority.waits_for:
                    log.warning(
                        "%s/%s: stays at %s below %s: %s",
                        *(self._agent_id, name, authority.level, authority.ceiling, authority.waits_for),
                    )
                self._tell(name, reason=authority.waits_for)

    def request(self, name: str, asked: AuthorityRequest, *, has_waited: bool) -> AuthorityChange:
        """Grant or refuse, record it and announce it.

        Args:
            name: The device.
            asked: The request.
            has_waited: It may be of another moment: then it lowers a level, and raises none.
        """
        authority = self._held[name]
        change = authority.request(
            asked.level,
            self._evidence(name),
            who=asked.who,
            why=asked.why,
            at=self._now(),
            step=self.step,
            has_waited=has_waited,
        )
        self._note(name, change)
        if change.granted and change.before != asked.level:
            self._on_change(name, asked.level)
        self._tell(
            name,
            requested=asked.level,
            granted=change.granted,
            reason=change.reason or f"asked by {asked.who}: {asked.why}",
            request_seq=asked.seq,
            request_boot=asked.boot,
        )
        return change

    def take(self, name: str, asked: Take, *, has_waited: bool) -> None:
        """Begin or end manual control of a device by a person, and publish the result.

        Args:
            name: The device.
            asked: The request.
            has_waited: It may be of another moment: then it gives a device back, and takes none.
        """
        refusal: str | None = None
        asked_by = "under manual control of" if asked.request_seq is None else "withdrawn by"
        gap_mw, (limits, band) = self._gaps_mw[name], self._bounds(name)
        range_mw = standing_range_mw(limits, band)
        p_mw = _at_edge(asked.p_mw, (*gap_mw, *range_mw))
        room_mvar = reactive_room_mvar(limits.s_max_mva, p_mw)
        q_mvar = _at_edge(asked.q_mvar, (-room_mvar, room_mvar))
        what = "given back" if asked.for_s <= 0.0 else f"{p_mw:g} MW for {asked.for_s:g} s"
        if asked.for_s > 0.0:
            if not self.sends(name):
                refusal = f"no setpoints are sent to the device at level {self.level(name)}"
            else:
                refusal = HAS_WAITED if has_waited else self._why_no_manual_control()
            refusal = refusal or _why_not_held(p_mw, gap_mw, range_mw)
            if not refusal and abs(q_mvar) > room_mvar:
                refusal = (
                    f"{q_mvar:g} Mvar is beyond the device's apparent power beside {p_mw:g} MW; expected "
                    f"{-room_mvar:g} to {room_mvar:g} Mvar"
                )
        if not refusal:
            if asked.for_s > 0.0:
                ends_at = self._monotonic() + asked.for_s
                request = (asked.boot, asked.seq)
                self._manual[name] = Manual(asked.who, asked.why, p_mw, q_mvar, ends_at, request)
            elif asked.request_seq is None:
                self._manual.pop(name, None)
            else:
                what = self._withdraw(name, (asked.request_boot, asked.request_seq))
        log.warning(
            "%s/%s: manual control requested by %s (%s): %s: %s",
            *(self._agent_id, name, asked.who, asked.why or "no reason given", what, refusal or "granted"),
        )
        self._tell(
            name,
            granted=not refusal,
            reason=refusal or f"{asked_by} {asked.who}: {what}",
            request_seq=asked.seq,
            request_boot=asked.boot,
        )

    def _withdraw(self, name: str, request: tuple[str | None, int | None]) -> str:
        """End the hold that one take began, and no other one's; return what came of it."""
        manual = self._manual.get(name)
        if manual is None or manual.request != request:
            return "nothing, the take that is withdrawn does not hold it"
        del self._manual[name]
        return "given back, its take is withdrawn"

    def end_manual_control(self, why: str) -> None:
        """End all manual control, because of a stop or the end of the environment."""
        for name in list(self._manual):
            self._give_back(name, why)

    def _give_back(self, name: str, why: str) -> None:
        manual = self._manual.pop(name, None)
        if manual is not None:
            log.warning(
                "%s/%s: no longer under manual control of %s: %s", self._agent_id, name, manual.who, why
            )
            self._tell(name, reason=f"no longer under manual control of {manual.who}: {why}")

    def _note(self, name: str, change: AuthorityChange) -> None:
        log.warning(
            "%s/%s: authority %s -> %s asked by %s (%s): %s",
            self._agent_id,
            name,
            change.before,
            change.requested,
            change.who,
            change.why or "no reason given",
            change.reason or "granted",
        )

    # -- messages ------------------------------------------------------------------------------------

    def _on_request(self, message: Received) -> None:
        asked = self._broker.parsed(message, AuthorityRequest)
        if asked is not None and self._is_for_now(message, asked):
            has_waited = self._has_waited(message)
            self.request(topics.levels(message.channel)[2], asked, has_waited=has_waited)

    def _on_take(self, message: Received) -> None:
        asked = self._broker.parsed(message, Take)
        if asked is not None and self._is_for_now(message, asked):
            if asked.request_boot is not None:  # what it withdraws may come after it
                assert asked.request_seq is not None, "they go together"
                self._note_heard((message.channel, asked.request_boot, asked.request_seq))
            self.take(topics.levels(message.channel)[2], asked, has_waited=self._has_waited(message))

    def _has_waited(self, message: Received) -> bool:
        """Whether a request may be too old: its sender was told that there was no answer."""
        return message.late or message.get("held_s") is not None or self._may_have_waited()

    def _is_for_now(self, message: Received, asked: AuthorityRequest | Take) -> bool:
        """Whether a request is of this environment, and asked now and for the first time."""
        why = ""
        if message.retained:
            why = "a request must not be retained: it is valid only now"
        elif asked.env_id not in {None, self._stamper.env_id}:
            why = f"a request of environment {asked.env_id!r}, not of {self._stamper.env_id!r}"
        elif asked.boot is not None and asked.seq is not None:
            number = (message.channel, asked.boot, asked.seq)
            if number in self._heard_requests:
                why = "this request was received before, or withdrawn"
            self._note_heard(number)
        if why:
            self._broker.reject(message, MessageError(why))
        return not why

    def _note_heard(self, number: tuple[str, str, int]) -> None:
        self._heard_requests[number] = None
        while len(self._heard_requests) > MAX_HISTORY:
            del self._heard_requests[next(iter(self._heard_requests))]

    def _on_state(self, message: Received) -> None:
        """Take what an earlier run has left; what another one says while we run is put right."""
        if message.get("boot") == self._stamper.boot:
            return
        name = topics.levels(message.channel)[2]
        authority = self._held[name]
        if self._has_begun:
            now = self._monotonic()
            if now - self._put_right_at.get(name, -math.inf) > PUT_RIGHT_EVERY_S:
                self._put_right_at[name] = now
                self._tell(name, reason="what another one said of it was not so")
            return
        if not message.retained:
            return
        kept = self._broker.parsed(message, AuthorityState)
        if kept is None:  # it may have been a demotion
            kept = AuthorityState(level="shadow", reason="what an earlier run left cannot be read")
        if authority.history:
            return
        before = authority.level
        if authority.resume(kept):
            log.warning(
                "%s/%s: an earlier run left it at %s (%s): it does not rise above that without a request",
                *(self._agent_id, name, authority.ceiling, kept.reason or "no reason given"),
            )
            if authority.level != before:
                self._on_change(name, authority.level)

    def _tell(
        self,
        name: str,
        *,
        requested: Level | None = None,
        granted: bool = True,
        reason: str = "",
        request_seq: int | None = None,
        request_boot: str | None = None,
    ) -> None:
        authority, manual = self._held[name], self._manual.get(name)
        state = AuthorityState(
            level=authority.level,
            requested=requested,
            granted=granted,
            reason=reason[:500],
            request_seq=request_seq,
            request_boot=request_boot,
            ceiling=authority.ceiling,
            demoted=authority.is_demoted,
            hand_back_s=None if RULES[authority.level].sends else self._hand_back_s(name),
            manual_by=manual.who if manual else None,
            manual_p_mw=manual.p_mw if manual else None,
            manual_s=max(0.0, manual.ends_at - self._monotonic()) if manual else None,
        )
        channel = topics.device(self._agent_id, name, "authority_state")
        self._broker.publish(channel, self._stamper.stamp(channel, state), **self._retain)


def _why_not_held(p_mw: float, gap_mw: tuple[float, float], range_mw: tuple[float, float]) -> str | None:
    """Return why a device cannot hold a power, whatever its state; None if it can."""
    low, high = range_mw
    if not low <= p_mw <= high:
        return (
            f"{p_mw:g} MW is beyond the device's nameplate, or the band of its level; expected {low:g} to "
            f"{high:g} MW"
        )
    low, high = gap_mw
    if not low < p_mw < high:
        return None
    wanted = f"0, or {low:g} MW or less" if low < 0.0 else f"0, or {high:g} MW or more"
    return f"{p_mw:g} MW is between 0 and the device's minimum power; expected {wanted}"


def _at_edge(power: float, edges: tuple[float, ...]) -> float:
    """Return the edge that a power is meant to be: 4.1 kW / 1000 is a rounding below 0.0041 MW."""
    return next((edge for edge in edges if abs(power - edge) <= ROUNDING_MW), power)
