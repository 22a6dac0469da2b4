"""How long a device is used to say nothing."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

KEPT = 50
FEWEST = 4  # times that it was heard, before anything is concluded from the time between
LATE = 3.0  # times its longest silence: then it is clearly late
LEAST_LATE_S = 0.3  # a network and a busy machine hold up what is said often


class HeardIntervals:
    """The times at which a device was heard last, by one clock, s."""

    def __init__(self) -> None:
        self._heard_at: deque[float] = deque(maxlen=KEPT)

    @property
    def last_at(self) -> float:
        """When it was heard last; -inf: never."""
        return self._heard_at[-1] if self._heard_at else -math.inf

    def note(self, at_s: float) -> None:
        """Take note that it was heard."""
        self._heard_at.append(at_s)

    @property
    def longest_s(self) -> float | None:
        """The longest of its last silences, s; None = too little was heard."""
        if len(self._heard_at) < FEWEST:
            return None
        return max(b - a for a, b in pairwise(self._heard_at))

    @property
    def late_at(self) -> float:
        """When it is clearly late, if it says nothing until then; infinity: that cannot be known."""
        longest_s = self.longest_s
        return math.inf if longest_s is None else self.last_at + max(LATE * longest_s, LEAST_LATE_S)
