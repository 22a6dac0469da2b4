"""A clock that a test moves."""

from __future__ import annotations


class ManualClock:
    """Stands until it is advanced; call it for the time, s.

    Args:
        now_s: Where it begins.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def __call__(self) -> float:
        """Return the time, s."""
        return self._now_s

    def advance(self, seconds: float) -> float:
        """Let time pass; returns the time then.

        Raises:
            ValueError: A clock does not run backwards.
        """
        if not seconds >= 0.0:
            raise ValueError(f"advance({seconds}): expected seconds >= 0")
        self._now_s += seconds
        return self._now_s
