"""How long a device is used to say nothing."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

KEPT = 50
BURST_S = 0.1  # what is said in so short a time counts as said once: many say several things at a time
LEAST_HEARD_S = 5.0  # for so long it has to be heard, before anything is concluded,
REGULAR = 10.0  # and for so many times its longest silence
LATE = 3.0  # times its longest silence: then it is clearly late
LEAST_LATE_S = 1.0  # a network and a busy machine hold up what is said often


class HeardIntervals:
    """The times at which a device was heard last, by one clock, s."""

    def __init__(self) -> None:
        self.last_at = -math.inf
        """When it was heard last; -inf: never."""
        self._bursts_at: deque[float] = deque(maxlen=KEPT)

    def note(self, at_s: float) -> None:
        """Take note that it was heard."""
        self.last_at = at_s
        if not self._bursts_at or at_s >= self._bursts_at[-1] + BURST_S:
            self._bursts_at.append(at_s)

    @property
    def longest_so_far_s(self) -> float:
        """The longest of its last silences, s; 0 = it was heard once at most."""
        return max((b - a for a, b in pairwise(self._bursts_at)), default=0.0)

    @property
    def longest_s(self) -> float | None:
        """The same; None = it was not heard for long enough to know."""
        longest_s = self.longest_so_far_s or math.inf
        heard_for_s = self._bursts_at[-1] - self._bursts_at[0] if self._bursts_at else 0.0
        return longest_s if heard_for_s >= max(REGULAR * longest_s, LEAST_HEARD_S) else None

    @property
    def late_at(self) -> float:
        """When it is clearly late, if it says nothing until then; infinity: that cannot be known."""
        longest_s = self.longest_s
        return math.inf if longest_s is None else self.last_at + max(LATE * longest_s, LEAST_LATE_S)
