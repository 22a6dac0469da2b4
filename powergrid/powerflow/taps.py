"""Branch admittances at every tap position, so that a tap change needs no pandapower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from powergrid.powerflow.arrays import ComplexArray, GridArrays
from powergrid.powerflow.results import Array
from powergrid.powerflow.setpoints import TapPositions, checked_taps

__all__ = ["TapTable", "tap_positions_to_read"]


@dataclass(frozen=True, slots=True, eq=False)
class TapTable:
    """Admittances of every transformer at each of its tap positions.

    Attributes:
        trafo: The transformers' positions as given, and their limits.
        admittance: (n_positions, 4, n_trafo) yff, yft, ytf, ytt, from the lowest position upwards; see
            :func:`tap_positions_to_read`.
    """

    trafo: TapPositions
    admittance: ComplexArray

    def branch_admittance(self, grid: GridArrays, tap_pos: ArrayLike) -> ComplexArray:
        """Return (4, n_branch) yff, yft, ytf, ytt of the whole grid at these tap positions.

        Raises:
            ValueError: See :func:`powergrid.powerflow.setpoints.checked_taps`; or pandapower ignores the
                position of that transformer.
        """
        trafo = self.trafo
        positions = checked_taps(trafo, tap_pos)
        moved = ~((positions == trafo.present) | np.isnan(positions)) & (grid.trafo_branch >= 0)
        responds = (self.admittance != self.admittance[0]).any(axis=(0, 1))
        stuck = np.flatnonzero(moved & ~responds)
        if len(stuck):
            row = stuck[0]
            raise ValueError(
                f"tap_pos of trafo {trafo.index[row]} (row {row}): its position has no effect; set "
                'its tap_changer_type ("Ratio", "Symmetrical", "Ideal"), tap_side and tap_step_percent'
            )
        rows = np.flatnonzero(moved)
        step = (positions[rows] - trafo.lowest[rows]).astype(np.intp)
        admittance = grid.branch_admittance.copy()
        admittance[:, grid.trafo_branch[rows]] = self.admittance[step, :, rows].T
        return admittance


def tap_positions_to_read(trafo: TapPositions) -> list[Array]:
    """Return (n_trafo,) positions, one array a step from the lowest to the highest position of any.

    A transformer with fewer positions stays at its highest, one without a tap changer at what it has.
    """
    movable: NDArray[np.bool_] = np.isfinite(trafo.present) & np.isfinite(trafo.lowest)
    movable &= np.isfinite(trafo.highest)
    n_positions = int(np.where(movable, trafo.highest - trafo.lowest, 0.0).max(initial=0.0)) + 1
    return [
        np.where(movable, np.minimum(trafo.lowest + k, trafo.highest), trafo.present)
        for k in range(n_positions)
    ]
