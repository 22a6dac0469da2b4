"""Which messages of several topics belong together: one round of a device that publishes them in turn.

A device publishes its topics again and again. A value that is calculated from several must not mix two
rounds, also when a message is lost, or when the first message received is in the middle of a round. Where a
round begins shows only in the times of arrival: what belongs together comes close together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

CLOSE_S = 0.2
"""Messages that come within this belong together, s."""

PATIENCE = 3
"""How often in a row a round that is not as close as the others is not taken."""

REMEMBERED = 5  # gaps of one topic; the shortest is its period, longer ones have lost messages in them


class TopicRound:
    """Collects the newest message of each member until a round is whole.

    Args:
        members: What must have come.
        within_s: How far apart the messages of a round may be, s.
    """

    def __init__(self, members: Iterable[str], within_s: float) -> None:
        self._members = frozenset(members)
        self._within_s = within_s
        self._came: dict[str, float] = {}  # in this round
        self._last: dict[str, float] = {}
        self._gaps: dict[str, deque[float]] = {}
        self._apart: int | None = (
            None  # how many in a row have not come close together; None = none has so far
        )

    def add(self, names: Iterable[str], now_s: float) -> bool:
        """Note what has come at one time; returns whether the round is whole. Then the next one begins."""
        names = [name for name in names if name in self._members]
        if not names:
            return False
        for name in names:
            if name in self._came:
                self._begin_at(self._came[name], now_s)
            gap_s = now_s - self._last.get(name, now_s)
            if gap_s > CLOSE_S:
                self._gaps.setdefault(name, deque(maxlen=REMEMBERED)).append(gap_s)
            self._last[name] = now_s
        self._came.update(dict.fromkeys(names, now_s))
        for name in [n for n, at in self._came.items() if now_s - at > self._within_s]:
            del self._came[name]
        if self._came.keys() != self._members:
            return False
        late = self._of_an_earlier_round(now_s)
        for name in late:
            del self._came[name]
        if late:
            return False
        self._came.clear()
        return True

    def missing(self) -> list[str]:
        """Return what a round that has begun waits for."""
        return sorted(self._members - self._came.keys()) if self._came else []

    def _begin_at(self, before_s: float, now_s: float) -> None:
        """Begin a round: a member has come twice. What came nearer to now than to its first time is of it."""
        for name, at in list(self._came.items()):
            if now_s - at > at - before_s:
                del self._came[name]

    def _of_an_earlier_round(self, now_s: float) -> list[str]:
        """Return the members that fit better to what came before: their next message is due at once.

        That takes the period of the device: the shortest gap between two messages of one member. Before every
        member has come twice only what comes close together is taken.
        """
        in_order = sorted(self._came, key=self._came.__getitem__)
        spread_s = now_s - self._came[in_order[0]]
        if spread_s <= CLOSE_S:
            self._apart = 0
            return []
        if self._apart is not None and self._apart < PATIENCE:  # it was never so: some were lost
            self._apart += 1
            return [name for name in in_order if now_s - self._came[name] > CLOSE_S]
        if self._gaps.keys() != self._members:
            return in_order[:1]
        period_s = min(min(gaps) for gaps in self._gaps.values())
        best_s, late = 0.9 * spread_s, 0  # better, beyond the jitter of evenly spread topics
        for count in range(1, len(in_order)):
            due_s = max(now_s, self._came[in_order[count - 1]] + period_s)
            alternative_s = due_s - self._came[in_order[count]]
            if alternative_s < best_s:
                best_s, late = alternative_s, count
        return in_order[:late]
