"""Whether a device that was sent its release may not have heard it: its power stays what it was set to."""

from __future__ import annotations

import math

LOOKS_S = (1.0, 5.0)  # after a release: when its power is compared, at the first time that it says it
NEAR = 0.1  # of the setpoint


class ReleaseDoubt:
    """Finds releases that are to be sent once more.

    A broker acknowledges also what no one receives. A device that was away for a moment, and begins a new
    session each time, continues with its setpoint. One whose own control wants the same power is told twice,
    which changes nothing.
    """

    def __init__(self) -> None:
        self._set_mw = 0.0
        self._looks_at: list[float] = []

    def note_setpoint(self, p_mw: float) -> None:
        """Take note of what it is set to, MW, positive = injected."""
        self._set_mw = p_mw
        self._looks_at.clear()

    def note_release(self, now_s: float) -> None:
        """Take note that it was sent its release."""
        self._looks_at = [now_s + after_s for after_s in LOOKS_S]

    def end(self) -> None:
        """Stop watching: it gets another message."""
        self._looks_at.clear()

    def is_due(self, p_mw: float, now_s: float) -> bool:
        """Look at a power that was measured, MW; returns whether to send the release once more."""
        if not self._looks_at:
            return False
        if not self._set_mw or not math.isclose(p_mw, self._set_mw, rel_tol=NEAR):
            self._looks_at.clear()  # it has moved: it has heard it
            return False
        if now_s < self._looks_at[0]:
            return False
        self._looks_at = [at for at in self._looks_at if at > now_s]
        return True
