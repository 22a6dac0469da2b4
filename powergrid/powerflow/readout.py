"""From node voltages to the results of the tables."""

from __future__ import annotations

import numpy as np

from heron_mqtt.named_tuples import make_tuple
from powergrid.powerflow.admittance import AdmittanceMatrix
from powergrid.powerflow.arrays import ComplexArray, GridArrays
from powergrid.powerflow.results import Array, Loadings, PowerFlowResult

__all__ = ["BatchRows", "Readout"]

_DEGREES = 180.0 / np.pi
BatchRows = tuple[Array, Array, Array, Array, Array, Array, Array]


class Readout:
    """Turn solved voltages into results, with few and whole-array operations.

    Args:
        grid: The compiled network.
        admittance: Its admittance matrix.
    """

    def __init__(self, grid: GridArrays, admittance: AdmittanceMatrix) -> None:
        self._grid, self._admittance = grid, admittance
        self._ends = np.concatenate([grid.branch_from, grid.branch_to])
        self._n_branch = len(grid.branch_from)
        # What a branch out of the model reports, beyond the loadings of those in it (see GridArrays).
        self._not_in_model = np.array([0.0, np.nan, np.inf])
        # Magnitudes of the nodes, NaN of what has no supply, loadings of the branches, and of those that are
        # not in the model; all that has limits is taken from there at once.
        n_slot = grid.n_node + 1
        self._read = np.concatenate([np.full(n_slot + self._n_branch, np.nan), self._not_in_model])
        self._vm_of_nodes = self._read[: grid.n_node]
        self._loading_of_branches = self._read[n_slot:][: self._n_branch]
        of_branches = [n_slot + grid.line_slot, n_slot + grid.trafo_slot]
        self._limited = np.concatenate([grid.node_of_bus, *of_branches])
        self._n_bus, self._n_line = len(grid.node_of_bus), len(grid.line_slot)
        self._voltage = np.full(grid.n_node + 1, complex(np.nan, np.nan))
        # Entries of the reference nodes' rows of the matrix, for the power they draw.
        entries = [np.flatnonzero(admittance.matrix.indices == node) for node in grid.reference_node]
        self._row_entries = np.concatenate(entries)
        self._row_columns = admittance.column_of_entry[self._row_entries]
        self._row_starts = np.cumsum([0] + [len(row) for row in entries[:-1]])

    def set_branches(self, branch_admittance: ComplexArray) -> None:
        """Use these (4, n_branch) yff, yft, ytf, ytt; the matrix must have been assembled from them."""
        yff, yft, ytf, ytt = branch_admittance
        self._own, self._other = np.stack([yff, ytt]), np.stack([yft, ytf])
        self._row_values = self._admittance.matrix.data[self._row_entries]

    def loadings(self, voltage: ComplexArray) -> Loadings:
        """Return voltage magnitudes and loadings for (n_node,) solved voltages, pu."""
        return self._loadings(voltage, self._currents(voltage)[1])

    def one(self, voltage: ComplexArray, power: ComplexArray, iterations: int) -> PowerFlowResult:
        """Return the results of one operating point.

        Args:
            voltage: (n_node,) solved voltages, pu.
            power: (n_node,) complex power injected by everything but the ext_grids, pu.
            iterations: As the solver counted.
        """
        grid = self._grid
        at_bus = self._at_bus(voltage)
        va_degree = np.arctan2(at_bus.imag, at_bus.real)
        va_degree *= _DEGREES
        at_end, current = self._currents(voltage)
        limited = self._loadings(voltage, current)

        drawn = np.add.reduceat(self._row_values * voltage.take(self._row_columns), self._row_starts)
        supplied = voltage.take(grid.reference_node) * drawn.conj()
        supplied -= power.take(grid.reference_node)
        supplied *= grid.base_mva
        supplied = supplied.take(grid.ext_grid_reference)
        return PowerFlowResult(
            vm_pu=limited.vm_pu,
            va_degree=va_degree,
            line_loading_percent=limited.line_loading_percent,
            trafo_loading_percent=limited.trafo_loading_percent,
            ext_grid_p_mw=supplied.real * grid.ext_grid_share,
            ext_grid_q_mvar=supplied.imag * grid.ext_grid_share,
            losses_mw=float(np.vdot(current, at_end).real) * grid.base_mva,
            iterations=iterations,
        )

    def _at_bus(self, voltage: ComplexArray) -> ComplexArray:
        """Return (n_bus,) voltages, NaN without supply."""
        self._voltage[:-1] = voltage
        return self._voltage.take(self._grid.node_of_bus)

    def _currents(self, voltage: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Return (2, n_branch) voltages at the ends of the branches and currents into them."""
        at_end = voltage.take(self._ends).reshape(2, -1)
        current = self._own * at_end
        current += self._other * at_end[::-1]
        return at_end, current

    def _loadings(self, voltage: ComplexArray, current: ComplexArray) -> Loadings:
        loading = np.abs(current)
        loading *= self._grid.loading_factor
        np.abs(voltage, out=self._vm_of_nodes)
        np.maximum(loading[0], loading[1], out=self._loading_of_branches)
        return make_tuple(Loadings, (self._read.take(self._limited), self._n_bus, self._n_line))

    def batch(self, voltage: ComplexArray, power: ComplexArray) -> BatchRows:
        """Return vm_pu, va_degree, line and trafo loading_percent, ext_grid p_mw and q_mvar, losses_mw.

        Args:
            voltage: (n_scenarios, n_node), as in :meth:`one`.
            power: (n_scenarios, n_node), as in :meth:`one`.
        """
        grid, n_scenarios = self._grid, len(voltage)
        extended = np.empty((n_scenarios, grid.n_node + 1), dtype=complex)
        extended[:, :-1], extended[:, -1] = voltage, complex(np.nan, np.nan)
        at_bus = extended.take(grid.node_of_bus, axis=1)

        at_end = voltage.take(self._ends, axis=1).reshape(n_scenarios, 2, self._n_branch)
        current = self._own * at_end
        current += self._other * at_end[:, ::-1]
        both_ends = np.abs(current)
        both_ends *= grid.loading_factor
        loading = np.empty((n_scenarios, self._n_branch + len(self._not_in_model)))
        np.maximum(both_ends[:, 0], both_ends[:, 1], out=loading[:, : self._n_branch])
        loading[:, self._n_branch :] = self._not_in_model
        np.conjugate(current, out=current)
        current *= at_end
        losses = current.real.sum(axis=(1, 2))

        weighted = voltage.take(self._row_columns, axis=1)
        weighted *= self._row_values
        drawn = np.add.reduceat(weighted, self._row_starts, axis=1)
        supplied = voltage.take(grid.reference_node, axis=1) * drawn.conj()
        supplied -= power.take(grid.reference_node, axis=1)
        supplied *= grid.base_mva
        supplied = supplied.take(grid.ext_grid_reference, axis=1)
        return (
            np.abs(at_bus),
            np.angle(at_bus, deg=True),
            loading.take(grid.line_slot, axis=1),
            loading.take(grid.trafo_slot, axis=1),
            supplied.real * grid.ext_grid_share,
            supplied.imag * grid.ext_grid_share,
            losses * grid.base_mva,
        )
