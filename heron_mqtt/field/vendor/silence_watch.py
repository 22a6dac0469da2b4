"""Notices that a vendor's device has not said its power for too long, and says what is known of why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.vendor_state import VendorState


class SilenceWatch:
    """Watches one device.

    Args:
        mapping: Of the device.
        state: What is known of it.
        stale_after_s: How long its last power counts, s.
        monotonic: Our clock, s.
        report: Told once for each silence, in a line for people.
        is_known: Whether the power is known by other means: it is offline, or something proves its life.
        on_silence: Told every ``stale_after_s`` that the silence lasts, with the reason.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        state: VendorState,
        stale_after_s: float,
        *,
        monotonic: Callable[[], float],
        report: Callable[[str], None],
        is_known: Callable[[], bool],
        on_silence: Callable[[str], None],
    ) -> None:
        self._mapping = mapping
        self._state = state
        self._stale_after_s = stale_after_s
        self._monotonic = monotonic
        self._report = report
        self._is_known = is_known
        self._on_silence = on_silence
        self._heard = asyncio.Event()

    def heard(self) -> None:
        """Take note that the device has said its power."""
        self._heard.set()

    async def run(self, pause: PauseDetector) -> None:
        """Watch until it is cancelled; by ``pause`` it knows that this program itself stood still."""
        what, is_reported = self._what(), False
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(self._stale_after_s):
                    await self._heard.wait()
                is_reported = False
            except TimeoutError:
                await pause.caught_up()
                if self._heard.is_set() or self._is_known():
                    continue  # it was this program that stood still, and not the device; or it is known
                why = self._state.why("p_mw", self._monotonic())
                self._state.doubt(
                    f"not reported, because no message was received for {self._stale_after_s:g} s"
                )
                full = f"{what}: {why}" if why else what
                if not is_reported:
                    is_reported = True
                    ask = "" if why else ": is it on, does its mapping fit?"
                    self._report(f"{full}{ask} (its mapping is {self._mapping.name})")
                self._on_silence(full)

    def _what(self) -> str:
        where = ", ".join(self._mapping.topics_of("p_mw"))
        for_s = f"for {self._stale_after_s:g} s"
        if (life := self._mapping.table.liveness) is None:
            return f"no power from the device {for_s} on {where}"
        how = ", ".join(life.topics) or where if life.by != "availability" else "its availability"
        return f"nothing has proven {for_s} that the device is there ({life.by}: {how})"
