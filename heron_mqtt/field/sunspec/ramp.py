"""How long the way to more power may take, given where the inverter is on the way that it was told before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MAX_RAMP_S = 0xFFFE
REMEMBERED = 4  # the newest may not have been written: one before it is then in force


@dataclass(slots=True)
class _Way:
    """From one share to another, both percent; straight, as the inverter goes."""

    start: float
    target: float
    takes_s: int
    begun_s: float = math.inf  # it is not known that it was written

    def at(self, now_s: float) -> float:
        """Return the share that is reached, percent."""
        if self.takes_s == 0:
            return self.target
        done = min(max((now_s - self.begun_s) / self.takes_s, 0.0), 1.0)
        return self.start + done * (self.target - self.start)


class IncreaseRamp:
    """Finds the time of each increase, for inverters that need a time and not a rate.

    A register tells where the inverter is going, not where it is. Where a ramp is under way its place is
    estimated by the clock, so that a new setpoint does not make it jump or hurry.

    Args:
        percent_s: Bound of increases, percent a second.
        monotonic: The clock, s.
    """

    def __init__(self, percent_s: int, monotonic: Callable[[], float]) -> None:
        self._percent_s = percent_s
        self._monotonic = monotonic
        self._ways: list[_Way] = []  # newest first

    def time_to(self, held: float | None, wanted: float) -> int | None:
        """Return the time to the share that is wanted, s; None = it is the same again, the ramp continues.

        Less power is not delayed.

        Args:
            held: In the register, percent; None = nothing is held, the inverter may be anywhere above.
            wanted: Injected, percent.
        """
        if wanted == held:
            return None
        place = wanted if held is None else self._place(held)
        takes_s = min(math.ceil(max(wanted - place, 0.0) / self._percent_s), MAX_RAMP_S)
        others = [way for way in self._ways if way.target != wanted]
        self._ways = [_Way(place, wanted, takes_s), *others][:REMEMBERED]
        return takes_s

    def note_written(self) -> None:
        """Note that the inverter has its new setpoint: the ramp begins now."""
        if self._ways and self._ways[0].begun_s == math.inf:
            self._ways[0].begun_s = self._monotonic()

    def _place(self, held: float) -> float:
        """Return where the inverter is by now, percent, on the way to what it holds."""
        way = next((way for way in self._ways if way.target == held), None)
        return held if way is None else way.at(self._monotonic())
