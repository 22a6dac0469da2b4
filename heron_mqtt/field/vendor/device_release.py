"""Whether a vendor's device may hold our setpoint, and how this is ended: by its release, or a stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from heron_mqtt.errors import HeronError, MessageError, PlaceTaken
from heron_mqtt.field.device.hardware_rest import GrowingPause, HardwareRest, PowerSeen
from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.field.place_claim import PlaceClaim
from heron_mqtt.field.vendor.commands import Commander
from heron_mqtt.field.vendor.condition import DeviceCondition
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import NotTaken
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.release_doubt import ReleaseDoubt
from heron_mqtt.field.vendor.stop_proof import StopProof
from heron_mqtt.field.vendor.vendor_state import VendorState

log = logging.getLogger("heron_mqtt.vendor")

MOST_LEFT = 10  # instances that a stop keeps at 0: anyone may publish on topics that they are learned from
STOP_AGAIN_S = 1.0  # between two tries to tell a device that refuses of a stop


class DeviceRelease:
    """Tells one device of the end of its setpoints, and knows whether it was told.

    - A setpoint ends by the release of the mapping, which hands the device back to its own control. It counts
      if the device was reachable and has not rejected it.
    - A stop sets 0, which the device holds until the stop is released.
    - A release or stop that was not sent, was rejected, or was sent while the device was away is sent again.

    Args:
        label: The device, for people.
        mapping: Of the device.
        commander: Sends the messages.
        state: What is known of it.
        condition: Whether it is there.
        stop_proof: Looks at what it says to a stop or a release.
        rest: Watches its power.
        stop: The emergency stop.
        claim: Of the place where it is; None = it is known to be this one's.
        stale_after_s: How long its last power counts, s.
        answer_within_s: So long an answer may take, s.
        monotonic: The clock, s.
        context: Returns what messages need.
        is_power_known: Whether its power is known now.
        is_ours: Whether anything is sent to it, or will be without a request.
        count_problem: Told of a problem: where, and what.
    """

    def __init__(
        self,
        label: str,
        mapping: DeviceMapping,
        commander: Commander,
        state: VendorState,
        condition: DeviceCondition,
        stop_proof: StopProof,
        rest: HardwareRest,
        stop: StopRegister,
        claim: PlaceClaim | None,
        *,
        stale_after_s: float,
        answer_within_s: float,
        monotonic: Callable[[], float],
        context: Callable[[], MessageContext],
        is_power_known: Callable[[], bool],
        is_ours: Callable[[], bool],
        count_problem: Callable[[str, str], None],
    ) -> None:
        self.holds_setpoint = False
        """Whether the device may hold a setpoint: one was sent, and no release that it has accepted since."""
        self.is_held_by_stop = False
        """Whether a stop keeps it at 0."""
        self.is_owed = False
        """Whether it was not told of a stop or an end: that is caught up when it answers again."""
        self.is_unproven = False
        """Whether it was sent its release, and what breaks off the wait for its rejection may look again."""
        self._label = label
        self._mapping = mapping
        self._commander = commander
        self._state = state
        self._condition = condition
        self._stop_proof = stop_proof
        self._rest = rest
        self._stop = stop
        self._claim = claim
        self._stale_after_s = stale_after_s
        self._within_s = answer_within_s
        self._monotonic = monotonic
        self._context = context
        self._is_power_known = is_power_known
        self._is_ours = is_ours
        self._count_problem = count_problem
        self._doubt = ReleaseDoubt()
        self._is_end_sent = False  # of the setpoint that it holds: its broker has taken it
        self._left_instances: list[dict[str, str]] = []  # learned before, which a stop keeps at 0
        self._rests_at_zero = False  # it was handed back with 0, and has to be at 0
        self._tried_at, self._pause = -math.inf, GrowingPause()  # to tell it what is owed

    # -- what it holds -----------------------------------------------------------------------------

    @property
    def is_driven(self) -> bool:
        """Whether it may hold a setpoint, or the 0 of a stop."""
        return self.holds_setpoint or self.is_held_by_stop

    def take_place(self) -> None:
        """Claim the place where it is.

        Raises:
            PlaceTaken: Another environment drives what is there.
        """
        if self._claim is not None:
            self._claim.take(self._state.learned)

    def note_setpoint(self, p_mw: float) -> None:
        """Take note that a setpoint, MW, is about to be sent: the device may hold it even if that fails."""
        self.holds_setpoint, self._is_end_sent = True, False
        self._rests_at_zero = False
        self._rest.see_nothing()
        self._doubt.note_setpoint(p_mw)

    def note_setpoint_sent(self) -> None:
        """Take note that it holds a newer setpoint, which has an end of its own."""
        self.is_owed = False

    def take_over(self) -> None:
        """Note that an earlier program left a setpoint in the device: it is ended when the device is back."""
        self.holds_setpoint = self.is_owed = True
        self._commander.moved_at = self._monotonic()  # what it was told last is not known here

    def note_instance(self, held: dict[str, str]) -> None:
        """Remember the instance that a stop keeps at 0, if another one was learned in its place just now.

        Args:
            held: What was learned before; empty = a stop held none.
        """
        now = self._state.learned
        if held and now != held and now.keys() == held.keys() and len(self._left_instances) < MOST_LEFT:
            self._left_instances.append(held)

    @property
    def keeps_instance(self) -> bool:
        """Whether the instance that was learned has still to be told something at its own topics."""
        if self.is_held_by_stop:
            return not self._rest.has_rested  # it may have been away when the stop was sent
        return self.holds_setpoint and not self._is_end_sent

    # -- telling it --------------------------------------------------------------------------------

    async def send_stop(self) -> None:
        """Set it to 0, also where it is another one's.

        Raises:
            BrokerError, MessageError: It could not be sent.
            NotTaken: It was refused.
        """
        self.is_owed = True
        self._doubt.end()
        self._stop_proof.begin()  # what it says at once may come before we know it
        is_at_rest = self._rest_now() is True
        self._report_instead(await self._commander.stop(self._context(), is_at_rest=is_at_rest))
        if self._mapping.registers is not None:  # read while they were written, it is of before
            self._rest.note_told()
        self.is_held_by_stop = self._has_place("it is not handed back after the stop")
        self.holds_setpoint = self.is_owed = False

    async def hand_back(self) -> None:
        """Send it its release, unless another environment drives it.

        Raises:
            BrokerError, MessageError: It could not be sent.
            NotTaken: It was refused, or the device was not there to hear it.
        """
        self.is_owed = True
        if self._has_place("it is not handed back"):
            await self._send_release()
            self._rests_at_zero = self._mapping.releases_to_zero(self._context())
            self._rest.note_told()
            if self._rests_at_zero and self._may_have_power():
                self._rest.assume_power()
        self.holds_setpoint = self.is_held_by_stop = self.is_owed = False
        if self._claim is not None and not self._is_ours():
            self._claim.close()  # it is only watched from now on: another one may drive it

    def _may_have_power(self) -> bool:
        """Whether it had power when that was said last; one that has fallen silent may have it still.

        One that was at 0 may be on its way to a setpoint that it was told since.
        """
        is_at_rest = self._rest_now()
        if is_at_rest is None:
            return True
        return not (is_at_rest and self._stop_proof.shows_setpoint(self._monotonic()))

    def _rest_now(self) -> bool | None:
        """Whether the power that it said last is next to 0; None = it is not known now."""
        telemetry = self._state.telemetry(self._monotonic(), self._stale_after_s)
        return None if telemetry is None else self._rest.is_at_rest(telemetry.p_mw)

    async def _send_release(self) -> None:
        while self._left_instances:  # they are at 0, as they were told
            left = self._left_instances[-1]
            with suppress(MessageError):
                await self._commander.release(replace(self._context(), learned=left))
            self._left_instances.remove(left)  # sent: what it says is not read any more
        self._stop_proof.await_answer(self._monotonic() + 2.0 * self._within_s)  # sent within one of them
        self._report_instead(await self._commander.release(self._context()))
        self._is_end_sent = True
        await self._see_taken()

    async def prove(self) -> None:
        """Look once more at a release that was sent just now, where the first look was broken off.

        Raises:
            NotTaken: As with ``hand_back``.
        """
        await self._see_taken()
        self.holds_setpoint = self.is_owed = False

    async def _see_taken(self) -> None:
        """Wait a moment for what is against the release that it was sent just now."""
        self.is_unproven = True
        why = await self._stop_proof.refusal()
        self.is_unproven = False
        if why is not None:
            raise NotTaken(f"its release was rejected by the device: {why}")
        if (why := self._why_unheard()) is not None:
            raise NotTaken(f"its release was sent while it was not there: {why}", was_heard=False)
        self._stop_proof.note_released(self._monotonic())
        if self._mapping.registers is None and self._mapping.releases_by_messages:
            self._doubt.note_release(self._monotonic())

    def is_doubted(self, p_mw: float, at_s: float) -> bool:
        """Look at a power that was measured, MW; returns whether to send the release once more."""
        return self._doubt.is_due(p_mw, at_s)

    async def send_once_more(self) -> None:
        """Send its release again to a device that continues as before; another's is left alone."""
        if self._is_ours() and not (self._stop.is_active or self.is_driven or self.is_owed):
            log.warning("%s: its power is that of its last setpoint: its release is sent again", self._label)
            with suppress(HeronError):
                await self._commander.release(self._context())

    def _report_instead(self, instead: str | None) -> None:
        if instead is not None:
            self._count_problem("setpoint", instead)

    def _has_place(self, otherwise: str) -> bool:
        """Whether the device is this environment's to tell; else says what follows."""
        try:
            self.take_place()
        except PlaceTaken as exc:
            log.warning("%s: %s: %s", self._label, otherwise, exc)
            return False
        return True

    # -- what is owed ------------------------------------------------------------------------------

    def _why_unheard(self) -> str | None:
        """Return why a device that a broker leads to has not heard what was sent just now, for people."""
        if self._mapping.registers is not None:
            return None  # it has answered each write itself
        now_s = self._monotonic()
        status = self._condition.availability(now_s)
        if status is not None and status.state == "offline":
            return status.reason or "it is offline"
        if self._is_power_known():
            return None
        return self._state.why("p_mw", now_s) or f"no power from it for {self._stale_after_s:g} s"

    @property
    def shows_within_s(self) -> float:
        """How long it may take to show that it has taken a release to 0, s."""
        return self._stop_proof.shows_within_s

    @property
    def is_unshown(self) -> bool:
        """Whether its broker sent it its release just now, and it has neither accepted it nor said anything.

        A broker also acknowledges messages that no client gets. After ``stale_after_s``, silence shows it.
        """
        if self._mapping.registers is not None or self._stop_proof.is_accepted:
            return False
        released_at = self._stop_proof.released_at
        is_new = self._monotonic() <= released_at + self._stale_after_s
        return is_new and released_at >= self._state.heard.last_at

    @property
    def late_at(self) -> float:
        """When its silence is clearly longer than it is used to, s; infinity: that cannot be known."""
        return self._state.heard.late_at

    def why_gone(self) -> str | None:
        """Return why it may have been gone when its release was sent, for people; None = nothing is known."""
        if not self.is_unshown:
            return None
        now_s, heard = self._monotonic(), self._state.heard
        status = self._condition.availability(now_s)
        if status is not None and status.state == "offline":
            return status.reason or "it is offline"
        if now_s < heard.late_at:
            return None
        silent_s = now_s - heard.last_at
        return f"it has sent nothing for {silent_s:.1f} s, and was silent for {heard.longest_s:.2g} s at most"

    def owe_unproven(self) -> None:
        """Owe a release to a device that was sent it, and may have been gone by then."""
        self.holds_setpoint = self.is_owed = True

    def owe_unheard(self) -> bool:
        """Owe a release to a device that was last heard before it was sent: it may have been away by then.

        Not to one with nothing to say that has proven for long enough since that it is there: where its
        broker tells of its end, that comes late.

        Returns:
            Whether that is news.
        """
        was_there = self._state.proven_at > self._stop_proof.released_at + self._stale_after_s
        was_silent = self._stop_proof.was_silent_since_release and not was_there
        is_unheard = self._mapping.registers is None and was_silent
        if self._stop.is_active or self.is_driven or not is_unheard:
            return False
        self.holds_setpoint = self.is_owed = True
        return True

    def owe_rejected(self) -> bool:
        """Owe a release that the device has rejected after it was no longer waited for; whether it has."""
        if (why := self._stop_proof.rejection) is None or self._stop.is_active or self.is_driven:
            return False
        self._count_problem("setpoint", f"its release was rejected by the device: {why}")
        self.holds_setpoint, self.is_owed, self._is_end_sent = True, True, False
        self._tried_at = self._monotonic()
        return True

    def owe_stop(self) -> None:
        """Owe the stop that is in force to a device that was away, and may have forgotten it."""
        if self._stop.is_active and self.is_held_by_stop:
            self.is_owed = True

    def try_at_once(self) -> None:
        """Note that the device is back: an owed message is sent now."""
        self._tried_at = -math.inf

    def is_due(self) -> bool:
        """Whether to tell it now what is owed, as far as it would hear that; the next time is later then."""
        in_stop, now_s = self._stop.is_active, self._monotonic()
        if not self.is_owed or now_s < self._tried_at + (STOP_AGAIN_S if in_stop else self._pause.s):
            return False
        if not in_stop and self._why_unheard() is not None:
            return False
        self._tried_at = now_s
        return True

    def note_tried(self) -> None:
        """Note that the owed message was sent, accepted or not."""
        if self.is_owed:
            self._pause.grow()
        else:
            self._pause.reset()

    # -- what its power shows ----------------------------------------------------------------------

    @property
    def is_watched(self) -> bool:
        """Whether its power has to show that a lease is over: it was sent 0, and not its own control.

        Not of one that is only watched from then on: another one may drive it.
        """
        is_told = self.is_owed or self.is_driven
        return self._rests_at_zero and self._is_ours() and not (self._stop.is_active or is_told)

    @property
    def left_rest(self) -> bool:
        """Whether it was handed back with 0, and has power."""
        return self.is_watched and self._rest.keeps_power

    @property
    def owes_safe_state(self) -> bool:
        """Whether the device has still to be told of a stop or an end, or is not at 0 in a stop."""
        # Having taken the stop is not being at 0.
        if self.is_owed or not self._stop.is_active:
            return self.is_owed or self.left_rest
        return not (self._has_taken_stop() and self._rests_in_stop())

    def look_after_lease(self) -> None:
        """Look at its power after a lease, as far as it is of after it was sent 0.

        Of its reactive power that is not known. One that had power and says nothing more has it still.
        """
        now_s = self._monotonic()
        p_mw = self._stop_proof.known_p_mw(now_s, was_told=True, is_offline=self._is_offline(now_s))
        if p_mw is not None:
            self._rest.see(p_mw)
        elif self._rest.seen is PowerSeen.AT_REST:
            self._rest.see_nothing()

    def look_in_stop(self) -> None:
        """Look, in a stop that it was told of, whether it is to be told again."""
        if self.is_held_by_stop:
            self._rests_in_stop()
            self.is_owed = self._stop_proof.must_be_told_again(self._monotonic())

    def left_in_stop(self) -> str | None:
        """Return what is wrong with a device that a stop is to keep at 0, for people; None = nothing."""
        self._rests_in_stop()
        has_taken_it = not self.is_owed and self._has_taken_stop()
        return self._rest.left_in_stop(has_taken_it=has_taken_it)

    def _rests_in_stop(self) -> bool:
        """Look at the power that is known in a stop; returns whether it is next to 0."""
        now_s = self._monotonic()
        return self._stop_proof.look(now_s, was_told=self.is_held_by_stop, is_offline=self._is_offline(now_s))

    def _has_taken_stop(self) -> bool:
        return not self.is_held_by_stop or self._stop_proof.is_taken()

    def _is_offline(self, now_s: float) -> bool:
        """Whether the device is offline, and the mapping says what its power is then."""
        return self._condition.is_known_offline(now_s)
