"""Budgets: what the runs and environments of one test may have cost, and what they did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from heron_mqtt.messaging.base import MessageBroker

COUNTS = {
    "fallbacks": "fallbacks",
    "missed": "missed deadlines",
    "lost": "lost messages",
    "overruns": "steps that came late",
}
TIMES = {"p99_ms": 0.99, "max_ms": 1.0}


def limits_of(item: pytest.Item) -> dict[str, float]:
    """Return the budget of a test; of several markers the nearest one wins, name by name.

    Raises:
        UsageError: It names something that is not measured, or no number.
    """
    limits: dict[str, float] = {}
    for marker in reversed(list(item.iter_markers("budget"))):
        for name, value in marker.kwargs.items():
            if name not in COUNTS and name not in TIMES:
                known = ", ".join([*COUNTS, *TIMES])
                raise pytest.UsageError(f"{item.nodeid}: budget({name}=...): expected {known}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise pytest.UsageError(f"{item.nodeid}: budget({name}={value!r}): expected a number >= 0")
            limits[name] = float(value)
        if marker.args or not marker.kwargs:
            raise pytest.UsageError(f"{item.nodeid}: budget: expected names with numbers, as fallbacks=0")
    return limits


@dataclass(slots=True)
class Measured:
    """What the runs and environments of one test did, added up."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    step_ms: list[float] = field(default_factory=list)
    brokers: list[MessageBroker] = field(default_factory=list)
    """Those of its environments; what they have lost is looked at in the end."""

    def add_step(self, infos: Mapping[str, Mapping[str, Any]], step_ms: float) -> None:
        """Take a step of an environment."""
        self.step_ms.append(step_ms)
        for info in infos.values():
            fell_back = info.get("fallback") is not None
            self.counts["fallbacks"] += len(info.get("fallbacks", ())) + fell_back
            self.counts["missed"] += info.get("missed", 0) + fell_back

    def add_run(self, summary: Mapping[str, Any], step_ms: list[float]) -> None:
        """Take a whole run: its summary as ``heron-mqtt run --json`` prints it."""
        self.step_ms += step_ms
        self.counts["fallbacks"] += summary["fallbacks"]
        self.counts["missed"] += summary["deadline_misses"]
        self.counts["lost"] += summary["messages"].get("lost", 0)
        self.counts["overruns"] += summary["overruns"]

    def over(self, limits: Mapping[str, float]) -> list[str]:
        """Return one line for each budget that was exceeded, with numbers; one if nothing was measured."""
        if not self.step_ms:
            return ["budget: nothing was measured: no step of microgrids or recorded_run was taken"]
        self.counts["lost"] += sum(broker.stats.counts()["lost"] for broker in self.brokers)
        self.brokers.clear()
        found = []
        for name, limit in limits.items():
            if name in COUNTS and self.counts[name] > limit:
                seen = f"{self.counts[name]} {COUNTS[name]} in {len(self.step_ms)} steps"
                found.append(f"budget: {seen}, allowed {limit:g}")
            elif name in TIMES and (spent := self._percentile(TIMES[name])) > limit:
                found.append(
                    f"budget: {name} is {spent:.2f} ms over {len(self.step_ms)} steps, allowed {limit:g} ms"
                )
        return found

    def _percentile(self, share: float) -> float:
        ordered = sorted(self.step_ms)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
