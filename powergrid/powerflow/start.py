"""The voltages every solve starts from."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from heron_mqtt.errors import PowerFlowError
from powergrid.powerflow.arrays import ComplexArray, GridArrays, IntArray
from powergrid.powerflow.blas import SingleThreadedBlas
from powergrid.powerflow.injections import Generators

__all__ = ["StartVoltages"]

_DENSE_NODES = 256  # up to here a dense solve takes milliseconds, and scipy's sparse one 0.1 s to import
_SAME_PU = 1e-5  # set-points closer than this count as equal, as they do in pandapower


class StartVoltages:
    """Start voltages as a function of the slack and generator set-points, and of nothing else.

    They are the no-load profile of the network as given, corrected, where generators hold voltages, to
    meet ``grid.base_voltage``. Turning all slack angles together turns all of them.

    Args:
        grid: The compiled network.
        matrix: (n_node, n_node) its admittance matrix.

    Attributes:
        voltage: (n_node,) pu; holds the reference voltages and the generators' magnitudes exactly.
    """

    voltage: ComplexArray

    def __init__(self, grid: GridArrays, matrix: sp.csc_matrix) -> None:
        self._grid = grid
        reference = grid.reference_node
        is_free = np.ones(grid.n_node, dtype=bool)
        is_free[reference] = False
        free = np.flatnonzero(is_free)
        per_slack = np.zeros((grid.n_node, len(reference)), dtype=complex)
        per_slack[reference, np.arange(len(reference))] = 1.0
        if len(free):
            rows = matrix[free]
            with SingleThreadedBlas():
                per_slack[free] = _solved(rows[:, free], -rows[:, reference].toarray())
        if grid.base_voltage is not None and (grid.gen_node < grid.n_node).any():
            slack = grid.base_voltage[reference]
            missing = grid.base_voltage - per_slack @ slack
            per_slack += np.outer(missing, slack.conj()) / np.vdot(slack, slack).real
        self._per_slack = per_slack

    def set_slack(self, ext_grid_voltage: ComplexArray) -> None:
        """Set the (n_ext_grid,) voltages, pu; :meth:`hold` must follow.

        Raises:
            PowerFlowError: Two ext_grids at one bus ask for different voltages.
        """
        grid = self._grid
        active = grid.ext_grid_share > 0.0
        position, asked = grid.ext_grid_reference[active], ext_grid_voltage[active]
        slack = np.empty(len(grid.reference_node), dtype=complex)
        slack[position] = asked
        if np.abs(slack[position] - asked).max() > _SAME_PU:
            raise PowerFlowError("ext_grids at the same bus ask for different voltages")
        self._unheld = (self._per_slack * slack).sum(axis=1)

    def hold(self, gen: Generators) -> IntArray:
        """Put the generators' magnitudes in and return the nodes they control, each once.

        Raises:
            PowerFlowError: A magnitude that is not positive, or two different ones at one bus.
        """
        grid = self._grid
        active = gen.in_service & (grid.gen_node < grid.n_node)
        node, vm_pu = grid.gen_node[active], gen.vm_pu[active]
        wrong = np.flatnonzero(~(np.isfinite(vm_pu) & (vm_pu > 0.0)))
        if len(wrong):
            row = np.flatnonzero(active)[wrong[0]]
            raise PowerFlowError(f"gen {gen.index[row]}: expected vm_pu > 0, got {gen.vm_pu[row]}")
        voltage = self._unheld.copy()
        direction = voltage[node] / np.abs(voltage[node])
        voltage[node] = direction * vm_pu
        overruled = np.flatnonzero(np.abs(np.abs(voltage[node]) - vm_pu) > _SAME_PU)
        if len(overruled):
            here = node[overruled[0]]
            raise PowerFlowError(
                f"generators at {grid.bus_name(here)} ask for different voltages: "
                f"vm_pu = {vm_pu[node == here].tolist()}"
            )
        self.voltage = voltage
        return np.flatnonzero(np.bincount(node))  # each once, sorted: np.unique imports numpy.ma


def _solved(matrix: sp.csc_matrix, right: ComplexArray) -> ComplexArray:
    """Return x with ``matrix @ x = right``, (n, k)."""
    if matrix.shape[0] <= _DENSE_NODES:
        return np.asarray(np.linalg.solve(matrix.toarray(), right), dtype=complex)
    from scipy.sparse.linalg import splu

    return np.asarray(splu(matrix.tocsc()).solve(right))
