"""Newton-Raphson by lightsim2grid (sparse LU by KLU): any network, voltage-controlling generators too."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from lightsim2grid.algorithm import ErrorType, NRSing_KLU

from heron_mqtt.errors import PowerFlowDiverged
from powergrid._powerflow.arrays import ComplexArray, GridArrays, IntArray

__all__ = ["NewtonSolver"]

_REASONS = {
    ErrorType.SingularMatrix: "the Jacobian matrix is singular",
    ErrorType.InifiniteValue: "the voltages became infinite",
}


class NewtonSolver:
    """Solve for node voltages; a pure function of its arguments.

    Args:
        grid: The compiled network.
        tolerance_mva: Largest active or reactive power mismatch of a node, MVA.
        max_iterations: Newton steps before giving up.
    """

    def __init__(self, grid: GridArrays, tolerance_mva: float, max_iterations: int) -> None:
        self._grid = grid
        self._tolerance = tolerance_mva / grid.base_mva
        self._max_iterations = max_iterations
        self._klu = NRSing_KLU()
        # Named to the solver: one reference node. Any further ones are named in no list at all, which
        # leaves their voltages as they are in the start vector: exactly what several ext_grids mean.
        self._slack = grid.reference_node[:1].astype(np.int32)
        self._slack_weight = np.zeros(grid.n_node)
        self._slack_weight[self._slack] = 1.0
        self._matrix = sp.csc_matrix((grid.n_node, grid.n_node), dtype=complex)
        self._pv = self._pq = np.zeros(0, dtype=np.int32)

    def set_matrix(self, matrix: sp.csc_matrix) -> None:
        """Use this (n_node, n_node) admittance matrix from now on."""
        self._matrix = matrix

    def set_controlled_nodes(self, pv: IntArray) -> None:
        """Hold the voltage magnitude at these nodes; all others but the reference nodes are free."""
        free = np.ones(self._grid.n_node, dtype=bool)
        free[self._grid.reference_node] = False
        free[pv] = False
        self._pv, self._pq = pv.astype(np.int32), np.flatnonzero(free).astype(np.int32)

    def solve(self, power: ComplexArray, start: ComplexArray) -> tuple[ComplexArray, int]:
        """Return voltages (n_node,) and the number of iterations.

        Args:
            power: (n_node,) complex power injected, pu, positive = into the network.
            start: (n_node,) first guess, pu; holds the reference voltages and the controlled magnitudes.

        Raises:
            PowerFlowDiverged: No solution was found.
        """
        if not len(self._pv) and not len(self._pq):
            return start.copy(), 0
        klu = self._klu
        # Forget the pivots chosen for another step (1 us), so that a solution cannot depend on it.
        klu.reset()
        converged = klu.solve(
            self._matrix,
            start,
            power,
            self._slack,
            self._slack_weight,
            self._pv,
            self._pq,
            self._max_iterations,
            self._tolerance,
        )
        voltage: ComplexArray = klu.get_V().copy()  # what it returns is the solver's own memory
        if not converged:
            raise PowerFlowDiverged(self._reason(voltage, power))
        return voltage, klu.get_nb_iter()

    def _reason(self, voltage: ComplexArray, power: ComplexArray) -> str:
        error = self._klu.get_error()
        if error != ErrorType.TooManyIterations:
            return _REASONS.get(error, f"the linear solver failed ({error.name})")
        mismatch = np.abs(voltage * np.conj(self._matrix @ voltage) - power)
        free = np.concatenate([self._pv, self._pq])
        worst = free[np.argmax(mismatch[free])]
        return (
            f"no convergence after {self._max_iterations} iterations; the largest power mismatch is "
            f"{mismatch[worst] * self._grid.base_mva:.3g} MVA at {self._grid.bus_name(worst)}"
        )
