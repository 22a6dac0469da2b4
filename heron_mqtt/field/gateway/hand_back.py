"""HandBack: whether a device that was driven shows its release, and otherwise what is wrong."""

from __future__ import annotations

from typing import NamedTuple

from heron_mqtt.field.device.lease import NOT_THE_OWNER
from heron_mqtt.field.emergency_stop import is_at_rest
from heron_mqtt.messages import Telemetry
from heron_mqtt.units import KW_PER_MW

HAND_BACK_S = 5.0  # for a device to show its release, while its gateway continues
SHOWS_S = 0.5  # for what a device has measured to be sent, beside the time that it takes to measure again
SPEAKS = 2  # messages without an answer, until one is taken to be of after the setpoint that it does not name


class Unreturned(NamedTuple):
    """A device that was driven and does not show its release.

    Attributes:
        why: What is known of it, for people.
        is_fault: Whether it reports a fault: it may continue with its last setpoint. Otherwise it
            is silent, still on its way to its safe state, or follows another one.
    """

    why: str
    is_fault: bool


class HandBack:
    """What is known of the end of one device's setpoints.

    Args:
        nameplate_mw: Smallest and largest power, MW; what counts as no power where a device does not say
            whether it is safe.
    """

    __slots__ = (
        "_is_let_go",
        "_nameplate_mw",
        "_newest",
        "_rejected",
        "_releases",
        "_setpoint",
        "_unanswered",
        "_was_acknowledged",
        "_was_followed",
        "is_due",
    )

    def __init__(self, nameplate_mw: tuple[float, float]) -> None:
        self.is_due = False
        """Whether it was sent a setpoint, and has not shown its release since."""
        self._nameplate_mw = nameplate_mw
        self._is_let_go = False
        self._setpoint = ("", -1)  # the newest
        self._was_followed = False  # any of ours, since it last showed its release
        self._releases: set[tuple[str, int]] = set()
        self._newest: Telemetry | None = None  # since it was released
        self._rejected: str | None = None
        self._was_acknowledged = False
        # Messages that acknowledge nothing, since it is driven; None = one of them is of after the newest
        # setpoint, because that was answered before or cannot have reached it.
        self._unanswered: int | None = 0

    def note_setpoint(self, setpoint: tuple[str, int]) -> None:
        """A setpoint of this boot and number is sent: the device is driven from here on."""
        if not self.is_due or self._unanswered is None:
            self._unanswered = 0
        self.is_due, self._is_let_go, self._was_acknowledged = True, False, False
        self._newest = self._rejected = None
        self._setpoint = setpoint
        self._releases.clear()

    def forget(self) -> None:
        """The device belongs to another gateway from here on."""
        self.is_due = False

    def note_restart(self) -> None:
        """The device has started again: it does not know the earlier setpoints, whatever it acknowledges."""
        self._unanswered = None

    def note_end(self, release: tuple[str, int] | None = None) -> None:
        """It is released: by a release of this boot and number, or because renewals end here."""
        if release is not None:
            self._releases.add(release)
        self._is_let_go = True

    def note_telemetry(self, telemetry: Telemetry) -> None:
        """Take telemetry; only telemetry after the release counts.

        Telemetry from before the device took the newest setpoint does not count: telemetry that
        acknowledges has to acknowledge that setpoint, or a release. Telemetry that acknowledges nothing
        counts in two cases: it comes after such an answer, or it is not the first one since the device is
        driven. The first one may have left before the first setpoint arrived.
        """
        if not self.is_due:
            return
        is_of_now = self._is_of_now(telemetry)
        has_followed = telemetry.ack_seq is not None and telemetry.rejected is None
        self._was_followed |= has_followed and telemetry.ack_boot == self._setpoint[0]
        if not self._is_let_go:
            return
        answered = (telemetry.ack_boot, telemetry.ack_seq)
        is_answer = answered in self._releases
        if not is_of_now:
            return
        self._newest = telemetry
        if is_answer:
            self._rejected, self._was_acknowledged = telemetry.rejected, telemetry.rejected is None
            if self._rejected == NOT_THE_OWNER and not self._was_followed:  # it did nothing of ours
                self.is_due = False
                return
        if telemetry.safe is None:  # it does not say
            is_safe = self._was_acknowledged or is_at_rest(telemetry.p_mw, self._nameplate_mw)
        else:
            is_safe = telemetry.safe
        if is_safe:
            self.is_due = self._was_followed = False

    def _is_of_now(self, telemetry: Telemetry) -> bool:
        """Whether what it says is of after the newest setpoint; takes note of what that is known by."""
        answered = (telemetry.ack_boot, telemetry.ack_seq)
        if telemetry.ack_seq is None:
            if self._unanswered is None:
                return True
            self._unanswered += 1
            return self._unanswered >= SPEAKS
        is_of_now = answered == self._setpoint or answered in self._releases
        self._unanswered = None if is_of_now else 0
        return is_of_now

    def unreturned(self, state: str | None, reason: str | None) -> Unreturned | None:
        """Return what is wrong; None = nothing: it was never driven, or shows its release.

        Args:
            state: Of its newest status; None = it sent none.
            reason: In that status.
        """
        if not self.is_due:
            return None
        newest = self._newest
        power = "" if newest is None else f"; it measures {KW_PER_MW * newest.p_mw:.6g} kW"
        if state == "fault":
            return Unreturned(f"it is in a fault: {reason or 'no reason given'}{power}", True)
        if state == "offline":
            return Unreturned("it is offline, and has not said before that it is in its safe state", False)
        if newest is None:
            return Unreturned("it has sent nothing since", False)
        if self._rejected is not None:
            return Unreturned(f"it refuses its release: {self._rejected}{power}", False)
        what = "acknowledges its release and" if self._was_acknowledged else "acknowledges no release and"
        return Unreturned(f"it {what} is not in its safe state{power}", False)
