"""What makes hardware differ from its model: dead time, lag, ramp, losses, offset, noise, quantum, jitter.

How power follows its target within a step: ``powergrid.devices.response``. Measurement: the offset is added,
then normal noise, then the sum is rounded to the quantum.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from powergrid.devices.response import mean_and_end
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
        mean, self.p_mw = mean_and_end(
            self.p_mw,
            target_mw,
            dt_s,
            response_delay_s=table.response_delay_s,
            lag_s=table.lag_s,
            ramp_mw_per_s=table.ramp_mw_per_s,
        )
        return mean

    def measure(self, p_mw: float) -> float:
        """Return what the meter shows of a power, MW."""
        table = self.table
        shown = (
            p_mw + table.offset_mw + (self.rng.gauss(0.0, table.noise_mw) if table.noise_mw > 0.0 else 0.0)
        )
        return round(shown / table.quantum_mw) * table.quantum_mw if table.quantum_mw > 0.0 else shown

    def answer_delay_s(self) -> float:
        """Return how long the device takes to answer this time, wall-clock s."""
        table = self.table
        return table.answer_delay_s + (self.rng.uniform(0.0, table.jitter_s) if table.jitter_s > 0.0 else 0.0)
