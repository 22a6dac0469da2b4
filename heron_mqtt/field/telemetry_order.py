"""Which telemetry of a device is news: one rule for gateways, commands and the page."""

from __future__ import annotations

REMEMBERED_BOOTS = 10  # the present one among them


class TelemetryOrder:
    """The lives of one device, and the newest number of the present one.

    A device chooses a new ``boot`` at each start, never goes back to an earlier one, and numbers its
    telemetry upwards within it. So what is of an earlier boot, or has a number that is not above the newest,
    is late, repeated or replayed. Once numbered telemetry was heard, nothing shows of what has no number that
    it is of this device and of now.
    """

    __slots__ = ("_past", "boot", "newest")

    def __init__(self) -> None:
        self._past: dict[str, tuple[str, int] | None] = {}  # by boot, in order: what was newest in it
        self.boot: str | None = None
        """Of the present life; None = no message has named one."""
        self.newest: tuple[str, int] | None = None
        """boot and seq of the newest telemetry of the present life; None = none has both."""

    def begin(self, boot: str | None) -> bool:
        """Take note of the boot of a birth or of telemetry; return whether another life begins."""
        if boot is None or boot == self.boot:
            return False
        if self.boot is not None:
            self._remember(self.boot)
        self.boot, self.newest = boot, None
        return True

    def go_back(self, boot: str) -> bool:
        """Go back to an earlier life, which holds the device's name; return whether it was one.

        The boot that counted as newer belongs to a displaced program that was paused. It may publish once
        more before it reads that it was displaced.
        """
        if boot not in self._past or self.boot is None:
            return False
        newest = self._past.pop(boot)
        self._remember(self.boot)
        self.boot, self.newest = boot, newest
        return True

    def _remember(self, boot: str) -> None:
        self._past[boot] = self.newest
        while len(self._past) >= REMEMBERED_BOOTS:
            del self._past[next(iter(self._past))]

    def is_other(self, boot: str | None) -> bool:
        """Whether a message is certainly not of the present life: both name one, and not the same."""
        return None not in {boot, self.boot} and boot != self.boot

    def is_past(self, boot: str | None) -> bool:
        """Whether a message is of an earlier life of the device."""
        return boot is not None and boot in self._past

    def take(self, boot: str | None, seq: int | None) -> bool:
        """Take the number of telemetry; return whether it can be newer than the newest."""
        if boot != self.boot:
            if self.is_past(boot):
                return False
            self.begin(boot)
        if boot is None or seq is None:
            return self.newest is None
        if self.newest is not None and seq <= self.newest[1]:
            return False
        self.newest = (boot, seq)
        return True
