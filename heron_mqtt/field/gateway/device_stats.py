"""What happened to one device during a run, counted; the device rows of the summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SAMPLES = 100_000  # a week of 6 s steps; the newest are kept


@dataclass(slots=True)
class DeviceStats:
    """Counts and samples of one device; times are wall-clock s, powers MW."""

    telemetry: int = 0
    refused: int = 0
    """Telemetry that is wrong, of another environment, retained or not newer than the newest; not used."""
    flooded: int = 0
    held: int = 0
    """Telemetry of the past, kept by the device's outbox or in our session at the broker; not used."""
    late: int = 0
    rejected: int = 0
    """Setpoints that the device rejected, without those of a stop."""
    rejected_in_stop: int = 0
    """Setpoints of 0 that it correctly rejected because of an emergency stop."""
    unacknowledged: int = 0
    """Steps in which it measured but did not acknowledge the setpoint; its measurement was used."""
    deviations: int = 0
    """Steps in which it did something else than its model by more than the residual of the gate."""
    setpoints: int = 0
    fallbacks: int = 0
    longest_fallback: int = 0
    fallback_delay_s: float | None = None
    """From a setpoint without answer to the model standing in, longest."""
    time_to_safe_s: float | None = None
    """Longest that the device said it took to go safe by itself after its last setpoint."""
    age_s: list[float] = field(default_factory=list)
    round_trip_s: list[float] = field(default_factory=list)
    tracking_error_mw: list[float] = field(default_factory=list)
    residual_mw: list[float] = field(default_factory=list)
    _running: int = 0

    def fell_back(self, waited_s: float) -> int:
        """Count a step in which the model stood in; return how many in a row that makes."""
        self.fallbacks += 1
        self._running += 1
        self.longest_fallback = max(self.longest_fallback, self._running)
        longest_s = self.fallback_delay_s
        self.fallback_delay_s = waited_s if longest_s is None else max(longest_s, waited_s)
        return self._running

    def followed(self) -> int:
        """Count a step in which the device's own values were used; return how many fallbacks that ends."""
        ended, self._running = self._running, 0
        return ended

    def sample(self, values: list[float], value: float) -> None:
        """Keep a sample, the oldest going first when there are too many."""
        if len(values) >= MAX_SAMPLES:
            del values[: MAX_SAMPLES // 10]
        values.append(value)

    def as_dict(self) -> dict[str, Any]:
        """Return the record in plain values; what was never measured is None."""
        return {
            "telemetry": self.telemetry,
            "age_s": {"p50": percentile(self.age_s, 0.5), "p99": percentile(self.age_s, 0.99)},
            "round_trip_s": {
                "p50": percentile(self.round_trip_s, 0.5),
                "p99": percentile(self.round_trip_s, 0.99),
            },
            "late": self.late,
            "rejected": self.rejected,
            "rejected_in_stop": self.rejected_in_stop,
            "unacknowledged": self.unacknowledged,
            "deviations": self.deviations,
            "refused": self.refused,
            "flooded": self.flooded,
            "held": self.held,
            "setpoints": self.setpoints,
            "fallbacks": self.fallbacks,
            "longest_fallback": self.longest_fallback,
            "fallback_delay_s": self.fallback_delay_s,
            "time_to_safe_s": self.time_to_safe_s,
            "tracking_error_mw": _mean_size(self.tracking_error_mw),
            "residual_mw": _mean_size(self.residual_mw),
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that a share of ``values`` does not exceed; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _mean_size(values: Sequence[float]) -> float | None:
    return sum(abs(v) for v in values) / len(values) if values else None
