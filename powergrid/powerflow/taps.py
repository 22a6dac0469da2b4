"""Branch admittances at every tap position, so that a tap change needs no pandapower."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from powergrid.powerflow.adapter import TapAdmittances
from powergrid.powerflow.arrays import ComplexArray, GridArrays
from powergrid.powerflow.setpoints import checked_taps

__all__ = ["TapTable"]


class TapTable:
    """Admittances of every transformer at each of its tap positions.

    Building it calls pandapower once a position (1-3 ms each).

    Args:
        net: The copy of the network that was compiled.
        grid: What it was compiled to.
    """

    def __init__(self, net: Any, grid: GridArrays) -> None:
        self._grid = grid
        self._trafo = net.trafo.copy()
        self._own, lowest, highest = (
            self._trafo[name].to_numpy(float) for name in ("tap_pos", "tap_min", "tap_max")
        )
        movable = np.isfinite(self._own) & np.isfinite(lowest) & np.isfinite(highest)
        n_positions = int(np.where(movable, highest - lowest, 0.0).max(initial=0.0)) + 1
        self._lowest = np.where(movable, lowest, 0.0)
        positions = [
            np.where(movable, np.minimum(lowest + k, highest), self._own) for k in range(n_positions)
        ]
        admittances = TapAdmittances(net)
        self._table = np.stack([admittances.at(tap_pos) for tap_pos in positions])
        self._responds = (self._table != self._table[0]).any(axis=(0, 1))

    def branch_admittance(self, tap_pos: ArrayLike) -> ComplexArray:
        """Return (4, n_branch) yff, yft, ytf, ytt of the whole grid at these tap positions.

        Raises:
            ValueError: See :func:`powergrid.powerflow.setpoints.checked_taps`; or pandapower ignores the
                position of that transformer.
        """
        positions = checked_taps(self._trafo, tap_pos)
        moved = ~((positions == self._own) | np.isnan(positions)) & (self._grid.trafo_branch >= 0)
        stuck = np.flatnonzero(moved & ~self._responds)
        if len(stuck):
            row = stuck[0]
            raise ValueError(
                f"tap_pos of trafo {self._trafo.index[row]} (row {row}): its position has no effect; set "
                'its tap_changer_type ("Ratio", "Symmetrical", "Ideal"), tap_side and tap_step_percent'
            )
        rows = np.flatnonzero(moved)
        step = (positions[rows] - self._lowest[rows]).astype(np.intp)
        admittance = self._grid.branch_admittance.copy()
        admittance[:, self._grid.trafo_branch[rows]] = self._table[step, :, rows].T
        return admittance
