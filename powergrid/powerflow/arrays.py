"""A network as plain arrays: everything the solvers and the read-out need, and nothing of pandapower.

A *node* is a bus of the mathematical model: buses joined by closed switches share one, and a line open
at one end brings one of its own. Buses without supply have none; they are given the number
``n_node``, one past the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from powergrid.powerflow.results import Array

__all__ = ["ComplexArray", "GridArrays", "IntArray"]

ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class GridArrays:
    """The compiled network; per unit on ``base_mva``.

    Attributes:
        base_mva: Base power, MVA.
        n_node: Number of nodes.
        node_of_bus: (n_bus,) node of each bus, ``n_node`` without supply.
        bus_index: (n_bus,) pandapower index values.
        injection_node: (m,) node of each column of the flat injections.
        gen_node: (n_gen,) node of each generator.
        reference_node: (n_ref,) nodes whose voltage an ext_grid fixes.
        base_voltage: (n_node,) voltages of the network as given, or without powers if that has no solution;
            None if pandapower found neither.
        branch_from, branch_to: (n_branch,) nodes of the branches in service.
        branch_admittance: (4, n_branch) yff, yft, ytf, ytt.
        shunt_admittance: (n_node,).
        loading_factor: (2, n_branch) current per unit at (from, to) -> loading, %.
        line_slot, trafo_slot: where each row of the table finds its loading in the vector
            (n_branch loadings, 0, NaN, inf).
        trafo_branch: (n_trafo,) branch of each transformer, -1 if it is not in the model.
        ext_grid_reference: (n_ext_grid,) position in ``reference_node``, 0 for those not in the model.
        ext_grid_share: (n_ext_grid,) part of the reference node's power, 0 for those not in the model.
        ext_grid_vm_pu, ext_grid_va_degree: (n_ext_grid,) set-points as given.
    """

    base_mva: float
    n_node: int
    node_of_bus: IntArray
    bus_index: NDArray[np.int64]
    injection_node: IntArray
    gen_node: IntArray
    reference_node: IntArray
    base_voltage: ComplexArray | None
    branch_from: IntArray
    branch_to: IntArray
    branch_admittance: ComplexArray
    shunt_admittance: ComplexArray
    loading_factor: Array
    line_slot: IntArray
    trafo_slot: IntArray
    trafo_branch: IntArray
    ext_grid_reference: IntArray
    ext_grid_share: Array
    ext_grid_vm_pu: Array
    ext_grid_va_degree: Array

    def not_converged(self, iterations: int, mismatch: Array) -> str:
        """Say why a solver gave up.

        Args:
            iterations: How many it made.
            mismatch: (n_node,) power mismatch that was left, pu.
        """
        worst = int(np.argmax(mismatch))  # NaN counts as the largest
        if not np.isfinite(mismatch[worst]):
            return f"the voltages became infinite within {iterations} iterations"
        return (
            f"no convergence after {iterations} iterations; the largest power mismatch is "
            f"{mismatch[worst] * self.base_mva:.3g} MVA at {self.bus_name(worst)}"
        )

    def bus_name(self, node: int) -> str:
        """Name the buses at a node for an error message (``"bus 12"``)."""
        at_node = self.bus_index[self.node_of_bus == node]
        return f"bus {at_node[0]}" if len(at_node) else "the open end of a branch"
