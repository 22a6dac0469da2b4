"""A signal: values over time, and the windows in which something is asserted of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from statistics import median

SLACK = 1.5
"""Samples may be so many usual distances apart before it counts as a gap."""


class SignalFailed(AssertionError):
    """An assertion on a signal does not hold.

    Args:
        text: What was seen, when, and what the bound is.
        svg: A plot of it.
    """

    def __init__(self, text: str, svg: str) -> None:
        super().__init__(text)
        self.svg = svg


@dataclass(frozen=True, slots=True)
class Signal:
    """Values over time.

    Attributes:
        name: What it is, for texts and plots.
        unit: Of its values.
        t_s: Times, s, strictly increasing; simulated or wall-clock, as the source says.
        values: One for each time; NaN = not known.
        longest_gap_s: Samples further apart than this are a gap, s; None = 1.5 times the median distance.

    Raises:
        ValueError: Times and values do not go together, or times do not increase.
    """

    name: str
    unit: str
    t_s: tuple[float, ...]
    values: tuple[float, ...]
    longest_gap_s: float | None = None

    def __post_init__(self) -> None:
        if len(self.t_s) != len(self.values):
            raise ValueError(f"{self.name}: {len(self.t_s)} times and {len(self.values)} values")
        if any(not math.isfinite(t) for t in self.t_s):
            raise ValueError(f"{self.name}: a time is not finite")
        if any(b <= a for a, b in zip(self.t_s, self.t_s[1:], strict=False)):
            raise ValueError(f"{self.name}: times must increase")
        if self.longest_gap_s is not None and not self.longest_gap_s > 0.0:
            raise ValueError(f"{self.name}: longest_gap_s {self.longest_gap_s}: expected seconds > 0")

    @property
    def gap_s(self) -> float:
        """Distance of two samples from which on it is a gap, s; infinite where there is one sample."""
        if self.longest_gap_s is not None:
            return self.longest_gap_s
        steps = [b - a for a, b in zip(self.t_s, self.t_s[1:], strict=False)]
        return SLACK * median(steps) if steps else math.inf

    def told(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.6g} {self.unit}".rstrip()

    def window(self, from_s: float | None, until_s: float | None) -> SignalWindow:
        """Return the samples from a time to another, both included; None = the signal's own ends."""
        begin = from_s if from_s is not None else (self.t_s[0] if self.t_s else 0.0)
        end = until_s if until_s is not None else (self.t_s[-1] if self.t_s else 0.0)
        inside = [i for i, t in enumerate(self.t_s) if begin <= t <= end]
        return SignalWindow(self, begin, end, tuple(inside))


@dataclass(frozen=True, slots=True)
class SignalWindow:
    """A part of a signal.

    Attributes:
        signal: The whole.
        from_s: Its begin, s.
        until_s: Its end, s.
        places: Indices of the samples in it.
    """

    signal: Signal
    from_s: float
    until_s: float
    places: tuple[int, ...]

    def unknown(self) -> tuple[float, str] | None:
        """Return when and why something in it is not known; None if all is.

        Not known is: no sample at all, a value that is not finite, a gap, and a begin or end that no sample
        is near.
        """
        signal = self.signal
        if self.until_s < self.from_s:
            return self.from_s, f"the window ends at {self.until_s:g} s, before it begins"
        if not self.places:
            return self.from_s, f"there is no sample from {self.from_s:g} to {self.until_s:g} s"
        for i in self.places:
            if not math.isfinite(signal.values[i]):
                return signal.t_s[i], f"its value at {signal.t_s[i]:g} s is not known ({signal.values[i]})"
        times = [self.from_s, *(signal.t_s[i] for i in self.places), self.until_s]
        for before, after in itertools.pairwise(times):
            if after - before > signal.gap_s:
                gap = f"{after - before:g} s from {before:g} s on"
                return (
                    before,
                    f"nothing is known for {gap}; at most {signal.gap_s:g} s may lie between samples",
                )
        return None


@dataclass(slots=True)
class SignalSamples:
    """A signal that is filled sample by sample, while something runs.

    Attributes:
        name: What it is.
        unit: Of its values.
        longest_gap_s: As of ``Signal``.
    """

    name: str
    unit: str = ""
    longest_gap_s: float | None = None
    _t_s: list[float] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)

    def add(self, t_s: float, value: float | None) -> None:
        """Take a sample; None = not known.

        Raises:
            ValueError: It is not later than the one before.
        """
        if self._t_s and t_s <= self._t_s[-1]:
            raise ValueError(f"{self.name}: {t_s:g} s does not come after {self._t_s[-1]:g} s")
        self._t_s.append(t_s)
        self._values.append(math.nan if value is None else value)

    def signal(self) -> Signal:
        """Return what was taken so far."""
        return Signal(self.name, self.unit, tuple(self._t_s), tuple(self._values), self.longest_gap_s)
