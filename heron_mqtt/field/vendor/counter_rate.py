"""How fast a counter rises: power from a meter that only counts energy."""

from __future__ import annotations

from collections import deque

from heron_mqtt.errors import MessageError

PER_S = {"s": 1.0, "min": 60.0, "h": 3_600.0}
"""Seconds of the unit of time in which a rate is given."""

READINGS_AT_MOST = 1_000
"""Readings that are kept; of a counter that is read more often than that, not every one is."""

GAP = 3.0
"""After a gap of so many times ``over_s`` the rate starts again: the mean of an outage is not a power."""


class CounterRate:
    """The rate of one counter over the last seconds.

    Args:
        per: Unit of time of the rate: "s", "min" or "h".
        over_s: Over at least how long, s.
        direction: 1 = its readings rise, -1 = they fall, as its sign was turned.
    """

    def __init__(self, per: str, over_s: float, direction: int = 1) -> None:
        self._per_s = PER_S[per]
        self._over_s = over_s
        self._direction = direction
        self._readings: deque[tuple[float, float]] = deque()

    def add(self, reading: float, at_s: float) -> float | None:
        """Take a reading in; returns the rate up to it, None while it is not known.

        Args:
            reading: Of the counter.
            at_s: When it was taken, of any one clock, s. One that is not newer than the last tells nothing.

        Raises:
            MessageError: The counter went back: it was reset, and the rate starts again.
        """
        kept = self._readings
        if kept and at_s <= kept[-1][0]:
            return None
        if kept and (reading - kept[-1][1]) * self._direction < 0.0:
            before = kept[-1][1]
            kept.clear()
            kept.append((at_s, reading))
            raise MessageError(f"the counter went from {before:g} back to {reading:g}: the rate starts again")
        if kept and at_s - kept[-1][0] > GAP * self._over_s:
            kept.clear()
        while len(kept) > 1 and at_s - kept[1][0] >= self._over_s:
            kept.popleft()
        rate = None
        if kept and at_s - kept[0][0] >= self._over_s:
            then_s, before = kept[0]
            rate = (reading - before) / (at_s - then_s) * self._per_s
        if len(kept) < 2 or at_s - kept[-2][0] >= self._over_s / READINGS_AT_MOST:
            kept.append((at_s, reading))
        else:
            kept[-1] = (at_s, reading)
        return rate
