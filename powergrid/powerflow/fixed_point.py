"""Fixed point V = w + Z conj(S / V): distribution networks, many cases at once.

``w`` is the no-load voltage profile that the reference nodes impose and Z the inverse of the admittance
matrix without the reference nodes. The iteration needs only the rows and columns of Z of the nodes that
have injections. It contracts for loads below the point of voltage collapse that distribution networks
are operated at. Where generators hold voltages their reactive power is corrected in each iteration
(``VoltageHold``); that contracts where generators are few beside the reference, as in distribution networks.

Source: S. Bolognani, S. Zampieri, "On the existence and linear approximation of the power flow solution
in power distribution networks", IEEE Trans. Power Systems 31(1), 2016 (the iteration and its condition).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow.arrays import ComplexArray, GridArrays, IntArray
from powergrid.powerflow.blas import SingleThreadedBlas
from powergrid.powerflow.voltage_hold import VoltageHold

__all__ = ["FixedPointSolver"]


class FixedPointSolver:
    """Solve for node voltages, one case or a batch; a pure function of its arguments.

    Args:
        grid: The compiled network.
        tolerance_mva: Largest apparent power mismatch of a node, MVA.
        max_iterations: Iterations before giving up.
    """

    def __init__(self, grid: GridArrays, tolerance_mva: float, max_iterations: int) -> None:
        self._grid = grid
        self._tolerance = tolerance_mva / grid.base_mva
        self._max_iterations = max_iterations
        n, reference = grid.n_node, grid.reference_node
        is_free = np.ones(n, dtype=bool)  # by masks: numpy's set routines import numpy.ma
        is_free[reference] = False
        is_injected = np.zeros(n, dtype=bool)
        is_injected[grid.injection_node[grid.injection_node < n]] = True
        self._free = np.flatnonzero(is_free)
        self._active = np.flatnonzero(is_free & is_injected)
        self._active_of_free = np.searchsorted(self._free, self._active)
        self._held = np.zeros(0, dtype=np.intp)
        self._blas = SingleThreadedBlas()

    def set_matrix(self, matrix: sp.csc_matrix) -> None:
        """Use this (n_node, n_node) admittance matrix from now on; factorises it."""
        free, active = self._free, self._active_of_free
        if not len(free):
            return
        from scipy.sparse.linalg import splu  # 0.1 s that a run by Newton's method has no use for

        rows = matrix[free]
        unit = np.zeros((len(free), len(active)), dtype=complex)
        unit[active, np.arange(len(active))] = 1.0
        with self._blas:
            factors = splu(rows[:, free].tocsc())
            self._z_free = np.ascontiguousarray(factors.solve(unit))
            self._w_free = factors.solve(-rows[:, self._grid.reference_node].toarray())
        self._z_active: ComplexArray = np.ascontiguousarray(self._z_free[active])

    def set_controlled_nodes(self, pv: IntArray) -> None:
        """Hold the voltage magnitude of the start voltages at these nodes."""
        self._held = np.searchsorted(self._active, np.setdiff1d(pv, self._grid.reference_node))

    def _hold(self, start: ComplexArray) -> VoltageHold | None:
        return VoltageHold(self._held, start[self._active], self._z_active) if len(self._held) else None

    def solve(self, power: ComplexArray, start: ComplexArray) -> tuple[ComplexArray, int]:
        """Return voltages (n_node,) and the number of iterations.

        Args:
            power: (n_node,) complex power injected, pu, positive = into the network.
            start: (n_node,) first guess, pu; holds the reference voltages and the controlled magnitudes.

        Raises:
            PowerFlowDiverged: No solution was found.
        """
        voltage = start.copy()
        if not len(self._free):
            return voltage, 0
        with self._blas, np.errstate(all="ignore"):
            w_free = self._w_free @ start[self._grid.reference_node]
            w = w_free[self._active_of_free]
            v, s_conj = start[self._active], power[self._active].conj()
            hold = self._hold(start)
            for iteration in range(1, self._max_iterations + 1):
                current = s_conj / v.conj()
                update = self._z_active @ current
                update += w
                missing = 0.0 if hold is None else hold.correct(s_conj, v, current, update)
                # The currents are exact for the new voltages; what is off is the power they carry.
                mismatch = np.abs((update - v) * current)
                v = update
                largest = np.maximum(mismatch.max(initial=0.0), missing)
                if largest < self._tolerance:
                    voltage[self._free] = w_free + self._z_free @ current
                    return voltage, iteration
                if not np.isfinite(largest):
                    raise PowerFlowDiverged("the voltages became infinite")
        by_node = np.zeros(self._grid.n_node)
        by_node[self._active] = mismatch
        reason = self._grid.not_converged(self._max_iterations, by_node)
        if len(self._held):
            reason += f'; {len(self._held)} nodes hold voltages, which solver = "newton" is better at'
        raise PowerFlowDiverged(reason)

    def solve_batch(
        self, power: ComplexArray, start: ComplexArray
    ) -> tuple[ComplexArray, NDArray[np.int64], NDArray[np.bool_]]:
        """Return voltages (n_scenarios, n_node), iterations and converged (n_scenarios,).

        Each scenario stops at its own convergence, so that it takes the steps :meth:`solve` would take.

        Args:
            power: (n_scenarios, n_node) as in :meth:`solve`.
            start: (n_node,) as in :meth:`solve`.
        """
        n_scenarios = len(power)
        voltage = np.tile(start, (n_scenarios, 1))
        iterations = np.zeros(n_scenarios, dtype=np.int64)
        converged = np.ones(n_scenarios, dtype=bool)
        if not len(self._free):
            return voltage, iterations, converged
        with self._blas, np.errstate(all="ignore"):
            w_free = self._w_free @ start[self._grid.reference_node]
            w = w_free[self._active_of_free]
            final_current = np.full((n_scenarios, len(self._active)), complex(np.nan, np.nan))
            converged[:] = False
            open_rows = np.arange(n_scenarios)
            s_conj = power[:, self._active].conj()
            v = np.tile(start[self._active], (n_scenarios, 1))
            hold = self._hold(start)
            for iteration in range(1, self._max_iterations + 1):
                current = s_conj / v.conj()
                update = current @ self._z_active.T
                update += w
                missing = 0.0 if hold is None else hold.correct(s_conj, v, current, update)
                largest = np.maximum(np.abs((update - v) * current).max(axis=1, initial=0.0), missing)
                done = largest < self._tolerance
                keep = ~done & np.isfinite(largest)
                if done.any():
                    final_current[open_rows[done]] = current[done]
                    converged[open_rows[done]] = True
                iterations[open_rows] = iteration
                v = update
                if not keep.all():
                    open_rows, s_conj, v = open_rows[keep], s_conj[keep], v[keep]
                    if not len(open_rows):
                        break
            voltage[:, self._free] = final_current @ self._z_free.T + w_free
        return voltage, iterations, converged
