"""A SunSpec inverter as a field device."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import Any, Literal

from heron_mqtt.errors import NotHandedBack
from heron_mqtt.field.device import FieldDevice, SetpointRejected
from heron_mqtt.field.device.hardware_rest import GrowingPause, PowerSeen
from heron_mqtt.field.modbus.registers import ModbusFault
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.controls import Left
from heron_mqtt.field.sunspec.inverter import Inverter, NotControllable
from heron_mqtt.messages import Setpoint, Telemetry
from heron_mqtt.units import W_PER_MW

SafeState = Literal["zero", "release"]

log = logging.getLogger("heron_mqtt.sunspec")

SHOWN_WITHIN_S, LOOK_AGAIN_S = 0.8, 0.1  # for registers to show a release that was acknowledged
LOST = (
    "it was handed back without its own settings: an earlier controller had not handed it back, and the "
    "settings before that are not known. A limit of the installation, if it had one, is off: set it again"
)


class SunSpecDevice(FieldDevice):
    """An inverter behind Modbus TCP.

    Nothing is written to it before the first setpoint, an emergency stop or the end of a lease, with one
    exception. If an earlier controller, such as a bridge that was killed, has left a setpoint in force, this
    setpoint is ended. A write that failed, because the inverter did not answer, is repeated when it answers
    again.

    Zero power, as safe state or at a stop, is read back with every measurement: an inverter that restarted
    has lost it, and it is written again. A release is read back after it was written. It is repeated until
    the registers show it, or cannot be read.

    During a stop the device is safe only if its power was measured after the stop was written, and is near 0.
    Until then the stop is written again. An inverter that is only read accepts every setpoint without effect:
    its measurement is the answer. During a stop it is safe while its power is near 0.

    Args:
        inverter: Connected.
    """

    watches_its_rest = _tells_again = True
    _keeps_lease = False  # its registers, and the file of its own settings, say what was left
    breaks_off_measuring = True

    def __init__(self, inverter: Inverter, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inverter = inverter
        self._told: SafeState | None = None  # what it was told last; None: a setpoint, or nothing yet
        self._stop_may_have_come = False  # one that it may not have heard, before any setpoint
        self._told_by = 0  # the connection that it was told over
        self._has_written = False
        self._left = inverter.found  # by an earlier controller, until it is ended or driven over
        self._heeds_left = (
            inverter.found is not None or inverter.may_owe_settings
        )  # once the name is ours: it may be another bridge's
        self._owes = self._is_owed(inverter.found)
        self._again_at, self._pause = -math.inf, GrowingPause()  # when a doubted release is written again
        self._doubted = False  # it acknowledged its safe state, and its registers did not show it
        self._rest.power_range_mw = _mw(inverter.nameplate.power_range_w)

    @property
    def owes_safe_state(self) -> bool:
        """Whether it has still to be told of the safe state, or is not known to be at 0 in a stop."""
        if not self.stopped:
            return self._owes or (self._is_watched and self._rest.keeps_power)
        is_untold = self._inverter.is_controlled and (self._owes or self._told != "zero")
        return is_untold or self._rest.seen is not PowerSeen.AT_REST

    @property
    def _is_watched(self) -> bool:
        """Whether its power has to show that it holds zero, which it has taken."""
        return self._told == "zero" and not self._owes and self.is_safe

    @property
    def is_settable(self) -> bool:
        """Whether it takes setpoints from here at all."""
        return self._inverter.is_controlled

    async def apply(self, setpoint: Setpoint) -> None:
        """Tell the inverter, with the lease as its reversion time."""
        if not self._inverter.is_controlled:
            return
        self._owes, self._told, self._heeds_left, self._left = False, None, False, None
        self._stop_may_have_come = False
        try:
            self._has_written = True
            await self._set(setpoint)
        except NotControllable as exc:
            raise SetpointRejected(str(exc)) from None

    async def renew(self, setpoint: Setpoint) -> None:
        """Tell the inverter again, so that its own timer begins again."""
        if not self._inverter.is_controlled:
            return
        try:
            await self._set(setpoint)
        except NotControllable as exc:
            log.warning("%s: a renewal was not sent: %s", self.label, exc)

    async def _set(self, setpoint: Setpoint) -> None:
        """Tell the inverter; if its settings or its installation's limit were changed, it is born again."""
        before = self.nameplate()
        try:
            await self._inverter.set(setpoint.p_mw, setpoint.q_mvar, setpoint.lease_s)
        finally:
            if self.nameplate() != before:
                self._rest.power_range_mw = _mw(self._inverter.nameplate.power_range_w)
                self._say(self._birth())

    @property
    def _may_have_power(self) -> bool:
        """Whether the inverter has not taken the end of what it was told, or still has power.

        By the lease that the broker keeps a stop knows of it, also when this bridge is gone.
        """
        if self._left == "settings" or self._is_owed(self._left):
            return True
        is_owed = not self.is_safe or (self.owes_safe_state and not self._rest.is_set_elsewhere)
        return self._has_written and is_owed

    async def measure(self) -> Telemetry:
        """Ask the inverter."""
        try:
            if self._stop_may_have_come and not self.stopped:
                self._stop_may_have_come, self._heeds_left = False, True  # its registers say whether it has
            if self._heeds_left:
                await self._heed_what_was_left()
            if self._owes or self._told is not None:
                await self._stay_safe()
            telemetry = await self._inverter.measure()
        except (ModbusFault, SunSpecError) as exc:
            self._watch_rest(None, why_unknown=str(exc))
            raise
        self._watch_rest(telemetry)
        if self._held is not None and self._lease.is_running and await self._inverter.is_set_anew():
            left_s = self._lease.ends_at - self._monotonic()
            await self.renew(self._held.model_copy(update={"lease_s": left_s}))
        if self._has_written and not self._owes:
            try:
                await self._inverter.heartbeat()
            except ModbusFault as exc:
                if not self._inverter.is_dark(exc):
                    raise
        return telemetry

    def _watch_rest(self, measured: Telemetry | None, *, why_unknown: str = "") -> None:
        """Look whether the inverter follows what its registers hold: in a stop, and where they hold zero."""
        if not (self.is_safe and (self.stopped or self._is_watched)):
            return
        if measured is not None:
            self._rest.see(measured.p_mw, measured.q_mvar)
        elif self.stopped:
            self._rest.see_failure()
        if self._is_watched and (self.stopped or self._rest.has_power):
            self._owes = self._rest.must_be_told_again(in_stop=self.stopped, why_unknown=why_unknown)
        if not self.stopped:
            return
        if self.owes_safe_state:
            self.rest_lost()
        else:
            self.rest_reached()

    def _see(self, telemetry: Telemetry | None, *, has_failed: bool) -> None:
        """Leave it as it is: what was measured was looked at when it came."""

    async def go_safe(self, reason: str) -> None:
        """Go to the safe state; at an emergency stop that is zero power in any case."""
        self._rest.note_told()
        if not self._inverter.is_controlled:
            return
        self._stop_may_have_come = self.stopped and (self._stop_may_have_come or not self._has_written)
        self._owes, self._heeds_left, self._left = True, False, None
        self._has_written = True
        await self._be_safe()
        self._stop_may_have_come = self._stop_may_have_come and self._owes

    def nameplate(self) -> dict[str, Any]:
        """Return what the inverter says about itself, its power within the limit of the installation."""
        plate = self._inverter.nameplate
        low_mw, high_mw = _mw(self._inverter.power_range_w)
        return {
            "p_min_mw": low_mw,
            "p_max_mw": high_mw,
            "max_e_mwh": None if plate.energy_wh is None else plate.energy_wh / W_PER_MW,
        }

    async def hand_back(self, by: float | None = None) -> None:
        """Leave the inverter to its own control, unless it was never told anything. In a stop it stays at 0.

        Args:
            by: Until when its registers may be read to check this, by the loop's clock, s. A register that
                could not be read by then counts as correct. None = no bound.

        Raises:
            NotHandedBack: The program ends before the name is its own, and a killed one has left it driven.
            SunSpecError, ModbusFault: The release could not be written, or was acknowledged but the old
                setpoint is still in force. In a stop: its power is not known to be 0.
        """
        if not self._inverter.is_controlled:
            return
        if self._left is not None and (why := self.left_unheeded()) is not None:
            raise NotHandedBack(f"{self.label}: {why}")
        if not self.stopped:
            if self._has_written or (self._left is not None and self._has_name):
                await self._inverter.release()
                if (still := await self._still_held(SHOWN_WITHIN_S, by)) is not None:
                    raise SunSpecError(f"it acknowledged its release, but {still}")
                self._owes, self._left = False, None
                self._tell_holder()
                if self._inverter.lacks_own_settings:
                    log.warning("%s: %s", self.label, LOST)
            return
        if self._owes:
            await self._be_safe()
        measured = await self._inverter.measure()
        self._rest.see(measured.p_mw, measured.q_mvar)
        left = self._rest.left_in_stop(has_taken_it=not self._owes)
        if left is not None:
            raise SunSpecError(left)
        log.warning("%s: %s", self.label, self._rest.kept)

    @property
    def _wanted(self) -> SafeState:
        return "zero" if self.stopped or self._inverter.safe_is_zero else "release"

    async def _heed_what_was_left(self) -> None:
        """Take what a bridge that was killed has left in force for our own: it is ended, and handed back."""
        left = self._left = await self._inverter.what_was_left()
        if left == "settings":
            await self._inverter.release()
            log.warning("%s: its own settings were off after an earlier bridge, and are put back", self.label)
            left = None if await self._still_held(SHOWN_WITHIN_S) is None else "setpoint"
        self._heeds_left, self._left = False, None
        self._owes = self._is_owed(left)
        self._has_written = left is not None
        if not self._owes:
            self.rest_reached()
            self._tell_holder()
        if self._owes:
            what = "a setpoint" if left == "setpoint" else "zero power"
            log.warning("%s: %s of an earlier controller is in force, and is ended", self.label, what)

    def _is_owed(self, left: Left | None) -> bool:
        """Whether what was left has to be ended: a setpoint, or zero power that is not the safe state."""
        return left == "setpoint" or (left == "zero" and not self._inverter.safe_is_zero)

    async def _stay_safe(self) -> None:
        """Bring it into the safe state, if it is not there or is there no longer."""
        if not self._owes and self._told == self._wanted and await self._is_still_safe():
            return
        if self._owes and self._is_release_doubted() and self._monotonic() < self._again_at:
            if await self._still_held(0.0) is None:
                self._doubted = self._owes = False
                self.rest_reached()
            return
        self._owes = True
        await self._be_safe()

    def _is_release_doubted(self) -> bool:
        """Whether it acknowledged a release on this connection, and its registers do not show it."""
        is_told = self._told == self._wanted == "release" and self._told_by == self._inverter.connections
        return self._doubted and is_told

    async def _is_still_safe(self) -> bool:
        """Whether it holds what it was told; where that cannot be read, whether it may have restarted."""
        if self._told == "release":
            return True  # a restart leads there, too
        try:
            if await self._inverter.holds_zero():
                return True
        except ModbusFault:
            return self._told_by == self._inverter.connections
        except SunSpecError:
            self._owes = True
            self.rest_lost()
            raise
        log.warning(
            "%s: it does not hold zero power any more, as after a restart; zero is written again", self.label
        )
        self.rest_lost()
        return False

    async def _be_safe(self) -> None:
        """Write the safe state; it is owed until the inverter has taken it."""
        wanted = self._wanted
        try:
            await (self._inverter.hold_zero() if wanted == "zero" else self._inverter.release())
            self._told, self._told_by = wanted, self._inverter.connections
            self._rest.note_told()
            if not await self._took(wanted):
                self._again_at = self._monotonic() + self._pause.s
                self._pause.grow()
                self.rest_lost()
                return
            self._pause.reset()
        except ModbusFault as exc:
            self.rest_lost()
            if self._inverter.is_dark(exc):
                return  # it has no power, and is written when it answers again
            raise
        if wanted == self._wanted:  # else there is another one to be told by now
            self._owes = False
            self._tell_holder()
            if not self.owes_safe_state:
                self.rest_reached()

    async def _took(self, wanted: SafeState) -> bool:
        """Whether its registers show what it was told; what cannot be read counts as taken."""
        why: str | None = None
        if wanted == "release":
            why = await self._still_held(0.0 if self._doubted else SHOWN_WITHIN_S)
        else:
            with contextlib.suppress(ModbusFault):
                if not await self._inverter.holds_zero(just_told=True):
                    why = "does not hold it"
        if why is not None and not self._doubted:
            what = "zero power" if wanted == "zero" else "its release"
            log.warning("%s: it acknowledged %s, but %s", self.label, what, why)
        self._doubted = why is not None
        return why is None

    async def _still_held(self, within_s: float, by: float | None = None) -> str | None:
        """Return what its registers hold although it was released; None = nothing, or they cannot be read.

        Args:
            within_s: So long they are read again before they are believed, s; a stop ends it.
            by: As with ``hand_back``.
        """
        loop = asyncio.get_running_loop()
        until, wanted = loop.time() + within_s, self._wanted
        still: str | None = None
        with contextlib.suppress(ModbusFault, TimeoutError):
            async with asyncio.timeout_at(by):
                while True:
                    still = await self._inverter.not_released()
                    if still is None or self._wanted != wanted or loop.time() >= until:
                        break
                    await asyncio.sleep(LOOK_AGAIN_S)
        return still


def _mw(range_w: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low_w, high_w = range_w
    return None if low_w is None else low_w / W_PER_MW, None if high_w is None else high_w / W_PER_MW


class SunSpecBattery(SunSpecDevice):
    """Storage."""

    kind = "battery"


class SunSpecPv(SunSpecDevice):
    """Generation that can be limited."""

    kind = "pv"


def make_device(inverter: Inverter, *args: Any, **kwargs: Any) -> SunSpecDevice:
    """Return the device that fits an inverter's kind; arguments as for ``FieldDevice``."""
    device = SunSpecBattery if inverter.nameplate.kind == "battery" else SunSpecPv
    return device(inverter, *args, **kwargs)
