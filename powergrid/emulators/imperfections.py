"""What makes hardware differ from its model: dead time, lag, ramp, losses, noise, quantisation, jitter.

Formulas, with P the power before, T the target, d the dead time, tau the lag, dt the step; the output is
the mean over the step, so that energy is right:

- dead time and first-order lag: mean = (d P + (dt - d) T + (P - T) tau (1 - exp(-(dt - d) / tau))) / dt
- ramp: the target is first moved to at most ramp * (dt - d) away from P
- measurement: normal noise, then rounding to the quantum
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from powergrid.devices import BatterySpec, DeviceSpec
from powergrid.scenario import EmulatorTable


@dataclass(slots=True)
class Imperfections:
    """One device's imperfections; all of its randomness comes from ``rng``.

    Attributes:
        table: Their sizes.
        rng: Seeded.
        p_mw: Power at the end of the last step, MW, positive = injected.
    """

    table: EmulatorTable
    rng: random.Random
    p_mw: float = 0.0

    def respond(self, target_mw: float, dt_s: float) -> float:
        """Return the mean power over a step that begins with the target, MW, and remember the last."""
        table = self.table
        dead_s = min(table.response_delay_s, dt_s)
        moving_s = dt_s - dead_s
        before = self.p_mw
        reach = math.inf if table.ramp_mw_per_s is None else table.ramp_mw_per_s * moving_s
        target = min(max(target_mw, before - reach), before + reach)
        if table.lag_s == 0.0:
            self.p_mw = target if moving_s > 0.0 else before
            return (dead_s * before + moving_s * target) / dt_s if dead_s > 0.0 else target
        left = math.exp(-moving_s / table.lag_s)
        self.p_mw = target + (before - target) * left
        lagging = (before - target) * table.lag_s * (1.0 - left)
        return (dead_s * before + moving_s * target + lagging) / dt_s

    def measure(self, p_mw: float) -> float:
        """Return what the meter shows of a power, MW."""
        table = self.table
        shown = p_mw + (self.rng.gauss(0.0, table.noise_mw) if table.noise_mw > 0.0 else 0.0)
        return round(shown / table.quantum_mw) * table.quantum_mw if table.quantum_mw > 0.0 else shown

    def answer_delay_s(self) -> float:
        """Return how long the device takes to answer this time, wall-clock s."""
        table = self.table
        return table.answer_delay_s + (self.rng.uniform(0.0, table.jitter_s) if table.jitter_s > 0.0 else 0.0)


def real_spec(spec: DeviceSpec, table: EmulatorTable) -> DeviceSpec:
    """Return what the device really is, where that differs from its nameplate."""
    if not isinstance(spec, BatterySpec) or table.efficiency_factor == 1.0:
        return spec
    return spec.model_copy(
        update={
            "efficiency_charge": spec.efficiency_charge * table.efficiency_factor,
            "efficiency_discharge": spec.efficiency_discharge * table.efficiency_factor,
        }
    )
