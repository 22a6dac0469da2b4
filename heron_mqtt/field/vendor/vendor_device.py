"""A vendor's device as a field device: its own topics and payloads on one side, ours on the other.

It runs beside the gateway and translates, so that the device needs no code and the gateway no special case:
it takes leased setpoints and sends them in the vendor's terms, makes telemetry of what the device says, and
hands the device back to its own control when the lease runs out, on a demotion, and at the end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from heron_mqtt.errors import HeronError, MessageError, PlaceTaken
from heron_mqtt.field.device import SetpointDeferred, SetpointRejected
from heron_mqtt.field.device.hardware_rest import GrowingPause, PowerSeen
from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.device.safe_state import LOOK_AGAIN_S, SHOWS_REST_S
from heron_mqtt.field.gateway.authority import SENDS
from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.place_claim import PlaceClaim
from heron_mqtt.field.vendor.commands import Commander, NotSent, PartlyTaken, SentLater, WriteBudget
from heron_mqtt.field.vendor.confirmation import Confirmation
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.keepalives import Keepalive, KeepaliveTimers
from heron_mqtt.field.vendor.link import NotTaken, RegisterPoll, VendorLink
from heron_mqtt.field.vendor.mapped_device import MappedDevice
from heron_mqtt.field.vendor.outgoing import RegisterCommand
from heron_mqtt.field.vendor.release_doubt import ReleaseDoubt
from heron_mqtt.field.vendor.setpoint_writer import ZERO
from heron_mqtt.field.vendor.stop_proof import StopProof
from heron_mqtt.field.vendor.vendor_state import StateUpdate
from heron_mqtt.messages import AuthorityState, LeaseState, Level, Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Callback, Received

log = logging.getLogger("heron_mqtt.vendor")

SETTLE_SHARE = 1 / 3  # of a lease: so long an accepted setpoint may wait for a power that has settled
POWER_AFTER_ANSWER_S = (
    1.0  # so long after its answer, once it has settled, a device may take to report a power
)
GOODBYE_S = 1.0  # how long handing the device back may take at the end; a run ends within 2 s
MOST_LEFT = 10  # instances that a stop keeps at 0: anyone may publish on topics that they are learned from
STOP_AGAIN_S = 1.0  # between two tries to tell a device that refuses of a stop


class VendorDevice(MappedDevice):
    """Translates for one device.

    - The device is told something only while it is driven: by a setpoint and its renewals, and by what ends
      them; and by an emergency stop if the gateway's authority over it is one that sends. Authority
      ``shadow`` sends nothing but keepalives.
    - A setpoint beyond the nameplate is clipped to it, whichever program sends it.
    - When the lease runs out, on a demotion below those that send, and at the end, the release of the mapping
      is sent. An emergency stop sets 0 and is not ended by a release: the device is handed back when the
      stop is. It is safe only while its power is known and next to 0, also one that is not told, because it
      can only be read or is in ``shadow``. While its power says that it is not at 0 it is told again.
    - ``lease`` says ``held`` until the device has taken its release, also while a stop keeps it at 0: what an
      earlier program of its name left, because it was killed, ended in a stop or could not hand it back, is
      handed back once it is heard.
    - Its last power counts for ``stale_after_s``. A device that says nothing for longer is a fault, and the
      gateway's model stands in. One that has said nothing yet is reported only.
    - What confirms a setpoint is said by the mapping; without the confirmation it counts as rejected.
    - A device with availability topics is offline until one of them says otherwise, or power is heard.

    Args:
        mapping: How the device speaks.
        link: What leads to it.
        kind: What it is: battery, generator, pv, load.
        power_range_mw: Nameplate, MW, positive = injected.
        stale_after_s: How long the device's last power counts, s.
        stands_alone: It is a program of its own: no gateway tells it the authority when it begins. A stop is
            sent to its device unless it is known to be in ``shadow`` or ``simulated``.
        answer_within_s: How long to wait for what confirms a setpoint, s; None = as the mapping says.
        budget: Counts writes; None = no limit.
        claim: Claimed before the device is told anything but a stop, left once it is in ``shadow``, does not
            rise by itself and was handed back. While another environment drives the device on this machine,
            setpoints are rejected, and what an earlier program left is not handed back. None = it is known
            to be this one's.
        utc_s: The time of day, s since 1970, for ``{now}`` and timestamps.
        new_id: Makes the identifiers of messages.
    """

    watches_its_rest = _tells_again = True

    def __init__(
        self,
        mapping: DeviceMapping,
        link: VendorLink,
        *args: Any,
        kind: str,
        power_range_mw: tuple[float, float],
        stale_after_s: float = 5.0,
        stands_alone: bool = False,
        answer_within_s: float | None = None,
        budget: WriteBudget | None = None,
        claim: PlaceClaim | None = None,
        utc_s: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        **kwargs: Any,
    ) -> None:
        mapping.check_range(power_range_mw)
        super().__init__(
            mapping,
            link,
            *args,
            kind=kind,
            power_range_mw=power_range_mw,
            stale_after_s=stale_after_s,
            answer_within_s=answer_within_s,
            utc_s=utc_s,
            new_id=new_id,
            **kwargs,
        )
        self._claim = claim
        self._stands_alone = stands_alone
        self._commander = Commander(
            mapping,
            self._send,
            within_s=self._within_s,
            budget=budget,
            monotonic=self._monotonic,
        )
        self._confirmation = Confirmation(mapping, self._count_problem)
        self._tried_to_hand_back = False  # at the end, which is short
        self._left_at_the_end: str | None = None  # for people, of one that was handed back with 0
        self._end_problem = ""  # why it was not told of the end, for people
        self._is_driven = False
        self._is_end_sent = False  # of the setpoint that it holds: its broker has taken it
        self._looks_at_release = False
        self._release_doubt = ReleaseDoubt()
        self._left_instances: list[dict[str, str]] = []  # learned before, which a stop keeps at 0
        self._is_held_by_stop = False
        self._owes_end = False  # it was not told of a stop or an end: caught up when it answers again
        self._caught_up_at, self._catch_up_pause = -math.inf, GrowingPause()
        self._rest.power_range_mw = power_range_mw
        self._rest.settle_s = 0.0 if mapping.setpoint is None else mapping.setpoint.settle_s
        self._stop_proof = StopProof(
            mapping,
            self._state,
            self._commander,
            self._rest,
            self._count_problem,
            stale_after_s=stale_after_s,
            answer_within_s=self._within_s,
        )
        self._hold_off, self._held_off_until, self._held_off_because = GrowingPause(), -math.inf, ""
        self._rests_at_zero = False  # it was handed back with 0, and has to be at 0
        self._level: Level | None = None
        self._rises = False  # to a level that sends, once its gates pass
        self._keepalives = KeepaliveTimers(mapping.keepalives, self._send_keepalive, self.label)
        self._settling: asyncio.TimerHandle | None = None
        self._waiting: Setpoint | None = None  # until the device takes the next write; a renewal, too
        self._waits_until: asyncio.TimerHandle | None = None

    # -- the device --------------------------------------------------------------------------------

    async def apply(self, setpoint: Setpoint) -> None:
        """Send it to the device, and wait for what confirms it."""
        self._drop_waiting()
        if not self._mapping.sets:
            return  # it can only be read: what it measures is the answer
        self._check_reachable()
        # What is read while registers are being written is of before.
        is_polled = self._mapping.registers is not None
        self._confirmation.begin(setpoint.seq, math.inf if is_polled else self._monotonic() + self._settle_s)
        try:
            if not await self._tell(setpoint):
                return  # the device holds it already
            self._confirmation.count_from(self._monotonic() + self._settle_s)
            await self._wait_for_confirmation(setpoint.lease_s)
        finally:
            self._confirmation.end()

    def _check_reachable(self) -> None:
        if not self._link.connected:  # it would wait, and reach the device when its lease is over
            raise SetpointRejected(f"there is no connection to {self._link.peer}")
        why = self._condition.why_unreachable(self._monotonic())
        if why is not None:
            raise SetpointRejected(why)

    async def _tell(self, setpoint: Setpoint, *, renewal: bool = False) -> bool:
        """Send a setpoint; returns whether anything was to be sent.

        Raises:
            SetpointDeferred: It is done later.
            SetpointRejected: It is not sent.
            BrokerError: The broker refused it.
        """
        if not renewal and self._monotonic() < self._held_off_until:
            raise SetpointRejected(self._held_off_because)
        try:
            if self._claim is not None:
                self._claim.take(self._state.learned)
            self._stop_proof.expect_no_answer()
            self._is_driven, self._is_end_sent = True, False  # also where sending fails half way
            self._rests_at_zero = False
            self._rest.see_nothing()
            clipped = self._clipped(setpoint)
            self._release_doubt.note_setpoint(clipped.p_mw)
            told = await self._commander.tell(clipped, self._context(), renewal=renewal)
            self._owes_end = False  # it holds a newer setpoint, which has an end of its own
            return told
        except SentLater as exc:
            self._do_later(setpoint, exc.within_s)
            raise SetpointDeferred(str(exc), exc.within_s) from None
        except PartlyTaken as exc:
            # A renewal without an answer says the same as before: the device holds the one or the other.
            if renewal and not exc.was_heard:
                raise SetpointRejected(str(exc)) from None
            raise SetpointRejected(await self._take_back(str(exc))) from None
        except (PlaceTaken, NotSent, NotTaken, MessageError) as exc:
            raise SetpointRejected(str(exc)) from None

    async def _take_back(self, why: str) -> str:
        """End a setpoint that the device may hold in part only; returns for people what was done.

        What it holds is a mixture: the mode of this setpoint with the power of another one, for example.
        Called with the device's lock held.
        """
        self._lease.end()
        self._held_off_until = self._monotonic() + self._hold_off.s
        self._held_off_because = (
            f"the device took a setpoint in part, less than {self._hold_off.s:g} s ago: none is sent: {why}"
        )
        self._hold_off.grow()
        await self._make_safe(f"a setpoint was taken in part: {why}")
        how = "its release" if self._mapping.releases_by_messages else "a setpoint of 0"
        done = f"{how} could not be sent and is sent again" if self._owes_end else f"it was sent {how}"
        return f"{why}; it may have taken a part of the setpoint: {done}"

    def _do_later(self, setpoint: Setpoint, wait_s: float) -> None:
        """Do a setpoint, or a renewal, when the device takes it, unless something else comes first."""
        self._waiting = setpoint
        if not setpoint.renewal:
            self._lease.defer()
        loop = asyncio.get_running_loop()
        self._waits_until = loop.call_later(wait_s, lambda: self._spawn(self._do_waiting(setpoint)))

    def _drop_waiting(self) -> None:
        self._waiting = None
        if self._waits_until is not None:
            self._waits_until.cancel()
            self._waits_until = None

    async def _do_waiting(self, setpoint: Setpoint) -> None:
        """Do what has waited as if it came now; something newer, or an end, may have come first."""
        async with self._busy:
            if self._waiting is not setpoint or self._lease.holder is None:
                return
            self._drop_waiting()
            try:
                await (self._renew_late if setpoint.renewal else self._follow_late)(setpoint)
            except Exception as exc:
                if not setpoint.renewal:
                    self._undo()
                self._failed("renew" if setpoint.renewal else "apply", exc)

    async def _renew_late(self, renewal: Setpoint) -> None:
        if self._lease.is_running:
            await self.renew(renewal)

    async def _follow_late(self, setpoint: Setpoint) -> None:
        """Do a setpoint that has waited; if it is not done the device has the one before, or none."""
        try:
            if not self._lease.is_running:  # it went on while the machine slept, and the timer did not
                raise SetpointRejected("its lease is over")
            await self._apply(setpoint)
        except SetpointDeferred:
            return  # the timer was early: it waits on
        except (SetpointRejected, HeronError) as exc:
            self._count_problem("setpoint", f"a setpoint that waited was not done: {exc}")
            self._undo()
        else:
            self._held = setpoint
            self._lease.note_done()
        await self._publish_telemetry()
        if self._owes_end and not self.is_safe:  # its lease would put off what is still owed
            self._lease.end()
            await self._make_safe("a setpoint that waited was rejected, and an end is still owed")

    def _clipped(self, setpoint: Setpoint) -> Setpoint:
        """Return a setpoint within the nameplate; the device itself may know no bounds."""
        low, high = self._range
        p_mw = min(max(setpoint.p_mw, low), high)
        if p_mw == setpoint.p_mw:
            return setpoint
        log.warning("%s: %g MW is beyond its nameplate: %g MW is sent", self.label, setpoint.p_mw, p_mw)
        return setpoint.model_copy(update={"p_mw": p_mw})

    async def _wait_for_confirmation(self, lease_s: float) -> None:
        within_s = self._within_s + self._settle_s
        until = self._monotonic() + within_s
        try:
            await self._confirmation.wait(within_s)
        except TimeoutError:
            what = f"nothing on {', '.join(self._confirmation.topics)} within {within_s:g} s"
            if self.confirm != "sent":
                raise SetpointRejected(await self._after_refusal(f"not acknowledged: {what}")) from None
            log.debug("%s: %s of a setpoint", self.label, what)
        answer = self._confirmation.answer
        if answer is not None and not answer.accepted:
            raise SetpointRejected(await self._after_refusal(f"rejected by the device: {answer.reason}"))
        self._hold_off.reset()
        # What was measured before the answer is not of this setpoint. Renewals wait behind it: it must not
        # take a good part of the lease.
        if self.confirm == "answer" and within_s <= SETTLE_SHARE * lease_s:
            with suppress(TimeoutError):  # it is acknowledged, with what was measured before
                left_s = until - self._monotonic()
                await self._confirmation.wait_for_power(min(left_s, self._settle_s + POWER_AFTER_ANSWER_S))

    async def _after_refusal(self, why: str) -> str:
        """Return why a setpoint is rejected, once nothing of it is left in the device.

        Of several messages the answer may be to one, and another taken.
        """
        self._commander.note_refusal()
        is_of_several = self.confirm == "answer" and self._commander.parts > 1
        return await self._take_back(why) if is_of_several else why

    async def renew(self, setpoint: Setpoint) -> None:
        """Send it again, so that a timer in the device begins anew."""
        self._drop_waiting()
        if self._mapping.sets and self._link.connected and not self._offline():
            try:
                await self._tell(setpoint, renewal=True)
            except SetpointRejected as exc:
                log.warning("%s: a renewal was not sent: %s", self.label, exc)

    async def go_safe(self, reason: str) -> None:
        """Set the device to 0 in an emergency stop; else hand it back, if it is driven.

        One that was displaced leaves it to its successor, which knows from the lease that it is driven.
        """
        if not self._mapping.sets or self._taken_by is not None:
            return
        if self.stopped:
            if self._is_driven or self._is_held_by_stop or self._obeys_stops:
                self._owes_end = True
                self._release_doubt.end()
                self._stop_proof.begin()  # what it says at once may come before we know it
                # Also where it is another one's.
                p_mw = self._p_mw_now()
                is_at_rest = p_mw is not None and self._rest.is_at_rest(p_mw)
                self._report_instead(await self._commander.stop(self._context(), is_at_rest=is_at_rest))
                if self._mapping.registers is not None:  # read while they were written, it is of before
                    self._rest.note_told()
                self._is_held_by_stop = self._claim_place("it is not handed back after the stop")
                self._is_driven = self._owes_end = False
        elif self.is_driven or self._owes_end or self._is_watched:  # a stop may have reached it in part
            self._owes_end = True
            if self._claim_place("it is not handed back"):
                await self._release()
                self._rests_at_zero = self._mapping.releases_to_zero(self._context())
                self._rest.note_told()
                p_mw = self._p_mw_now()
                if self._rests_at_zero and p_mw is not None and not self._rest.is_at_rest(p_mw):
                    self._rest.assume_power()
            self._is_driven = self._is_held_by_stop = self._owes_end = False
            if self._claim is not None and not self._is_ours:
                self._claim.close()  # it is only watched from now on: another one may drive it

    async def _release(self) -> None:
        """Send it its release.

        Raises:
            BrokerError, MessageError: It could not be sent.
            NotTaken: It was refused, or the device was not there to hear it.
        """
        while self._left_instances:  # they are at 0, as they were told
            left = replace(self._context(), learned=self._left_instances[-1])
            self._left_instances.pop()  # told once: it is not read any more
            with suppress(MessageError):
                await self._commander.release(left)
        self._stop_proof.await_answer(self._monotonic() + 2.0 * self._within_s)  # sent within one of them
        self._report_instead(await self._commander.release(self._context()))
        self._is_end_sent = True
        await self._see_release_taken()

    async def _see_release_taken(self) -> None:
        """Wait a moment for what is against the release that it was sent just now.

        Raises:
            NotTaken: As with ``_release``.
        """
        self._looks_at_release = True  # until that is known: what breaks it off may look again
        why = await self._stop_proof.refusal()
        self._looks_at_release = False
        if why is not None:
            raise NotTaken(f"its release was rejected by the device: {why}")
        if (why := self._why_unheard()) is not None:
            raise NotTaken(f"its release was sent while it was not there: {why}", was_heard=False)
        self._stop_proof.note_released(self._monotonic())
        if self._mapping.registers is None and self._mapping.releases_by_messages:
            self._release_doubt.note_release(self._monotonic())

    async def _release_once_more(self) -> None:
        """Send its release again to a device that goes on as before; another's is left alone."""
        async with self._busy:
            if self._is_ours and not (self.stopped or self.is_driven or self._owes_end):
                log.warning(
                    "%s: its power is that of its last setpoint: its release is sent again", self.label
                )
                with suppress(HeronError):
                    await self._commander.release(self._context())

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

    def _on_silence(self, why: str) -> None:
        """Owe a release to a device that was last heard before it was sent: it may have been away by then."""
        super()._on_silence(why)
        is_over = self.is_safe and not (self.stopped or self.is_driven)
        if is_over and self._mapping.registers is None and self._stop_proof.was_silent_since_release:
            self._is_driven = self._owes_end = True
            self._tell_holder()

    def _owe_rejected_release(self) -> None:
        """Owe a release that the device has rejected after it was no longer waited for."""
        if (why := self._stop_proof.rejection) is None or self.stopped or self.is_driven or not self.is_safe:
            return
        self._count_problem("setpoint", f"its release was rejected by the device: {why}")
        self._is_driven, self._owes_end, self._is_end_sent = True, True, False
        self._caught_up_at = self._monotonic()
        self._tell_holder()

    def _has_to_tell_instance(self) -> bool:
        if self._is_held_by_stop:
            return not self._rest.has_rested  # it may have been away when the stop was sent
        return self._is_driven and not self._is_end_sent

    def _report_instead(self, instead: str | None) -> None:
        if instead is not None:
            self._count_problem("setpoint", instead)

    def _claim_place(self, otherwise: str) -> bool:
        """Whether the device is this environment's to tell; else says what follows."""
        try:
            if self._claim is not None:
                self._claim.take(self._state.learned)
        except PlaceTaken as exc:
            log.warning("%s: %s: %s", self.label, otherwise, exc)
            return False
        return True

    @property
    def _obeys_stops(self) -> bool:
        """Whether a stop is sent to the device although no setpoint was."""
        return self._level in SENDS or (self._stands_alone and self._level is None)

    @property
    def is_settable(self) -> bool:
        """Whether the device is told anything from here; not one to be read only, nor one in ``shadow``."""
        is_watched = self._level is not None and self._level not in SENDS and not self.is_driven
        return bool(self._mapping.sets) and not is_watched

    @property
    def owes_safe_state(self) -> bool:
        """Whether the device has still to be told of a stop or an end, or is not at 0 in a stop."""
        # Having taken the stop is not being at 0.
        if self._owes_end or not self.stopped:
            return self._owes_end or self._left_rest
        return not (self._has_taken_stop() and self._rests_in_stop())

    @property
    def _is_watched(self) -> bool:
        """Whether its power has to show that a lease is over: it was sent 0, and not its own control.

        Not of one that is only watched from then on: another one may drive it.
        """
        is_told = self._owes_end or self.is_driven
        return self._rests_at_zero and self._is_ours and not (self.stopped or is_told)

    @property
    def _is_ours(self) -> bool:
        """Whether it is told anything, or will be without being asked: no other one is to drive it."""
        return self.is_settable or self._rises

    @property
    def _left_rest(self) -> bool:
        return self._is_watched and self._rest.keeps_power

    def _see(self, telemetry: Telemetry | None, *, has_failed: bool) -> None:
        """Look at its power after a lease, as far as it is of after it was sent 0.

        Of its reactive power that is not known. One that had power and says nothing more has it still.
        """
        p_mw = self._stop_proof.known_p_mw(self._monotonic(), was_told=True, is_offline=self._offline())
        if p_mw is not None:
            self._rest.see(p_mw)
        elif self._rest.seen is PowerSeen.AT_REST:
            self._rest.see_nothing()

    def _rests_in_stop(self) -> bool:
        """Look at the power that is known in a stop; returns whether it is next to 0."""
        return self._stop_proof.look(
            self._monotonic(), was_told=self._is_held_by_stop, is_offline=self._offline()
        )

    def _has_taken_stop(self) -> bool:
        return not self._is_held_by_stop or self._stop_proof.is_taken()

    def _watch_rest(self) -> None:
        """Look, in a stop, whether the device is at 0: it may have restarted, or another one told it."""
        if not (self.stopped and self.is_safe) or self._owes_end:
            return
        if self._is_held_by_stop:
            self._rests_in_stop()
            self._owes_end = self._stop_proof.must_be_told_again(self._monotonic())
        if self.owes_safe_state:
            self.rest_lost()
        else:
            self.rest_reached()

    def measure(self) -> Telemetry | None:
        """Return what the device said last; None until it has said its power, and once that is too old."""
        self._prove_life()
        self._tell_trouble()
        now_s = self._monotonic()
        if self._link.connected and self._state.is_alive(now_s, self._stale_after_s):
            self._watch_rest()  # also one that has nothing new to say, as it reports what changes
            self._catch_up_soon()
        telemetry = self._state.telemetry(now_s, self._stale_after_s)
        age_s = self._state.age_s("p_mw", now_s)
        # What it is while it is offline, is of now.
        is_by_mapping = self._offline() and not self._stop_proof.may_hold_power
        if telemetry is None or is_by_mapping or not 0.0 < age_s < math.inf:
            return telemetry
        return telemetry.model_copy(update={"age_s": round(age_s, 3)})

    @property
    def is_driven(self) -> bool:
        """Whether the device may hold a setpoint of ours: it was sent one, and was not handed back since."""
        return self._is_driven or self._is_held_by_stop

    @property
    def left_undone(self) -> str | None:
        """What is wrong, for people, where its program ends now; None = nothing.

        It was not handed back; or a stop is in force, and the device has not taken it or is not known to be
        at 0. One that is not told of stops, because it can only be read or is in ``shadow``, is not ours.
        """
        if self.stopped and (self._is_held_by_stop or self._owes_end):
            self._rests_in_stop()
            has_taken_it = not self._owes_end and self._has_taken_stop()
            left = self._rest.left_in_stop(has_taken_it=has_taken_it)
        elif self._left_at_the_end is not None:
            left = self._left_at_the_end
        else:
            left = self._why_not_returned()
        return f"{left}: {self._end_problem}" if left is not None and self._end_problem else left

    @property
    def confirm(self) -> str:
        """What confirms a setpoint: answer, power or sent."""
        return self._mapping.confirmed_by

    async def run(
        self,
        *,
        duration_s: float | None = None,
        once: bool = False,
        on_online: Callable[[], None] | None = None,
    ) -> None:
        """Listen to the device and keep it talking, and serve; see ``FieldDevice.run``."""
        endings = self._link.listen(self._mapping.topic_filters(), self._on_raw, self._on_poll)
        endings += [self._link.on_return(self._returned), self._keepalives.end]
        self._keepalives.begin()
        self._pause = PauseDetector.of_running_loop()
        self._pause.start()
        watching = asyncio.create_task(self._silence_watch.run(self._pause), name=f"silence {self.label}")
        try:
            await super().run(duration_s=duration_s, once=once, on_online=on_online)
        finally:
            watching.cancel()
            self._pause.stop()
            if self._settling is not None:
                self._settling.cancel()
            for end in endings:
                end()
            self._drop_waiting()
            if not self._tried_to_hand_back:
                await self._hand_back()
            self._tell_end_in_stop()

    # -- what the device says ----------------------------------------------------------------------

    def _on_raw(self, topic: str, payload: bytes, retained: bool) -> None:
        was, now_s = self._state.status(), self._monotonic()
        held = self._state.learned if self._is_held_by_stop else {}
        taken = self._state.take(topic, payload, now_s, retained=retained)
        if held:
            self._note_left_instance(held)
        if taken is not None:
            self._take_in(topic, taken, retained, now_s)
            if not retained:
                self._prove_life()
                self._tell_trouble()
        if not retained:
            self._confirmation.take_answer(topic, payload, self._commander.values, now_s)
            if self._stop_proof.take_answer(topic, payload, self._commander.values, now_s):
                self._owe_rejected_release()
                self._watch_rest()
                self._catch_up_soon()
        self._after_news(was)

    def _note_left_instance(self, held: dict[str, str]) -> None:
        """Remember the instance that a stop keeps at 0, if another one was learned in its place just now."""
        now = self._state.learned
        if now != held and now.keys() == held.keys() and len(self._left_instances) < MOST_LEFT:
            self._left_instances.append(held)

    def _on_poll(self, poll: RegisterPoll) -> None:
        was = self._state.status()
        taken = self._state.take_document(
            poll.source, poll.values, poll.at_s, shown=poll.shown, unread=poll.unread
        )
        if taken is not None:
            self._take_in(poll.source, taken, False, poll.at_s)
        self._after_news(was)
        if poll.values:
            self._watch_rest()
            self._catch_up_soon()

    def _after_news(self, was: Status | None) -> None:
        """Do what follows from what the device said, given its status before."""
        now = self._state.status()
        if was is not None and was.state == "offline" and now is not None and now.state != "offline":
            self._commander.forget()  # a device that was away may have forgotten what it was told
            self._caught_up_at = -math.inf
            self._tell_stop_again()
        self._ask_for_births()
        if (due_s := self._state.due_s) is not None and self._settling is None:
            wait_s = max(0.0, due_s - self._monotonic())
            self._settling = asyncio.get_running_loop().call_later(wait_s, self._settle)

    def _settle(self) -> None:
        self._settling = None
        now_s = self._monotonic()
        self._take_in("", self._state.settle(now_s), False, now_s)

    def _take_in(self, topic: str, taken: StateUpdate, retained: bool, came_at: float) -> None:
        for problem in taken.problems:
            self._count_problem(topic, problem)
        for note in taken.notes:
            log.log(logging.WARNING if note.is_change else logging.INFO, "%s: %s", self.label, note.text)
            if note.is_change:
                self._broker.stats.report("device", self.label, note.text)
        measured = not retained and "p_mw" in taken.fields
        if measured:
            p_mw = float(taken.fields["p_mw"])
            self._stop_proof.take_power(p_mw, came_at)
            if self._release_doubt.is_due(p_mw, came_at):
                self._spawn(self._release_once_more())
            self._silence_watch.heard()
            self._condition.speaks()
            self._watch_rest()
            self._catch_up_soon()  # only now it is sure to hear it: it may have come back after us
        self._tell_trouble()  # before the answer, so that it counts
        self._confirmation.take_fields(taken.fields, came_at, is_measured=measured)

    @property
    def _settle_s(self) -> float:
        assert self._mapping.setpoint is not None  # asked for only where something was told
        return self._mapping.setpoint.settle_s

    # -- handing it back ---------------------------------------------------------------------------

    async def give_up(self) -> str | None:
        """Hand the device back although its program goes on; it serves the next setpoint as ever.

        Returns:
            Why it may still hold its last setpoint, for people: its release is owed, and told again. None =
            it is handed back, or was not driven.
        """
        if self.stopped:
            return "an emergency stop is in force"
        self._lease.end()
        async with self._busy:
            if self._is_driven or self._owes_end:
                await self._make_safe("its adapter is replaced")
        return self._why_not_returned()

    def _why_not_returned(self) -> str | None:
        is_owed = self.is_driven or self._owes_end
        return "it was not handed back, and may hold its last setpoint" if is_owed else None

    async def _rest_at_the_end(self, *, is_alone: bool) -> None:
        await self._hand_back()
        self._tried_to_hand_back = True  # not if it was cancelled once more meanwhile

    async def _hand_back(self) -> None:
        """Hand the device back at the end: no lease is renewed any more. In a stop it stays where it is."""
        is_held = self._is_held_by_stop and self.stopped and not self._owes_end
        if self._is_watched and (self._rest.has_power or self._rest.is_in_trouble):
            self._left_at_the_end = self._left_with_power()
        is_at_hand = self._is_driven or (self._is_held_by_stop and not is_held)
        if not (is_at_hand or self._owes_end or self._left_at_the_end is not None):
            if self._left_rest:  # told a moment ago, and not measured since
                await self._wait_for_rest()
            return
        if not (self._link.connected or self._link.connects_to_send):
            self._end_problem = f"no connection to {self._link.peer}"
            log.warning("%s: the device was not handed back: there is %s", self.label, self._end_problem)
            self._broker.stats.report("device", self.label, f"not handed back: {self._end_problem}")
            return
        try:
            async with asyncio.timeout(GOODBYE_S):
                if self._looks_at_release and not self.stopped:
                    await self._see_release_taken()
                    self._is_driven = self._owes_end = False
                else:
                    await self._tell_of_end()
                self._end_problem = ""
                if self._left_at_the_end is not None or self._is_watched:
                    await self._wait_for_rest()
        except (HeronError, TimeoutError) as exc:
            why = self._end_problem = str(exc) or self._unanswered_end()
            self._broker.stats.report("device", self.label, f"it is not sure that it was handed back: {why}")

    async def _wait_for_rest(self) -> None:
        """Wait whether the device shows the 0 that it was told; power that falls is on its way there.

        One that was driven until now may only be slow: that it has power is said, and its lease stays held.
        """
        was_told_before = self._left_at_the_end is not None
        first_mw: float | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(SHOWS_REST_S):
                while self._rest.seen is not PowerSeen.AT_REST:
                    if self._rest.has_power:
                        first_mw = self._rest.p_mw if first_mw is None else first_mw
                        self._left_at_the_end = self._left_with_power()
                    await asyncio.sleep(LOOK_AGAIN_S)
                    self._see(None, has_failed=False)
                self._left_at_the_end = None
        if self._rest.seen is PowerSeen.NOTHING:
            self._rest.see_nothing()  # it has taken its release; how fast it gets there is its own
        if self._rest.falls_from(first_mw):
            log.warning("%s: %s, which falls", self.label, self._left_with_power())
            self._left_at_the_end = None
        elif not was_told_before and self._left_at_the_end is not None:
            self._broker.stats.report("device", self.label, f"not known to be at 0: {self._left_at_the_end}")
            self._left_at_the_end = None

    def _left_with_power(self) -> str:
        return f"it was handed back with 0, and {self._rest.shown}"

    async def _tell_of_end(self) -> None:
        """Hand the device back; once more, over a new connection, where the first was lost with it."""
        try:
            await self.go_safe("the end")
        except NotTaken as exc:
            if exc.was_heard or not self._link.connects_to_send:
                raise
            log.warning("%s: at its end: %s; it is tried once more over a new connection", self.label, exc)
            await self.go_safe("the end")

    def _unanswered_end(self) -> str:
        """Say what a device was to be told at its end, and why that was not done in time."""
        context = self._context()
        messages = self._mapping.write(ZERO, context)[0] if self.stopped else self._mapping.release(context)
        pauses_s = sum(message.pause_s for message in messages)
        if pauses_s >= GOODBYE_S:  # of a stop: it waits for the rest with 0 in it, if it has taken that
            return f"its messages wait {pauses_s:g} s between them (pause_s), and the end is {GOODBYE_S:g} s"
        writes = [w for message in messages if isinstance(message, RegisterCommand) for w in message.writes]
        names = ", ".join(dict.fromkeys(name for write in writes for name in write.names))
        silence = f"{self._link.peer} does not answer"
        return f"{names}: {silence}" if names else silence

    def _tell_end_in_stop(self) -> None:
        """Say at the end what is known of a device that a stop is to keep at 0."""
        if not (self.stopped and (self._is_held_by_stop or self._owes_end)):
            return
        if (left := self.left_undone) is not None:
            self._broker.stats.report("device", self.label, f"nothing watches it any more: {left}")
        else:
            log.warning("%s: %s", self.label, self._rest.kept)

    async def _on_estop(self, message: Received) -> None:
        was = self.stopped
        await super()._on_estop(message)
        if not self.stopped:
            self._stop_proof.end()
        if was and not self.stopped and (self._is_held_by_stop or self._owes_end):
            await self._end_lease("the emergency stop is over")

    # -- keepalives --------------------------------------------------------------------------------

    def _returned(self) -> None:
        self._state.reconnected(self._monotonic())
        self._ask_for_births()
        self._keepalives.begin()
        if self._mapping.registers is not None:
            self._commander.note_absence()  # it may have been started anew, and hold nothing
        self._tell_stop_again()
        self._caught_up_at = -math.inf

    def _tell_stop_again(self) -> None:
        """Owe the stop that is in force to a device that was away, and may have forgotten it."""
        if self.stopped and self._is_held_by_stop:
            self._owes_end = True

    def _catch_up_soon(self) -> None:
        """Tell a device that is there of a stop or an end that did not reach it, or that it refused."""
        now_s = self._monotonic()
        pause_s = STOP_AGAIN_S if self.stopped else self._catch_up_pause.s
        is_due = self._owes_end and now_s >= self._caught_up_at + pause_s
        if is_due and (self.stopped or self._why_unheard() is None):
            self._caught_up_at = now_s
            self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        async with self._busy:
            if self._owes_end and self.is_safe:
                log.warning("%s: it is reachable again and must be told", self.label)
                await self._tell_to_rest("it is reachable again and must be told")
                if self._owes_end:
                    self._catch_up_pause.grow()
                else:
                    self._catch_up_pause.reset()
        if self.stopped:
            self._confirm_stop()

    def _send_keepalive(self, keepalive: Keepalive, is_first: bool) -> bool:
        """Send a keepalive if it is wanted now; returns whether it was sent."""
        # The timer stands still while the machine sleeps, the lease does not.
        is_held = self._is_driven and bool(self._commander.values) and self._lease.is_running
        if (keepalive.while_driven and not is_held) or not self._link.connected:
            return False  # without a connection it would only wait in the queue
        try:
            message = keepalive.message(self._context(), self._commander.values, first=is_first)
        except MessageError as exc:
            self._count_problem("keepalive", f"a keepalive was not sent: {exc}")
            return False
        if message is None:
            return False
        self._send(message)
        return True

    # -- authority ---------------------------------------------------------------------------------

    def _own_channels(self) -> list[tuple[str, Callback]]:
        """Put what tells whether a stop is sent before the stop: the broker may have kept both."""
        authority = topics.device(self.agent_id, self.name, "authority_state")
        lease = topics.device(self.agent_id, self.name, "lease")
        return [(authority, self._on_authority), (lease, self._on_lease), *super()._own_channels()]

    def _on_lease(self, message: Received) -> None:
        """Notice that an earlier program of this name was killed while the device held a setpoint."""
        if not message.retained or not self._mapping.sets:
            return
        state = self._broker.parsed(message, LeaseState)
        if state is None or state.state != "held" or state.boot == self._stamper.boot or self._is_driven:
            return
        log.warning("%s: an earlier program ended while it held the device, which is handed back", self.label)
        self._is_driven = self._owes_end = True  # caught up when the device is heard
        self._commander.moved_at = self._monotonic()  # what it was told last is not known here
        self._notice.take_over(Holder(state.holder, state.holder_boot))
        self._tell_holder()  # the next program has to know it, too

    def _holder_to_tell(self) -> Holder | None:
        """Return whose setpoints are followed; the last one's until the device was handed back, or is at 0.

        The device itself holds what a stop keeps at 0. The broker keeps it, and by it alone the next program
        knows that the device is to be handed back.
        """
        if self._is_held_by_stop and not self._lease.is_running:
            return Holder(self.label, self._stamper.boot)
        return super()._holder_to_tell()

    @property
    def _may_have_power(self) -> bool:
        has_power = self._left_rest and not self._rest.is_set_elsewhere
        return self._is_driven or has_power or self._left_at_the_end is not None

    async def _on_authority(self, message: Received) -> None:
        if message.retained and not (self._stands_alone and self._level is None):
            return  # of an earlier run; the gateway of this one tells when it begins
        state = self._broker.parsed(message, AuthorityState)
        if state is None:
            return
        before, self._level = self._level, state.level
        self._rises = state.ceiling in SENDS
        if self.stopped and before not in SENDS and state.level in SENDS:
            async with self._busy:
                await self._make_safe("it came under control during an emergency stop")
        elif state.level not in SENDS and self._is_driven and not self.stopped:
            await self._end_lease(f"its authority is {state.level} now")

    async def _end_lease(self, reason: str) -> None:
        """Hold no setpoint any more: the device is handed back at once."""
        self._lease.end()
        async with self._busy:
            await self._make_safe(reason)
