"""One invariant's result: how often it was looked at, how often it was broken, and where first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Finding:
    """Counts the checks of one invariant.

    Attributes:
        name: What must hold.
        checked: How many things it was checked on.
        failed: How many broke it.
        first: The first counterexample.
        note: Why nothing, or not everything, could be checked.
    """

    name: str
    checked: int = 0
    failed: int = 0
    first: str = ""
    note: str = ""

    def check(self, holds: bool, counterexample: str) -> bool:
        """Count one thing; the first that does not hold is kept. Returns ``holds``."""
        self.checked += 1
        if not holds:
            self.failed += 1
            self.first = self.first or counterexample
        return holds

    @property
    def verdict(self) -> str:
        """``ok``, ``FAILED``, or ``-`` where there was nothing to check."""
        if self.failed:
            return "FAILED"
        return "ok" if self.checked else "-"


def near(one: float | None, other: float | None, tolerance: float) -> bool:
    """Whether two numbers are the same to a tolerance, absolute below 1 and relative above; None is None."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))


def at(episode: object, step: object, *where: object) -> str:
    """Say where something is."""
    place = " ".join(str(part) for part in where if part is not None)
    return f"episode {episode} step {step}{': ' + place if place else ''}"
