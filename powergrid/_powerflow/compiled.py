"""The compiled power flow: set-points in, one fast solve, results out."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import splu

from heron_mqtt.errors import PowerFlowDiverged, PowerFlowError, UnsupportedElement
from powergrid._powerflow.adapter import read_grid
from powergrid._powerflow.admittance import AdmittanceMatrix
from powergrid._powerflow.arrays import ComplexArray, GridArrays
from powergrid._powerflow.fixed_point import FixedPointSolver
from powergrid._powerflow.injections import FlatInjections
from powergrid._powerflow.newton import NewtonSolver
from powergrid._powerflow.readout import Readout
from powergrid._powerflow.results import PowerFlowResult
from powergrid._powerflow.setpoints import checked_slack
from powergrid._powerflow.taps import TapTable
from powergrid._powerflow.unsupported import refuse_unsupported

__all__ = ["CompiledPowerFlow"]

_DEFAULT_MAX_ITERATIONS = {"newton": 20, "fixed_point": 100}


class CompiledPowerFlow:
    """A pandapower network compiled into arrays; see :class:`powergrid.powerflow.PowerFlow`.

    Compiling takes what pandapower builds in one ``runpp`` (admittances, which bus is which row); from
    then on a solve needs no pandapower. Every solve starts from the same voltages: the no-load profile,
    or the solution of the network as given where generators hold voltages. Its result therefore depends
    on the present set-points alone, bit for bit, and not on earlier solves or failures.

    Args:
        net: A pandapower network; copied, never written to. A change of topology (switches, lines and
            transformers in or out of service) needs a new object.
        solver: "newton" (any network) or "fixed_point" (no generators; fast in batches).
        tolerance_mva: Largest power mismatch of a node, MVA.
        max_iterations: None for 20 Newton or 100 fixed-point iterations.

    Raises:
        UnsupportedElement: The network holds what cannot be represented exactly; names it.
        PowerFlowError: pandapower cannot build a model of the network.
    """

    def __init__(
        self,
        net: Any,
        *,
        solver: Literal["newton", "fixed_point"] = "newton",
        tolerance_mva: float = 1e-8,
        max_iterations: int | None = None,
    ) -> None:
        refuse_unsupported(net)
        if solver == "fixed_point" and len(net.gen):
            raise UnsupportedElement(
                f'solver "fixed_point" does not support gen ({len(net.gen)}): it cannot hold voltages; '
                'use solver = "newton"'
            )
        net = copy.deepcopy(net)
        self._injections = FlatInjections(net)
        self.load, self.sgen = self._injections.load, self._injections.sgen
        self.storage, self.gen = self._injections.storage, self._injections.gen
        self._grid = grid = read_grid(net, self._injections, tolerance_mva)
        self.bus_index, self.line_index, self.trafo_index = grid.bus_index, grid.line_index, grid.trafo_index
        self._net, self._taps = net, None

        m = len(grid.injection_node)
        self._weight = self._injections.sign / grid.base_mva
        self._weighted = np.empty(m)
        self._injected = np.empty((2, m))
        self._node_of_part = np.concatenate([grid.injection_node, grid.injection_node + grid.n_node + 1])
        self._power = np.empty(grid.n_node, dtype=complex)

        self._admittance = AdmittanceMatrix(grid)
        limit = max_iterations or _DEFAULT_MAX_ITERATIONS[solver]
        kind = NewtonSolver if solver == "newton" else FixedPointSolver
        self._solver = kind(grid, tolerance_mva, limit)
        self._readout = Readout(grid, self._admittance)
        self._set_branches(grid.branch_admittance)
        self._generators_seen: tuple[bytes, bytes] | None = None
        self._start_per_slack = _start_per_slack(grid, self._admittance)
        self.set_slack(grid.ext_grid_vm_pu, grid.ext_grid_va_degree)

    def set_slack(self, vm_pu: ArrayLike, va_degree: ArrayLike | None = None) -> None:
        """See :meth:`powergrid.powerflow.PowerFlow.set_slack`."""
        grid = self._grid
        if va_degree is None:
            va_degree = self._slack_va_degree
        vm, va = checked_slack(vm_pu, va_degree, len(grid.ext_grid_vm_pu))
        self._slack_va_degree = va
        voltage = vm * np.exp(1j * np.deg2rad(va))
        reference = np.empty(len(grid.reference_node), dtype=complex)
        active = grid.ext_grid_q_share > 0.0
        reference[grid.ext_grid_reference[active]] = voltage[active]
        if not np.allclose(reference[grid.ext_grid_reference[active]], voltage[active]):
            raise PowerFlowError("ext_grids at the same bus ask for different voltages")
        self._unheld_start = self._start_per_slack @ reference
        self._unheld_start[grid.reference_node] = reference
        self._generators_seen = None

    def set_taps(self, tap_pos: ArrayLike) -> None:
        """See :meth:`powergrid.powerflow.PowerFlow.set_taps`."""
        if self._taps is None:
            self._taps = TapTable(self._net, self._grid)
        self._set_branches(self._taps.branch_admittance(tap_pos))

    def solve(self) -> PowerFlowResult:
        """See :meth:`powergrid.powerflow.PowerFlow.solve`."""
        self._hold_generator_voltages()
        power = self._injected_power()
        try:
            voltage, iterations = self._solver.solve(power, self._start)
        except PowerFlowDiverged as error:
            not_finite = self._injections.first_not_finite()
            if not_finite is None:
                raise
            raise PowerFlowDiverged(not_finite) from error
        return self._readout.result(voltage, power, iterations)

    def _set_branches(self, branch_admittance: ComplexArray) -> None:
        self._solver.set_matrix(self._admittance.assemble(branch_admittance))
        self._readout.set_branches(branch_admittance)

    def _injected_power(self) -> ComplexArray:
        """Complex power injected at each node, pu, without the reference nodes' own."""
        given, n = self._injections, self._grid.n_node
        np.multiply(self._weight, given.scaling, out=self._weighted)
        np.multiply(self._weighted, given.in_service, out=self._weighted)
        np.multiply(given.power, self._weighted, out=self._injected)
        total = np.bincount(self._node_of_part, self._injected.ravel(), 2 * (n + 1))
        self._power.real = total[:n]
        self._power.imag = total[n + 1 : -1]
        return self._power

    def _hold_generator_voltages(self) -> None:
        """Put the generators' magnitudes into the start voltages, if they or the slack have changed."""
        gen = self.gen
        seen = (gen.vm_pu.tobytes(), gen.in_service.tobytes())
        if seen == self._generators_seen:
            return
        active = gen.in_service & (self._grid.gen_node < self._grid.n_node)
        node, vm_pu = self._grid.gen_node[active], gen.vm_pu[active]
        self._start = self._unheld_start.copy()
        held = self._start[node]
        self._start[node] = held / np.abs(held) * vm_pu
        if not np.allclose(np.abs(self._start[node]), vm_pu):
            raise PowerFlowError("generators at the same bus ask for different voltages")
        if isinstance(self._solver, NewtonSolver):
            self._solver.set_controlled_nodes(np.unique(node))
        self._generators_seen = seen


def _start_per_slack(grid: GridArrays, admittance: AdmittanceMatrix) -> ComplexArray:
    """Return (n_node, n_ref): times the reference voltages it gives the voltages a solve starts from.

    These are the no-load profile, corrected, where generators hold voltages, to meet the solution of the
    network as given; a common rotation of the reference voltages rotates all of them.
    """
    reference = grid.reference_node
    free = np.setdiff1d(np.arange(grid.n_node), reference)
    response = np.zeros((grid.n_node, len(reference)), dtype=complex)
    response[reference, np.arange(len(reference))] = 1.0
    if len(free):
        rows = admittance.matrix[free]
        response[free] = splu(rows[:, free].tocsc()).solve(-rows[:, reference].toarray())
    if grid.base_voltage is not None and (grid.gen_node < grid.n_node).any():
        slack = grid.base_voltage[reference]
        missing = grid.base_voltage - response @ slack
        response += np.outer(missing, slack.conj()) / np.vdot(slack, slack).real
    return response
