"""What one kind of fault did, over its trials."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LEASE_S", "TOLERATED_S", "FaultTally"]

LEASE_S = 1.0
TOLERATED_S = 0.25
"""Beyond the lease: a step in flight, and a machine that is busy."""


@dataclass(slots=True)
class FaultTally:
    """Counts of one fault; all but the first six must be 0.

    Attributes:
        tried: Trials.
        recovered_s: From the end of the cause until everything was as before, s, of each trial.
        lost: Messages that never came, and whose loss was reported.
        held_s: Longest power of a device after the last rightful setpoint, s; at most the lease.
        notes: What is worth a look.
        untried: Why a trial could not be made at a site that was there; empty: each was.
        undetected: Messages that never came, and whose loss was not reported.
        outside: Setpoints outside the envelope.
        past_lease: Setpoints for a dead environment later than one lease, and devices that had power for
            longer than their lease.
        after_stop: Setpoints other than 0 after a stop.
        to_shadow: Setpoints to a device that is only watched.
        second_owner: Setpoints between those of an earlier owner, and devices that shared a name.
        hung: Programs that went on no further, or did not end.
        broken: Promises of this fault alone that did not hold.
    """

    tried: int = 0
    recovered_s: list[float] = field(default_factory=list)
    lost: int = 0
    held_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    untried: str = ""
    undetected: int = 0
    outside: int = 0
    past_lease: int = 0
    after_stop: int = 0
    to_shadow: int = 0
    second_owner: int = 0
    hung: int = 0
    broken: int = 0

    def note(self, text: str) -> None:
        """Keep what is worth a look, and say it."""
        self.notes.append(text)
        sys.stderr.write(f"    {text}\n")
        sys.stderr.flush()

    def break_promise(self, text: str) -> None:
        """Count a promise of this fault that did not hold."""
        self.broken += 1
        self.note(text)

    @property
    def forbidden(self) -> int:
        """Setpoints to who may get none: after a stop, in shadow, of a second owner."""
        return self.after_stop + self.to_shadow + self.second_owner

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept."""
        wrong = self.undetected + self.outside + self.past_lease + self.forbidden + self.hung + self.broken
        return wrong == 0

    @property
    def median_s(self) -> float | None:
        """Median of ``recovered_s``."""
        return statistics.median(self.recovered_s) if self.recovered_s else None

    @property
    def worst_s(self) -> float | None:
        """Largest of ``recovered_s``."""
        return max(self.recovered_s, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "tried": self.tried,
            "kept": self.is_kept,
            "recovered_median_s": _rounded(self.median_s),
            "recovered_worst_s": _rounded(self.worst_s),
            "held_s": _rounded(self.held_s or None),
            "lost": self.lost,
            "undetected": self.undetected,
            "outside_envelope": self.outside,
            "past_lease": self.past_lease,
            "after_stop": self.after_stop,
            "to_shadow": self.to_shadow,
            "second_owner": self.second_owner,
            "hung": self.hung,
            "broken": self.broken,
            "notes": list(self.notes),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
