"""The condition of a vendor's device: online, offline, faulty or silent, as it says or does not say."""

from __future__ import annotations

from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Status


class DeviceCondition:
    """What availability topics, power and silence of one device come to.

    Args:
        mapping: Of the device.
        state: What is known of it.
        kind: What it is: battery, generator, pv, load.
    """

    def __init__(self, mapping: DeviceMapping, state: VendorState, kind: str) -> None:
        self._mapping, self._state, self._kind = mapping, state, kind
        self.has_spoken = False
        """Whether it has ever said its power."""
        self._silence: Status | None = None

    def speaks(self) -> None:
        """Take note that its power is known."""
        self.has_spoken, self._silence = True, None

    def is_silent(self, why: str) -> bool:
        """Take note that its power is not known any more; whether that is a fault: it was known before."""
        if self.has_spoken:
            self._silence = Status(state="fault", reason=why[:500], kind=self._kind)
        return self.has_spoken

    def availability(self, now_s: float) -> Status | None:
        """Return what availability comes to; None if the mapping has no topic for it, and all is well."""
        status = self._state.status(now_s)
        if status is None and self._mapping.availability and not self.has_spoken:
            where = ", ".join(a.topic for a in self._mapping.availability)
            return Status(state="offline", reason=f"nothing has come yet on {where}"[:500])
        return status

    def is_known_offline(self, now_s: float) -> bool:
        """Whether the device is offline, and the mapping says what its power is then."""
        return "p_mw" in self._state.offline_values(now_s)

    def why_unreachable(self, now_s: float) -> str | None:
        """Return why nothing can be sent to it, for people; None = it can."""
        status = self.availability(now_s)
        if status is None or not (status.state == "offline" or self.is_known_offline(now_s)):
            return None
        return f"the device is offline: {status.reason}"

    def trouble(self, now_s: float) -> Status | None:
        """Return what is to be said of it; None = it is online, and nothing is wrong."""
        status = self.availability(now_s)
        if status is not None and status.state == "offline" and self.is_known_offline(now_s):
            values = ", ".join(f"{n} = {value:g}" for n, value in self._state.offline_values(now_s).items())
            return Status(state="online", reason=f"{status.reason}; taken as {values}"[:500])
        return self._silence if status is None or status.state == "online" else status
