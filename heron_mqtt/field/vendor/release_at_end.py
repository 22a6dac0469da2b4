"""How a vendor's device is handed back when the program that drives it ends, and what is left undone then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from heron_mqtt.end_times import SHOWS_REST_S, SHOWS_SELDOM_S, TELL_END_S
from heron_mqtt.errors import HeronError
from heron_mqtt.field.device.hardware_rest import HardwareRest
from heron_mqtt.field.device.last_look import LOOK_AGAIN_S, LastLook, last_look
from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.device_release import DeviceRelease
from heron_mqtt.field.vendor.link import NotTaken, VendorLink
from heron_mqtt.field.vendor.outgoing import RegisterCommand
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.setpoint_writer import ZERO

log = logging.getLogger("heron_mqtt.vendor")

SHOWS_ITSELF_S = 0.4  # at most, for a device to say anything after its release; all in TELL_END_S


class ReleaseAtEnd:
    """Hands one device back within ``TELL_END_S``, or leaves it where a stop keeps it.

    Args:
        label: The device, for people.
        mapping: Of the device.
        link: The connection to it.
        release: What it holds, and what is sent to it.
        rest: Watches its power.
        stop: The emergency stop.
        monotonic: The clock, s.
        go_safe: Sends it a stop, or its release; given a reason for people.
        context: Returns what messages need.
        report: Called with what is wrong, for people.
    """

    def __init__(
        self,
        label: str,
        mapping: DeviceMapping,
        link: VendorLink,
        release: DeviceRelease,
        rest: HardwareRest,
        stop: StopRegister,
        *,
        monotonic: Callable[[], float],
        go_safe: Callable[[str], Awaitable[None]],
        context: Callable[[], MessageContext],
        report: Callable[[str], None],
    ) -> None:
        self.is_tried = False
        """Whether it was tried to the end: the end is short, and may be cancelled."""
        self.left_with_power: str | None = None
        """If it was handed back with 0: that it still has power, for people; None = as far as known it has
        none."""
        self._label = label
        self._mapping = mapping
        self._link = link
        self._release = release
        self._rest = rest
        self._stop = stop
        self._monotonic = monotonic
        self._go_safe = go_safe
        self._context = context
        self._report = report
        self._problem = ""  # why it was not told of the end, for people

    async def hand_back(self) -> None:
        """Hand the device back: no lease is renewed any more. In a stop it stays where it is."""
        await self._hand_back()
        self.is_tried = True

    async def _hand_back(self) -> None:
        release = self._release
        is_held = release.is_held_by_stop and self._stop.is_active and not release.is_owed
        if release.is_watched and (self._rest.has_power or self._rest.is_in_trouble):
            self.left_with_power = self._shown_power()
        is_at_hand = release.holds_setpoint or (release.is_held_by_stop and not is_held)
        if not (is_at_hand or release.is_owed or self.left_with_power is not None):
            if release.left_rest:  # told a moment ago, and not measured since
                await self._wait_for_rest()
            await self._prove()
            return
        if not (self._link.connected or self._link.connects_to_send):
            self._problem = f"no connection to {self._link.peer}"
            log.warning("%s: the device was not handed back: there is %s", self._label, self._problem)
            self._report(f"not handed back: {self._problem}")
            return
        try:
            async with asyncio.timeout(TELL_END_S):
                if release.is_unproven and not self._stop.is_active:
                    await release.prove()
                else:
                    await self._tell()
                self._problem = ""
        except (HeronError, TimeoutError) as exc:
            why = self._problem = str(exc) or self._unanswered()
            self._report(f"it is not sure that it was handed back: {why}")
            return
        if self.left_with_power is not None or release.is_watched:
            await self._wait_for_rest()
        await self._prove()

    async def why_unproven(self) -> str | None:
        """Wait whether a device that was sent its release is late to say anything, or goes offline.

        Returns:
            What follows, for people: the release is owed again. None = nothing is known against it.
        """
        if self._stop.is_active:
            return None
        until = self._monotonic() + SHOWS_ITSELF_S
        while (why := self._release.why_gone()) is None:
            if not (self._release.is_unshown and self._monotonic() < self._release.late_at <= until):
                return None
            await asyncio.sleep(LOOK_AGAIN_S)
        self._release.owe_unproven()
        return f"it is not known whether it accepted its release: {why}"

    async def _prove(self) -> None:
        if (why := await self.why_unproven()) is not None:
            self._problem = why
            self._report(why)

    async def _wait_for_rest(self) -> None:
        """Wait whether the device shows the 0 that it was told; power that falls is on its way there.

        It has the time to get there and to report it. One that had power and reports no more has it
        still, and its lease stays held.
        """

        def look() -> None:
            self._link.look_now()
            self._release.look_after_lease()

        within_s = min(max(self._release.shows_within_s, SHOWS_REST_S), SHOWS_SELDOM_S)
        shown = await last_look(self._rest, look, within_s)
        self.left_with_power = None
        if shown is LastLook.FALLS:
            log.warning("%s: %s, which falls", self._label, self._shown_power())
        elif shown is LastLook.NEITHER and self._rest.keeps_power:
            self.left_with_power = self._shown_power()

    def _shown_power(self) -> str:
        shown = (
            self._rest.shown
            if self._rest.has_power
            else "it has not reported its power since then, and may have some"
        )
        return f"it was handed back with 0, and {shown}"

    async def _tell(self) -> None:
        """Hand the device back; once more, over a new connection, where the first was lost with it."""
        try:
            await self._go_safe("the end")
        except NotTaken as exc:
            if exc.was_heard or not self._link.connects_to_send:
                raise
            log.warning("%s: at its end: %s; it is tried once more over a new connection", self._label, exc)
            await self._go_safe("the end")

    def _unanswered(self) -> str:
        """Say what a device was to be told at its end, and why that was not done in time."""
        in_stop, context = self._stop.is_active, self._context()
        messages = self._mapping.write(ZERO, context)[0] if in_stop else self._mapping.release(context)
        pauses_s = sum(message.pause_s for message in messages)
        if pauses_s >= TELL_END_S:  # of a stop: it waits for the rest with 0 in it, if it has taken that
            return f"its messages wait {pauses_s:g} s between them (pause_s), and the end is {TELL_END_S:g} s"
        writes = [w for message in messages if isinstance(message, RegisterCommand) for w in message.writes]
        names = ", ".join(dict.fromkeys(name for write in writes for name in write.names))
        silence = f"{self._link.peer} does not answer"
        return f"{names}: {silence}" if names else silence

    # -- what is left ------------------------------------------------------------------------------

    @property
    def _is_left_in_stop(self) -> bool:
        """Whether a stop is to keep it at 0 after the end."""
        return self._stop.is_active and (self._release.is_held_by_stop or self._release.is_owed)

    @property
    def unreturned(self) -> str | None:
        """Return that it was not handed back, for people; None = it was, or held nothing."""
        is_owed = self._release.is_driven or self._release.is_owed
        return "it was not handed back, and may hold its last setpoint" if is_owed else None

    @property
    def left_undone(self) -> str | None:
        """What is wrong, for people, where the program ends now; None = nothing."""
        if self._is_left_in_stop:
            left = self._release.left_in_stop()
        elif self.left_with_power is not None:
            left = self.left_with_power
        else:
            left = self.unreturned
        return f"{left}: {self._problem}" if left is not None and self._problem else left

    def tell_in_stop(self) -> None:
        """Say what is known of a device that a stop is to keep at 0."""
        if not self._is_left_in_stop:
            return
        if (left := self.left_undone) is not None:
            self._report(f"nothing watches it any more: {left}")
        else:
            log.warning("%s: %s", self._label, self._rest.kept)
