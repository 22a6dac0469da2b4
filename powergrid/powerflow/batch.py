"""Many operating points in blocks small enough for the processor's cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from powergrid.powerflow.arrays import ComplexArray
from powergrid.powerflow.node_power import NodePower
from powergrid.powerflow.readout import Readout
from powergrid.powerflow.results import Array, BatchPowerFlowResult

__all__ = ["BatchSolver", "Blocks"]

_BLOCK = 128  # scenarios; measured on 15 to 294 buses: 128 to 256 are best


class BatchSolver(Protocol):
    """What :class:`Blocks` needs of a solver."""

    def solve_batch(
        self, power: ComplexArray, start: ComplexArray
    ) -> tuple[ComplexArray, NDArray[np.int64], NDArray[np.bool_]]:
        """Return voltages (n_scenarios, n_node), iterations and converged (n_scenarios,)."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The parts of a compiled power flow, put to work on block after block of scenarios."""

    node_power: NodePower
    solver: BatchSolver
    readout: Readout

    def solve(self, p_mw: Array, q_mvar: Array, start: ComplexArray) -> BatchPowerFlowResult:
        """Solve (n_scenarios, n_settable) powers, MW and Mvar, from (n_node,) start voltages, pu."""
        blocks = []
        for begin in range(0, max(len(p_mw), 1), _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            power = self.node_power.batch(p_mw[rows], q_mvar[rows])
            voltage, iterations, converged = self.solver.solve_batch(power, start)
            # A solver does not look at the power of a reference node.
            converged &= np.isfinite(power).all(axis=1)
            values = self.readout.batch(voltage, power)
            for array in values:
                array[~converged] = np.nan
            blocks.append((*values, iterations, converged))
        return BatchPowerFlowResult(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
