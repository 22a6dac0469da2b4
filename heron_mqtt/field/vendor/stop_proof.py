"""What proves that a vendor's device has taken an emergency stop, and is at 0."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress

from heron_mqtt.field.device.hardware_rest import LEAVES_POWER_S, HardwareRest, PowerSeen
from heron_mqtt.field.vendor.commands import Commander
from heron_mqtt.field.vendor.confirmation import Confirmation
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.heard_intervals import HeardIntervals
from heron_mqtt.field.vendor.payload_filling import RenderedValue
from heron_mqtt.field.vendor.vendor_state import VendorState

SAYS_LATER = 1.2  # times its longest silence of before, a device that says its power now and then
REFUSAL_S = 0.5  # how long a release waits for a rejection: meanwhile nothing else can be done


class StopProof:
    """Looks at what a device says, in a stop: its answer to it, where it answers, and its power.

    Times are by the clock of the device's program, s.

    Args:
        mapping: Of the device.
        state: What is known of it.
        commander: What it was told.
        rest: Watches its power.
        count_problem: Called with the topic of an answer that cannot be read, and what is wrong.
        stale_after_s: So long its last power counts.
        answer_within_s: So long an answer may take.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        state: VendorState,
        commander: Commander,
        rest: HardwareRest,
        count_problem: Callable[[str, str], None],
        *,
        stale_after_s: float,
        answer_within_s: float,
    ) -> None:
        self._mapping = mapping
        self._state = state
        self._commander = commander
        self._rest = rest
        self._reply = Confirmation(mapping, count_problem)  # beside that of a setpoint, which may still wait
        self._stale_after_s = stale_after_s
        self._within_s = answer_within_s
        self._settle_s = 0.0 if mapping.setpoint is None else mapping.setpoint.settle_s
        self._answers_until = math.inf
        self._released_at = -math.inf
        self._measured = HeardIntervals()  # when it said its power
        self._rested_at = -math.inf  # when it said one next to 0, or took a release, last

    # -- what happens ------------------------------------------------------------------------------

    def await_answer(self, until_s: float = math.inf) -> None:
        """Take in an answer that comes from now on, to what the device is about to be sent.

        Args:
            until_s: An answer that comes later is to someone else's command; infinity: it is a stop.
        """
        self._reply.begin(None, math.inf)
        self._answers_until = until_s

    def begin(self) -> None:
        """Take note that the device is being told of the stop: what counts comes from now on."""
        self.await_answer()
        self._rest.note_told()

    async def refusal(self) -> str | None:
        """Wait for the device's answer to its release; returns why it rejects the release.

        None = not for now: many answer setpoints only, and one may answer later than it can be waited for.
        Of several messages any may be answered last.
        """
        if self._answers:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(REFUSAL_S, self._within_s)):
                    await self._reply.wait_for_end(of_several=self._commander.parts > 1)
        return self.rejection

    @property
    def rejection(self) -> str | None:
        """Why the device has rejected the last message; None = it has not."""
        answer = self._reply.answer
        return None if answer is None or answer.accepted else answer.reason

    @property
    def is_accepted(self) -> bool:
        """Whether the device has answered and accepted the last message."""
        return self._reply.answer is not None and self._reply.answer.accepted

    def expect_no_answer(self) -> None:
        """Take in no answer: the next is to a setpoint."""
        self._reply.end()

    def end(self) -> None:
        """Take note that the stop is over."""
        self._rest.forget()
        self.expect_no_answer()

    def take_power(self, p_mw: float, measured_at: float) -> None:
        """Take in a power that the device has measured, MW."""
        if measured_at > self._measured.last_at:
            self._measured.note(measured_at)
        if self._rest.is_at_rest(p_mw):
            self._rested_at = measured_at

    def take_answer(
        self, topic: str, payload: bytes, values: Mapping[str, RenderedValue], at_s: float
    ) -> bool:
        """Take in what may be an answer to the stop; returns whether it is news."""
        if at_s > self._answers_until:  # what the device answers then is of someone else's command
            self._reply.end()
            return False
        known = self._reply.answer
        released = self._answers_until < math.inf
        before = self._commander.forgotten_values if released else None
        self._reply.take_answer(topic, payload, values, at_s, before=before)
        return self._reply.answer is not known

    def note_released(self, now_s: float) -> None:
        """Take note that the device has taken its release."""
        self._rested_at = self._released_at = now_s

    @property
    def released_at(self) -> float:
        """When it was sent its release, s; -inf: it was not."""
        return self._released_at

    @property
    def was_silent_since_release(self) -> bool:
        """Whether it has not said its power since it was sent its release; it was sent one."""
        return -math.inf < self._released_at >= self._measured.last_at

    @property
    def shows_within_s(self) -> float:
        """How long it may take to show a requested power, s: to get there, and to report it."""
        return self._settle_s + SAYS_LATER * self._measured.longest_so_far_s

    # -- what is known -----------------------------------------------------------------------------

    @property
    def may_hold_power(self) -> bool:
        """Whether it was told a power that is not 0, and neither rest nor release is known since."""
        return self._commander.moved_at > self._rested_at

    def known_p_mw(self, now_s: float, *, was_told: bool, is_offline: bool) -> float | None:
        """Return the power that the device has in the stop, MW, positive = injected; None = it is not known.

        Args:
            now_s: Now.
            was_told: The stop was sent to it: only later measurements count.
            is_offline: Its power is what the mapping says of one that is offline.
        """
        telemetry = self._state.telemetry(now_s, self._stale_after_s)
        if telemetry is None:
            return None
        if is_offline:  # it has not heard of the stop
            return None if self.may_hold_power else telemetry.p_mw
        if not was_told:
            return telemetry.p_mw
        # What it reports on change alone may stand since before the stop.
        is_of_after = self._holds_since(now_s) >= self._rest.told_at + self._settle_s
        return telemetry.p_mw if is_of_after and self.shows_setpoint(now_s) else None

    def shows_setpoint(self, now_s: float) -> bool:
        """Whether its last power is from after the last setpoint that is not 0, if there was one.

        That would have been reported, given time, also by one that reports what changes.
        """
        unmoved_since = max(self._measured.last_at, self._holds_since(now_s) - LEAVES_POWER_S)
        return unmoved_since >= self._commander.moved_at + self._settle_s

    def _holds_since(self, now_s: float) -> float:
        """Return since when the power that it said last is known to hold, s."""
        return now_s - self._state.age_s("p_mw", now_s)

    def _known_q_mvar(self, now_s: float) -> float | None:
        """Return the reactive power that it said last, Mvar; None = it is not known."""
        telemetry = self._state.telemetry(now_s, self._stale_after_s)
        return None if telemetry is None else telemetry.q_mvar

    @property
    def _answers(self) -> bool:
        """Whether the device answers what it is sent."""
        return self._mapping.confirmed_by == "answer" and bool(self._mapping.answers)

    def is_taken(self) -> bool:
        """Whether the device has accepted the stop that it was told, where it answers setpoints."""
        if not self._answers:
            return True
        answer = self._reply.answer
        return answer is not None and answer.accepted

    def look(self, now_s: float, *, was_told: bool, is_offline: bool) -> bool:
        """Look at its power, in a stop; returns whether it is at rest. Arguments as of ``known_p_mw``."""
        p_mw = self.known_p_mw(now_s, was_told=was_told, is_offline=is_offline)
        if p_mw is None:
            self._rest.see_failure()
        else:
            self._rest.see(p_mw, self._known_q_mvar(now_s))
        return self._rest.seen is PowerSeen.AT_REST

    def must_be_told_again(self, now_s: float) -> bool:
        """Whether the device is to be told of the stop again, by what was looked at."""
        if self.is_taken():
            why = "" if self._rest.has_power else self._state.why("p_mw", now_s)
            why = why or "it has sent none since the stop"
            return self._rest.must_be_told_again(in_stop=True, why_unknown=why)
        answer = self._reply.answer
        if answer is None and now_s < self._rest.told_at + self._within_s:
            return False
        silence = f"no answer on {', '.join(self._reply.topics)} within {self._within_s:g} s"
        self._rest.note_refusal(silence if answer is None else answer.reason)
        return True
