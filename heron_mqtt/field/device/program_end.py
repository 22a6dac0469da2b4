"""How a device ends: what it is doing is ended, its hardware brought to rest, and what is left is said."""

from __future__ import annotations

import abc
import asyncio
import inspect
import logging

from heron_mqtt.end_times import BREAK_OFF_S, TELL_END_S
from heron_mqtt.errors import HeronError, NotHandedBack, NotReady
from heron_mqtt.field.device.earlier_program import SuccessorDevice
from heron_mqtt.field.device.hardware_rest import PowerSeen
from heron_mqtt.field.device.last_look import LastLook, last_look

log = logging.getLogger("heron_mqtt.device")


class EndingDevice(SuccessorDevice, abc.ABC):
    """A device whose hardware is at rest when its program has ended, or that says why it is not.

    ``FieldDevice`` ends by ``_end_program``. A device that is handed back in another way does that in
    ``_rest_at_the_end``.
    """

    async def _end_program(self) -> None:
        """Bring the hardware to rest, say whose power it has, and leave; from here on nothing is received.

        Raises:
            NotHandedBack: The hardware could not be brought into the safe state.
        """
        self._lease.end()
        for task in self._tasks:
            task.cancel()
        left = await self._end_work()
        if self._taken_by is None:  # not in the name of another device
            self._notice.tell_at_the_end(self._holder_to_tell(), None)
            if self._kept is not None and self._is_left_known and not self._notice.is_held:
                self._kept.save(None)  # also where it was driven by nothing: then the next one knows
        left = left or self.left_unheeded()
        await self._leave()
        if self._kept is not None:
            self._kept.close()
        self._own_thread.end()
        if left is not None and not self._tells_again:
            raise NotHandedBack(f"{self.label}: {left}")

    async def _end_work(self) -> str | None:
        """Go to the safe state, but first end what is being done: it must not reach the hardware later.

        Returns:
            What is wrong with the hardware now, for people; None = nothing that is known.
        """
        is_alone = False
        try:
            within_s = BREAK_OFF_S if self._resting is None else BREAK_OFF_S + TELL_END_S
            is_alone = await self._busy.taken_within(within_s, "the program ends")
            if not is_alone:
                what = "the call in progress at the end was cancelled and has not ended within"
                log.error("%s: %s %g s", self.label, what, within_s)
        finally:  # also if the program is ended a second time meanwhile
            try:
                left = await self._rest_at_the_end(is_alone=is_alone)
            finally:
                if is_alone:
                    self._busy.release()
        return left

    async def _rest_at_the_end(self, *, is_alone: bool) -> str | None:
        """Go to the safe state: from here on nothing watches the lease.

        A safe state that the hardware was not told of, because that failed or was cancelled, is tried again;
        so is one that its power does not show.

        Args:
            is_alone: The device's lock is held; else what was being done has not ended yet.
        """
        left = self._left_with()
        has_swung = self._is_watched and self._rest.is_in_trouble  # it may be at 0 for a moment only
        is_taken = self.is_safe and self._rest.is_taken
        if is_taken and self._resting is None and left is None and not has_swung:
            return None
        if not (is_taken and self._resting is not None):  # else it took it just now
            self.is_safe = True
            self._rest.is_taken = False
            try:
                await self._tell_of_the_end()
            except Exception as exc:
                log.error(
                    "%s: could not go to the safe state at the end: %s",
                    *(self.label, exc),
                    exc_info=None if isinstance(exc, HeronError) else exc,
                )
                return f"it could not go to the safe state, and may hold its last setpoint: {exc}"
            self._rest.is_taken = True
        if self._own_thread.goes_on:
            return "the cancelled call continues in its thread, and may reach the hardware"
        return await self._left_after_all(left) if self._is_watched and is_alone else left

    async def _tell_of_the_end(self) -> None:
        """Tell the hardware to rest for the last time, unless it was being told already, for too long.

        Raises:
            NotReady: It takes longer than ``TELL_END_S``.
        """
        late = NotReady(f"it took longer than {TELL_END_S:g} s")
        if self._resting is not None and (self._resting.cancelled() or not self._resting.done()):
            raise late
        self._rest.note_told()
        try:
            async with asyncio.timeout(TELL_END_S) as bound:
                done = self.go_safe("the program ends")
                if inspect.isawaitable(done):
                    await done
        except TimeoutError:
            if bound.expired():
                raise late from None
            raise  # of its own

    async def _left_after_all(self, left: str | None) -> str | None:
        """Return what is wrong with its power once it was told for the last time, and measured.

        Power that falls is on its way to 0.

        Args:
            left: What was wrong before.
        """
        if self._tells_again:
            return left

        async def look() -> None:
            nonlocal left
            measured = self.measure()
            if inspect.isawaitable(measured):
                measured = await measured
            self._see(measured, has_failed=False)
            left = self._left_with() or left

        try:
            shown = await last_look(self._rest, look)
        except Exception as exc:
            log.error("%s: could not be measured at the end: %s", self.label, exc)
            return left
        if shown is LastLook.AT_REST:
            return None
        if self._rest.seen is PowerSeen.UNKNOWN:
            return left or f"it holds no setpoint, and {self._rest.shown}"
        if self.stopped or shown is not LastLook.FALLS:
            return left
        log.warning("%s: it was set to rest, and is still moving: %s", self.label, self._rest.shown)
        return None

    def _left_with(self) -> str | None:
        """Return what its power says against its being at rest, for people; None = nothing."""
        if not self._is_watched or self._rest.seen is PowerSeen.NOTHING:
            return None
        if self.stopped:
            return self._rest.left_in_stop(has_taken_it=True)
        is_left = self._rest.has_power or (self._rest.is_in_trouble and self._rest.is_doubtful)
        is_left = is_left and not self._rest.is_set_elsewhere
        return f"it holds no setpoint, and {self._rest.shown}" if is_left else None
