"""How a device follows a setpoint: level and noise before, reaction, settling and final power after it.

Robust statistics throughout (medians): one wrong sample decides nothing. Times are s, powers MW, positive =
injected into the grid.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

PowerSample = tuple[float, float]
"""When, s, and the power, MW."""

LEAST_SAMPLES = 2
SIGMAS = 5.0  # of noise that count as a reaction
SETTLED = 0.05  # of the change: how close to its end the power must stay
MAD_TO_SIGMA = 1.4826  # of a normal distribution
MOST_PAIRS = 60  # samples that the slope is looked for in
KNOWN_FACTORS: tuple[tuple[float, str], ...] = (
    (1e-6, "a unit is wrong: W where MW is meant, or the reverse"),
    (1e-3, "a unit is wrong: W where kW is meant, or the reverse"),
    (1e-2, "percent where a fraction is meant, or a scale of 100 is missing"),
    (1e-1, "a scale of 10 is missing: some devices count in tenths"),
    (1 / 3, "one phase of three is counted"),
    (3.0, "three phases are counted where one is meant"),
    (10.0, "a scale of 10 too much: some devices count in tenths"),
    (1e2, "a fraction where percent is meant, or a scale of 100 too much"),
    (1e3, "a unit is wrong: W where kW is meant, or the reverse"),
    (1e6, "a unit is wrong: W where MW is meant, or the reverse"),
)


@dataclass(frozen=True, slots=True)
class PowerBefore:
    """The power before the setpoint.

    Attributes:
        p_mw: Its level at the end, MW.
        noise_mw: Its standard deviation around a straight line, MW; robust.
        drift_mw_s: Slope of that line, MW/s.
        every_s: Time between two values, s.
    """

    p_mw: float
    noise_mw: float
    drift_mw_s: float
    every_s: float

    def least_change_mw(self, within_s: float) -> float:
        """Return what the power must change by within a time, for it to be a reaction, MW."""
        return max(SIGMAS * self.noise_mw, abs(self.drift_mw_s) * within_s, 1e-12)


def power_before(samples: Sequence[PowerSample]) -> PowerBefore:
    """Return level, noise and drift of the power.

    The line is that of Theil and Sen: the median of the slopes between all pairs of samples.

    Raises:
        ValueError: Fewer than two samples.
    """
    if len(samples) < LEAST_SAMPLES:
        raise ValueError(f"expected {LEAST_SAMPLES} samples at least, got {len(samples)}")
    used = samples[-MOST_PAIRS:]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(used, 2) if b[0] > a[0]]
    end_s = used[-1][0]
    slope = statistics.median(slopes) if slopes else 0.0
    # A slope that noise alone would give is none: it would be taken far ahead.
    levels = [p - slope * (t - end_s) for t, p in used]
    level = statistics.median(levels)
    noise = MAD_TO_SIGMA * statistics.median(abs(p - level) for p in levels)
    span_s = end_s - used[0][0]
    if abs(slope) * span_s <= 2.0 * noise:
        level, slope = statistics.median(p for _, p in used), 0.0
        noise = MAD_TO_SIGMA * statistics.median(abs(p - level) for _, p in used)
    return PowerBefore(level, noise, slope, (used[-1][0] - used[0][0]) / (len(used) - 1))


@dataclass(frozen=True, slots=True)
class StepResponse:
    """What came back.

    Attributes:
        asked_mw: The setpoint, MW.
        before: The power before it.
        final_mw: The power at the end, MW; None = nothing came.
        least_mw: What counts as a change, MW.
        reacted_after_s: First sign of it, s; None = none.
        settled_after_s: From when on it stayed near its end, s; None = it did not.
        samples: How many came.
    """

    asked_mw: float
    before: PowerBefore
    final_mw: float | None
    least_mw: float
    reacted_after_s: float | None
    settled_after_s: float | None
    samples: int

    @property
    def has_reacted(self) -> bool:
        """Whether the power has changed, and stayed changed."""
        return self.final_mw is not None and abs(self.final_mw - self.before.p_mw) > self.least_mw

    @property
    def factor(self) -> float | None:
        """Power at the end, over the setpoint; None without a reaction."""
        return self.final_mw / self.asked_mw if self.has_reacted and self.final_mw is not None else None

    @property
    def added(self) -> float | None:
        """Change of the power over the setpoint; 1 where something else is measured along."""
        if not self.has_reacted or self.final_mw is None:
            return None
        return (self.final_mw - self.before.p_mw) / self.asked_mw


def step_response(
    before: PowerBefore, samples: Sequence[PowerSample], asked_mw: float, within_s: float
) -> StepResponse:
    """Return what a setpoint did.

    Args:
        before: The power before it.
        samples: Since it was sent; times from then on, s.
        asked_mw: The setpoint, MW, not 0.
        within_s: How long it held, s.
    """
    least = before.least_change_mw(within_s)
    if not samples:
        return StepResponse(asked_mw, before, None, least, None, None, 0)
    late = [p for t, p in samples if t >= samples[-1][0] * 2.0 / 3.0]
    final = statistics.median(late)
    reacted = _first_change(samples, before.p_mw, least)
    band = max(SETTLED * abs(final - before.p_mw), 3.0 * before.noise_mw)
    settled = _settled(samples, final, band, before.every_s, reacted)
    return StepResponse(asked_mw, before, final, least, reacted, settled, len(samples))


def _first_change(samples: Sequence[PowerSample], level: float, least: float) -> float | None:
    """Return when the power first left its level, and was not back with the next sample."""
    for i, (at_s, p) in enumerate(samples):
        following = samples[i + 1][1] if i + 1 < len(samples) else p
        if abs(p - level) > least and abs(following - level) > least:
            return at_s
    return None


def _settled(
    samples: Sequence[PowerSample], final: float, band: float, every_s: float, reacted_s: float | None
) -> float | None:
    """Return from when on nine tenths of what follows lies in the band around the end."""
    outside = [i for i, (_, p) in enumerate(samples) if abs(p - final) > band]
    for start in [0, *(i + 1 for i in outside)]:
        left = len(samples) - start
        if left < 1:
            return None
        if sum(i >= start for i in outside) <= left // 10:
            has_stayed = samples[-1][0] - samples[start][0] >= min(every_s, samples[-1][0] / 4.0)
            return max(samples[start][0], reacted_s or 0.0) if has_stayed else None
    return None


def known_factor(factor: float) -> str:
    """Return what a factor usually comes from; empty where nothing is known of it."""
    return next((why for value, why in KNOWN_FACTORS if abs(abs(factor) / value - 1.0) <= 0.1), "")
