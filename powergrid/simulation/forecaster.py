"""What is foretold of price, load and sun: perfect, as it was a day before, or with an error.

Formulas: docs/models.md, forecasts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.randomiser import Noise, Randomiser
from powergrid.simulation.time_series import Outlook

__all__ = ["Forecaster"]

Array = NDArray[np.float64]

_DAY_S = 86_400.0


class Forecaster:
    """Foretells the steps that follow the coming one.

    Args:
        simulation: With the scenario and its series.
        randomiser: Of the same episodes.

    Attributes:
        horizon: How many steps; 0 = nothing is foretold.
    """

    def __init__(self, simulation: GridSimulation, randomiser: Randomiser) -> None:
        table = simulation.scenario.forecast
        self.horizon = 0 if table.kind == "none" else table.horizon
        self._kind, self._series, self._randomiser = table.kind, simulation.series, randomiser
        self._leads = np.arange(1, self.horizon + 1)
        per_day = max(round(_DAY_S / simulation.scenario.step_s), 1)
        self._back = per_day * -(-self._leads // per_day)
        # An error that grows as the root of how far ahead it is, as a random walk's.
        self._growth = table.error * np.sqrt(self._leads / max(self.horizon, 1))

    def outlook(self, row: Any, noise: Noise, step: Any, copies: Any = ()) -> Outlook:
        """Return what is foretold, each with the leads 1 to ``horizon`` as the last axis but one.

        Args:
            row: Of the coming step, or (n,) rows.
            noise: Of the episode, or of (n,) episodes.
            step: Number of the coming step, or (n,).
            copies: ``np.arange(n)`` where there are copies.

        Returns:
            Price (..., horizon), loads (..., horizon, n_agents), available (..., horizon, n_profiled).
        """
        rows, steps = self._ahead(row), self._ahead(step)
        if self._kind == "persistence":
            return self._series.outlook(self._known(rows - self._back))
        at = steps if isinstance(copies, tuple) else (copies[:, np.newaxis], steps)
        found = self._randomiser.outlook(self._series.outlook(self._known(rows)), noise, at)
        if noise.forecast is None:
            return found
        wrong = self._growth[:, np.newaxis] * noise.forecast[at]
        factor = np.maximum(1.0 + wrong, 0.0)
        return Outlook(
            found.price + np.abs(found.price) * wrong[..., 0],
            found.p_load_mw * factor[..., 1 : 1 + found.p_load_mw.shape[-1]],
            found.q_load_mvar,
            found.p_available_mw * factor[..., 1 + found.p_load_mw.shape[-1] :],
        )

    def _ahead(self, start: Any) -> NDArray[np.int64]:
        """Return start + 1 to start + horizon, in the last axis."""
        return np.asarray(start)[..., np.newaxis] + self._leads

    def _known(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return rows within the series: those that repeat them wrap, others stay at their ends."""
        n_rows = self._series.n_rows
        return rows % n_rows if self._series.repeats else np.clip(rows, 0, n_rows - 1)
