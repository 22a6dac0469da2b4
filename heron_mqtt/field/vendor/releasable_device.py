"""How a vendor's device goes to its safe state: a stop sets it to 0, anything else hands it back."""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Callable
from typing import Any

from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.place_claim import PlaceClaim
from heron_mqtt.field.vendor.commands import Commander, WriteBudget
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.device_release import DeviceRelease
from heron_mqtt.field.vendor.link import RegisterPoll, VendorLink
from heron_mqtt.field.vendor.mapped_device import MappedDevice
from heron_mqtt.field.vendor.release_at_end import ReleaseAtEnd
from heron_mqtt.field.vendor.stop_proof import StopProof
from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging.base import Received

log = logging.getLogger("heron_mqtt.vendor")


class ReleasableDevice(MappedDevice, abc.ABC):
    """A device to which a mapping sends stops and the end of its setpoints.

    ``DeviceRelease`` knows what it holds and what is owed to it, ``ReleaseAtEnd`` what is left at the end of
    the program. What it does between is up to ``VendorDevice``, which has the arguments.
    """

    watches_its_rest = _tells_again = True

    def __init__(
        self,
        mapping: DeviceMapping,
        link: VendorLink,
        *args: Any,
        power_range_mw: tuple[float, float],
        stale_after_s: float,
        budget: WriteBudget | None,
        claim: PlaceClaim | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            mapping, link, *args, power_range_mw=power_range_mw, stale_after_s=stale_after_s, **kwargs
        )
        self._commander = Commander(
            mapping,
            self._send,
            within_s=self._within_s,
            budget=budget,
            monotonic=self._monotonic,
        )
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
        self._release = DeviceRelease(
            self.label,
            mapping,
            self._commander,
            self._state,
            self._condition,
            self._stop_proof,
            self._rest,
            self._stop,
            claim,
            stale_after_s=stale_after_s,
            answer_within_s=self._within_s,
            monotonic=self._monotonic,
            context=self._context,
            is_power_known=self._is_power_known,
            is_ours=lambda: self._is_ours,
            count_problem=self._count_problem,
        )
        self._end = ReleaseAtEnd(
            self.label,
            mapping,
            link,
            self._release,
            self._rest,
            self._stop,
            monotonic=self._monotonic,
            go_safe=self.go_safe,
            context=self._context,
            report=self._report,
        )

    # -- what it is told -----------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def _obeys_stops(self) -> bool:
        """Whether a stop is sent to the device although no setpoint was."""

    @property
    @abc.abstractmethod
    def _is_ours(self) -> bool:
        """Whether anything is sent to it, or will be without a request: no other program may drive it."""

    async def go_safe(self, reason: str) -> None:
        """Set the device to 0 in an emergency stop; else hand it back, if it is driven.

        One that was displaced leaves it to its successor, which knows from the lease that it is driven.
        """
        if not self._mapping.sets or self._taken_by is not None:
            return
        if self.stopped:
            if self.is_driven or self._obeys_stops:
                await self._release.send_stop()
        elif self.is_driven or self._release.is_owed or self._is_watched:  # a stop may be in it in part
            await self._release.hand_back()

    def _on_silence(self, why: str) -> None:
        super()._on_silence(why)
        self._commander.note_absence()  # it may have missed what it was sent
        if self.is_safe and self._release.owe_unheard():
            self._tell_holder()

    def _has_to_tell_instance(self) -> bool:
        return self._release.keeps_instance

    @property
    def is_driven(self) -> bool:
        """Whether the device may hold a setpoint of ours: it was sent one, and was not handed back since."""
        return self._release.is_driven

    @property
    def left_undone(self) -> str | None:
        """What is wrong, for people, where its program ends now; None = nothing.

        It was not handed back; or a stop is in force, and the device has not taken it or is not known to be
        at 0. One that is not told of stops, because it can only be read or is in ``shadow``, is not ours.
        """
        return self._end.left_undone or self.left_unheeded()

    async def run(
        self,
        *,
        duration_s: float | None = None,
        once: bool = False,
        on_online: Callable[[], None] | None = None,
    ) -> None:
        """Listen to the device and keep it talking, and serve; see ``FieldDevice.run``."""
        try:
            await super().run(duration_s=duration_s, once=once, on_online=on_online)
        finally:
            if not self._end.is_tried:
                await self._end.hand_back()
            self._end.tell_in_stop()

    async def give_up(self) -> str | None:
        """Hand the device back although its program continues; it serves the next setpoint as ever.

        Returns:
            Why it may still hold its last setpoint, for people: its release is owed, and told again. None =
            it is handed back, or was not driven.
        """
        if self.stopped:
            return "an emergency stop is in force"
        self._lease.end()
        async with self._busy:
            if self._release.holds_setpoint or self._release.is_owed:
                await self._make_safe("its adapter is replaced")
            why = await self._end.why_unproven()
            self._tell_holder()
        return why or self._end.unreturned

    async def _rest_at_the_end(self, *, is_alone: bool) -> None:
        await self._end.hand_back()

    async def _release_once_more(self) -> None:
        async with self._busy:
            await self._release.send_once_more()

    def _catch_up_soon(self) -> None:
        """Send a reachable device a stop or a release that did not reach it, or that it refused."""
        if self._release.is_due():
            self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        async with self._busy:
            if self._release.is_owed and self.is_safe:
                log.warning("%s: it is reachable again and gets its last stop or release", self.label)
                await self._tell_to_rest("it is reachable again and gets its last stop or release")
                self._release.note_tried()
        if self.stopped:
            self._confirm_stop()

    async def _on_estop(self, message: Received) -> None:
        was = self.stopped
        await super()._on_estop(message)
        if not self.stopped:
            self._stop_proof.end()
        if was and not self.stopped and (self._release.is_held_by_stop or self._release.is_owed):
            await self._end_lease("the emergency stop is over")

    async def _end_lease(self, reason: str) -> None:
        """Hold no setpoint any more: the device is handed back at once."""
        self._lease.end()
        async with self._busy:
            await self._make_safe(reason)

    # -- what it says --------------------------------------------------------------------------------

    def _on_raw(self, topic: str, payload: bytes, retained: bool) -> None:
        held = self._state.learned if self._release.is_held_by_stop else {}
        super()._on_raw(topic, payload, retained)
        self._release.note_instance(held)

    def _take_answer(self, topic: str, payload: bytes, at_s: float) -> None:
        if self._stop_proof.take_answer(topic, payload, self._commander.values, at_s):
            if self.is_safe and self._release.owe_rejected():
                self._tell_holder()
            self._look_what_is_owed()

    def _on_poll(self, poll: RegisterPoll) -> None:
        super()._on_poll(poll)
        if poll.values:
            self._look_what_is_owed()

    def _came_back(self) -> None:
        self._commander.forget()  # a device that was away may have forgotten what it was told
        self._release.try_at_once()
        self._release.owe_stop()

    def _take_power(self, p_mw: float, came_at: float) -> None:
        self._stop_proof.take_power(p_mw, came_at)
        if self._release.is_doubted(p_mw, came_at):
            self._spawn(self._release_once_more())
        super()._take_power(p_mw, came_at)
        self._look_what_is_owed()  # only now it is sure to hear it: it may have come back after us

    def _returned(self) -> None:
        super()._returned()
        if self._mapping.registers is not None:
            self._commander.note_absence()  # it may have been started again, and hold nothing
        self._release.owe_stop()
        self._release.try_at_once()

    def _look_what_is_owed(self) -> None:
        self._watch_rest()
        self._catch_up_soon()

    def _see(self, telemetry: Telemetry | None, *, has_failed: bool) -> None:
        """Look at what the device says, which shows more than the telemetry that is made of it."""
        self._release.look_after_lease()

    def _watch_rest(self) -> None:
        """Look, in a stop, whether the device is at 0: it may have restarted, or another one told it."""
        if not (self.stopped and self.is_safe) or self._release.is_owed:
            return
        self._release.look_in_stop()
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
            self._look_what_is_owed()  # also of one that has nothing new to say, as it reports what changes
        telemetry = self._state.telemetry(now_s, self._stale_after_s)
        age_s = self._state.age_s("p_mw", now_s)
        # What it is while it is offline, is of now.
        is_by_mapping = self._offline() and not self._stop_proof.may_hold_power
        if telemetry is None or is_by_mapping or not 0.0 < age_s < math.inf:
            return telemetry
        return telemetry.model_copy(update={"age_s": round(age_s, 3)})

    @property
    def owes_safe_state(self) -> bool:
        """Whether the device has still to be told of a stop or an end, or is not at 0 in a stop."""
        return self._release.owes_safe_state

    @property
    def _is_watched(self) -> bool:
        return self._release.is_watched

    # -- whose setpoint it holds ---------------------------------------------------------------------

    @property
    def _may_be_left_driven(self) -> bool:
        """As with any device; one that is watched only was driven by another authority before."""
        return bool(self._mapping.sets) and not self._release.holds_setpoint

    def _bring_to_rest(self, left_by: Holder) -> None:
        """Have the device handed back once it is received."""
        log.warning("%s: an earlier program ended while it held the device, which is handed back", self.label)
        self._release.take_over()
        self._notice.take_over(left_by)
        self._tell_holder()  # the next program has to know it, too

    def _holder_to_tell(self) -> Holder | None:
        """Return whose setpoints are followed; the last one's until the device was handed back, or is at 0.

        The device itself holds what a stop keeps at 0. The broker keeps it, and by it alone the next program
        knows that the device is to be handed back.
        """
        if self._release.is_held_by_stop and not self._lease.is_running:
            return Holder(self.label, self._stamper.boot)
        return super()._holder_to_tell()

    @property
    def _may_have_power(self) -> bool:
        has_power = self._release.left_rest and not self._rest.is_set_elsewhere
        return self._release.holds_setpoint or has_power or self._end.left_with_power is not None
