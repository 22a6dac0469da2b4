"""What is known of a vendor's device, and said of it: its state, its presence, its silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.condition import DeviceCondition
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import VendorLink
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.silence_watch import SilenceWatch
from heron_mqtt.field.vendor.sparkplug_payload import encode
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Status

SEND_WITHIN_S = 2.0
SAME_PROBLEM_S = 60.0  # a problem that comes with every payload is reported so often, and counted always


class MappedDevice(FieldDevice):
    """A device that is read by a mapping; ``VendorDevice`` drives it, and has the arguments."""

    def __init__(
        self,
        mapping: DeviceMapping,
        link: VendorLink,
        *args: Any,
        kind: str,
        power_range_mw: tuple[float, float],
        stale_after_s: float = 5.0,
        answer_within_s: float | None = None,
        utc_s: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._mapping = mapping
        self._link = link
        self._kind = kind
        self._range = power_range_mw
        self._stale_after_s = stale_after_s
        given_s = 1.0 if mapping.setpoint is None else mapping.setpoint.answer_within_s
        self._within_s = given_s if answer_within_s is None else answer_within_s
        self._state = VendorState(mapping, utc_s, keeps_instance=self._has_to_tell_instance)
        self._built_ins = BuiltIns(utc_s) if new_id is None else BuiltIns(utc_s, new_id)
        self._silence_watch = SilenceWatch(
            mapping,
            self._state,
            stale_after_s,
            monotonic=self._monotonic,
            report=self._report,
            is_known=self._is_power_known,
            on_silence=self._on_silence,
        )
        self._pause: PauseDetector  # of the loop that it runs in
        self._condition = DeviceCondition(mapping, self._state, kind)
        self._trouble: Status | None = None
        self._is_born = False
        self._reported: dict[str, float] = {}

    @property
    def state(self) -> VendorState:
        """What is known of the device."""
        return self._state

    def nameplate(self) -> dict[str, Any]:
        """Return the scenario's nameplate: a device seldom tells its own."""
        return {"p_min_mw": self._range[0], "p_max_mw": self._range[1], "kind": self._kind}

    @property
    def never_reached(self) -> str | None:
        """Why the device has never said its power, for people; None = it has."""
        if self._condition.has_spoken:
            return None
        return self._state.why("p_mw", self._monotonic()) or "its power has never come"

    def _has_to_tell_instance(self) -> bool:
        """Whether the instance that was learned has still to be told something at its own topics."""
        return False

    def _prove_life(self) -> None:
        """Take in what proves that the device is there while it has nothing new to say."""
        now_s = self._monotonic()
        if self._link.connected:
            self._state.connected(now_s)
        if self._state.age_s("p_mw", now_s) <= self._stale_after_s:
            self._condition.speaks()

    def _p_mw_now(self) -> float | None:
        """Return the power that it said last, MW, positive = injected; None = it is not known now."""
        telemetry = self._state.telemetry(self._monotonic(), self._stale_after_s)
        return None if telemetry is None else telemetry.p_mw

    # -- how it is spoken to -------------------------------------------------------------------------

    def _count_problem(self, topic: str, problem: str) -> None:
        """Count it; report it, unless the same was reported a moment ago."""
        kind, now = problem.split(" gave ", maxsplit=1)[0], self._monotonic()
        if now - self._reported.get(kind, float("-inf")) < SAME_PROBLEM_S:
            self._broker.stats.rejected += 1
            return
        self._reported[kind] = now
        self._broker.stats.reject(topic, f"{self.label}: {problem}")

    def _context(self) -> MessageContext:
        return MessageContext(self._built_ins, self._state.inputs, self._state.learned)

    def _send(self, message: DeviceCommand) -> asyncio.Future[None]:
        """Send one message now or not at all: what waits for a connection is of another moment."""
        not_after = asyncio.get_running_loop().time() + max(self._within_s, SEND_WITHIN_S)
        return self._link.send(message, not_after=not_after)

    def _ask_for_births(self) -> None:
        while self._state.births_wanted:
            self._ask_for_birth(self._state.births_wanted.pop())

    def _ask_for_birth(self, topic: str) -> None:
        """Ask a Sparkplug node for its birth; like a keepalive this changes nothing in the device."""
        if self._link.connected:
            now_ms = int(self._built_ins.value("now", "unix_ms"))
            payload = encode({"Node Control/Rebirth": True}, {"Node Control/Rebirth": "Boolean"}, now_ms)
            self._send(Outgoing(topic, payload, qos=0))

    # -- presence ----------------------------------------------------------------------------------

    async def _appear(self) -> None:
        """Be born as the device says it is; what it says meanwhile is told right after."""
        self._trouble = self._condition.trouble(self._monotonic())
        await super()._appear()
        self._is_born = True
        self._tell_trouble()

    async def _leave(self) -> None:
        """Leave; what waited while this program stood still is read first: it may have been displaced."""
        await self._pause.caught_up()
        await super()._leave()

    def _offline(self) -> bool:
        """Whether the device is offline, and the mapping says what its power is then."""
        return self._condition.is_known_offline(self._monotonic())

    def _tell_trouble(self) -> None:
        """Tell what availability and silence come to, if that has changed."""
        if not self._is_born:
            return
        trouble = self._condition.trouble(self._monotonic())
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(self._birth())

    def _birth(self) -> dict[str, Any]:
        if self._trouble is None:
            return super()._birth()
        if self._trouble.state == "online":
            return {**super()._birth(), "reason": self._trouble.reason}
        return self._stamped(self._trouble.model_copy(update={"kind": self._kind}))

    def _is_power_known(self) -> bool:
        """Whether the power is known although the device has not said it for a while."""
        self._prove_life()
        return self._offline() or self._state.age_s("p_mw", self._monotonic()) <= self._stale_after_s

    def _on_silence(self, why: str) -> None:
        if self._condition.is_silent(why):
            self._tell_trouble()
