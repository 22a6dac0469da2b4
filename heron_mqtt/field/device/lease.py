"""The device's side of a lease: who may set the device, until when, and how old a setpoint can be.

Time is the device's own monotonic clock, handed in; the clocks of two machines are never compared. A
setpoint that echoes telemetry (``heard_boot``, ``heard_seq``) cannot be older than that telemetry, so
its lease is counted from the moment that this device published it. That one rule refuses what is stale,
what is replayed, and what was meant for an earlier life of the device.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.messages import Setpoint

REMEMBERED_TELEMETRY = 20_000  # 100 a second for 200 s
REMEMBERED_SENDERS = 64
SPOKEN_PER_LEASE = 4  # telemetry while a lease is held; three must be, and one may be lost
LONGEST_SILENCE_S = 2.0  # without a lease: a gateway that has heard nothing has nothing to echo


class Holder(NamedTuple):
    """Who holds a lease: the sender of the setpoints and its boot; both None for setpoints by hand."""

    sender: str | None
    boot: str | None

    @classmethod
    def of(cls, setpoint: Setpoint) -> Holder:
        """Return who sent a setpoint."""
        return cls(setpoint.sender, setpoint.boot)

    def __str__(self) -> str:
        if self.sender is None and self.boot is None:
            return "a sender by hand"
        return f"{self.sender or 'an unnamed sender'} (boot {self.boot or 'unknown'})"


NOT_THE_OWNER = "not the lease's owner"
"""Why the release of another than the owner is rejected: the device follows that one."""


class DeviceLease:
    """The lease on one device.

    Args:
        monotonic: This device's clock, s.
        require_proof: Refuse setpoints that do not echo telemetry.
    """

    def __init__(self, monotonic: Callable[[], float] = steady_s, *, require_proof: bool = False) -> None:
        self.holder: Holder | None = None
        """Who holds it; None = free."""
        self.lease_s: float | None = None
        """Length of the lease that is held."""
        self._monotonic = monotonic
        self._require_proof = require_proof
        self._boot: str | None = None
        self._published: OrderedDict[int, float] = OrderedDict()  # seq of own telemetry -> when
        self._newest: OrderedDict[Holder, int] = OrderedDict()  # seq of the newest setpoint by sender
        self._ends_at = -math.inf
        self._heard_at = -math.inf
        self._before: tuple[Holder | None, float, float | None, float] | None = (
            None  # the last setpoint was done
        )
        self._is_deferred = False  # it was not yet

    # -- what this device says -----------------------------------------------------------------------

    def published(self, boot: str, seq: int) -> None:
        """Note that telemetry leaves now: a setpoint may echo it."""
        if boot != self._boot:
            self._boot = boot
            self._published.clear()
        self._published[seq] = self._monotonic()
        while len(self._published) > REMEMBERED_TELEMETRY:
            self._published.popitem(last=False)

    @property
    def newest_seq(self) -> int | None:
        """Seq of the newest telemetry of this boot; None = none has left."""
        return next(reversed(self._published), None)

    @property
    def telemetry_every_s(self) -> float:
        """The longest that the device may be silent for the sake of its lease, s."""
        return LONGEST_SILENCE_S if self.lease_s is None else self.lease_s / SPOKEN_PER_LEASE

    # -- setpoints -----------------------------------------------------------------------------------

    def is_repeated(self, setpoint: Setpoint) -> bool:
        """Whether this setpoint, or a newer one of the same sender, was heard before; notes that it was."""
        if setpoint.seq is None:
            return False
        sender = Holder.of(setpoint)
        newest = self._newest.get(sender)
        if newest is not None and setpoint.seq <= newest:
            return True
        self._newest[sender] = setpoint.seq
        if len(self._newest) > 1:
            self._newest.move_to_end(sender)
            while len(self._newest) > REMEMBERED_SENDERS:
                self._newest.popitem(last=False)
        return False

    def refusal(self, setpoint: Setpoint) -> str | None:
        """Return why a setpoint may not be followed: too old, without proof, or another one's lease."""
        now = self._monotonic()
        sender = Holder.of(setpoint)
        if self.is_running and self.holder != sender and not setpoint.take_over:
            return f"the lease is held by {self.holder} for another {self._ends_at - now:.3g} s"
        begins_at = self._begin(setpoint, now)
        if isinstance(begins_at, str):
            return begins_at
        if begins_at + setpoint.lease_s <= now:
            return (
                f"stale: it is older than its lease of {setpoint.lease_s:g} s, it echoes telemetry of "
                f"{now - begins_at:.3g} s ago"
            )
        return None

    def hold(self, setpoint: Setpoint) -> None:
        """Let the sender of a setpoint that is not refused hold the lease, or hold it for longer."""
        if not setpoint.renewal:
            if not (self._is_deferred and self.is_running):  # else what was done before it is still held
                held = (self.holder, self._ends_at, self.lease_s, self._heard_at)
                self._before = held if self.is_running else None
            self._is_deferred = False
        now = self._monotonic()
        begins_at = self._begin(setpoint, now)
        assert not isinstance(begins_at, str), "ask refusal() first"
        ends_at = begins_at + setpoint.lease_s
        is_renewal = setpoint.renewal and self.is_running and self.holder == Holder.of(setpoint)
        self._ends_at = max(self._ends_at, ends_at) if is_renewal else ends_at
        self._heard_at = now
        self.holder = Holder.of(setpoint)
        self.lease_s = setpoint.lease_s

    def defer(self) -> None:
        """Note that the last setpoint waits: the one that replaces it follows the setpoint before both."""
        self._is_deferred = True

    def note_done(self) -> None:
        """Note that the last setpoint, which waited, was done."""
        self._is_deferred = False

    def lasts_before(self, within_s: float) -> bool:
        """Whether what was done before the last setpoint holds for so long, s; also where nothing was."""
        return self._before is None or self._before[1] > self._monotonic() + within_s

    def give_back_to_before(self) -> bool:
        """Undo the last setpoint's hold, which was rejected: whose power the device has holds it, no longer.

        It ends with the earlier of the two: part of what was rejected may have reached the hardware.

        Returns:
            Whether it was held before, and has not ended since; otherwise nothing changes.
        """
        if self._before is None or not self.is_running:
            return False
        self._is_deferred = False
        ends_at = self._ends_at
        self.holder, self._ends_at, self.lease_s, self._heard_at = self._before
        self._ends_at = min(ends_at, self._ends_at)
        return True

    def _begin(self, setpoint: Setpoint, now: float) -> float | str:
        """Return the earliest moment at which a setpoint can have been made, or why it is refused."""
        boot, seq = setpoint.heard_boot, setpoint.heard_seq
        if boot is None and seq is None:
            if self._require_proof:
                return "no proof: it echoes no telemetry (heard_boot, heard_seq), and this device requires it"
            return now
        if boot is None or seq is None or boot != self._boot:
            return "stale: it echoes telemetry of another boot of this device"
        published_at = self._published.get(seq)
        if published_at is None:
            return "stale: it echoes telemetry that this device does not remember"
        return published_at

    # -- its end -------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the lease is held and not over."""
        return self.holder is not None and self._monotonic() < self._ends_at

    @property
    def ends_at(self) -> float:
        """When the lease is over, by this device's clock, s; infinite = it is free."""
        return math.inf if self.holder is None else self._ends_at

    @property
    def held_for_s(self) -> float:
        """Time since the newest setpoint or renewal of the holder came that was not rejected, s."""
        return self._monotonic() - self._heard_at

    def is_of(self, setpoint: Setpoint) -> bool:
        """Whether the sender of a setpoint holds the lease, and it is not over."""
        return self.is_running and self.holder == Holder.of(setpoint)

    def end(self) -> None:
        """Make it free. Idempotent."""
        self.holder = None
        self.lease_s = None

    def forget(self) -> None:
        """Know nothing of earlier setpoints, as after a start; a lease that is held stays."""
        self._newest.clear()
