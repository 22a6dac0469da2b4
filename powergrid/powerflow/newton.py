"""Newton-Raphson by lightsim2grid (sparse LU by KLU): any network, voltage-controlling generators too."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow.arrays import ComplexArray, GridArrays, IntArray
from powergrid.powerflow.klu import ErrorType, NRSing_KLU

__all__ = ["NewtonSolver"]

_REASONS = {
    ErrorType.SingularMatrix: "the Jacobian matrix is singular",
    ErrorType.InifiniteValue: "the voltages became infinite",
}


_ROUNDINGS = 4.0
"""How many times the bound of one rounding is let pass; the library's networks stagnate at 0.4 to 1.1."""


def rounding_mismatch(matrix: sp.csc_matrix) -> float:
    """Return the power mismatch, pu, below which a node's mismatch is made of rounding alone.

    The power of node i is V_i times the conjugate of the sum over j of Y_ij V_j, whose terms cancel. At
    voltages about 1 pu its rounding error is of the order eps * sum_j |Y_ij|. Large where branches have
    little impedance or much power: 1e-8 MVA for a national grid, 1e-12 for a low-voltage feeder.

    Args:
        matrix: (n_node, n_node) admittances, pu.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, section 3.1.
    """
    sums = np.asarray(abs(matrix).sum(axis=1))
    return _ROUNDINGS * float(np.finfo(float).eps) * float(sums.max(initial=0.0))


class NewtonSolver:
    """Solve for node voltages; a pure function of its arguments.

    Args:
        grid: The compiled network.
        tolerance_mva: Largest active or reactive power mismatch of a node, MVA; where rounding alone makes
            more than that, what rounding makes (``rounding_mismatch``) counts instead.
        max_iterations: Newton steps before giving up.
    """

    def __init__(self, grid: GridArrays, tolerance_mva: float, max_iterations: int) -> None:
        self._grid = grid
        self._asked_tolerance = self._tolerance = tolerance_mva / grid.base_mva
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
        self._tolerance = max(self._asked_tolerance, rounding_mismatch(matrix))

    def set_controlled_nodes(self, pv: IntArray) -> None:
        """Hold the voltage magnitude at these nodes; all others but the reference nodes are free."""
        free = np.ones(self._grid.n_node, dtype=bool)
        free[self._grid.reference_node] = False
        free[pv] = False
        self._pv, self._pq = pv.astype(np.int32), np.flatnonzero(free).astype(np.int32)

    def solve(self, power: ComplexArray, start: ComplexArray) -> tuple[ComplexArray, int]:
        """Return voltages (n_node,), which hold until the next solve, and the number of iterations.

        Args:
            power: (n_node,) complex power injected, pu, positive = into the network.
            start: (n_node,) first guess, pu; holds the reference voltages and the controlled magnitudes.

        Raises:
            PowerFlowDiverged: No solution was found.
        """
        voltage, iterations, converged = self._attempt(power, start)
        if not converged:
            raise PowerFlowDiverged(self._reason(voltage, power))
        return voltage, iterations

    def solve_batch(
        self, power: ComplexArray, start: ComplexArray
    ) -> tuple[ComplexArray, NDArray[np.int64], NDArray[np.bool_]]:
        """Return voltages (n_scenarios, n_node), iterations and converged (n_scenarios,).

        Args:
            power: (n_scenarios, n_node) as in :meth:`solve`; solved one after the other.
            start: (n_node,) as in :meth:`solve`.
        """
        voltage = np.empty_like(power)
        iterations = np.empty(len(power), dtype=np.int64)
        converged = np.empty(len(power), dtype=bool)
        for k, row in enumerate(power):
            voltage[k], iterations[k], converged[k] = self._attempt(row, start)
        return voltage, iterations, converged

    def _attempt(self, power: ComplexArray, start: ComplexArray) -> tuple[ComplexArray, int, bool]:
        if not len(self._pv) and not len(self._pq):
            return start.copy(), 0, True
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
        return klu.get_V(), klu.get_nb_iter(), converged  # the voltages are the solver's own memory

    def _reason(self, voltage: ComplexArray, power: ComplexArray) -> str:
        error = self._klu.get_error()
        if error != ErrorType.TooManyIterations:
            return _REASONS.get(error, f"the linear solver failed ({error.name})")
        with np.errstate(all="ignore"):
            drawn: ComplexArray = np.asarray(self._matrix @ voltage)
            difference = voltage * drawn.conj() - power
        difference.imag[self._pv] = 0.0  # a generator gives what reactive power it takes
        difference[self._grid.reference_node] = 0.0
        return self._grid.not_converged(self._max_iterations, np.abs(difference))
