"""The compiled power flow: set-points in, one fast solve, results out."""

from __future__ import annotations

import cmath
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow.admittance import AdmittanceMatrix
from powergrid.powerflow.arrays import ComplexArray
from powergrid.powerflow.batch import Blocks
from powergrid.powerflow.fixed_point import FixedPointSolver
from powergrid.powerflow.injections import FlatInjections
from powergrid.powerflow.network import CompiledNetwork
from powergrid.powerflow.newton import NewtonSolver
from powergrid.powerflow.node_power import NodePower
from powergrid.powerflow.readout import Readout
from powergrid.powerflow.results import BatchPowerFlowResult, Loadings, PowerFlowResult
from powergrid.powerflow.setpoints import check_limits, checked_slack
from powergrid.powerflow.start import StartVoltages
from powergrid.powerflow.taps import TapTable

__all__ = ["CompiledPowerFlow"]


class CompiledPowerFlow:
    """A pandapower network compiled into arrays; see :class:`powergrid.powerflow.PowerFlow`.

    Compiling uses what pandapower builds in one ``runpp`` (admittances, the row of each bus). After that a
    solve needs no pandapower, and the compiled network may be used again. Every solve starts from the same
    voltages: the no-load profile, or the solution of the network as given where generators hold voltages. Its
    result therefore depends on the present set-points alone, bit for bit, and not on earlier solves or
    failures.

    Args:
        net: A pandapower network, or what it was compiled into; copied, never written to. A change of
            topology (switches, lines and transformers in or out of service) needs a new object.
        solver: "newton" (any network) or "fixed_point" (distribution networks; fast in batches).
        tolerance_mva: Largest power mismatch of a node, MVA, > 0.
        max_iterations: None for 20 Newton or 100 fixed-point iterations.

    Attributes:
        n_injections: Columns of a batch: the rows of load, sgen and storage.
        injection_columns: Table name -> slice of these columns.

    Raises:
        UnsupportedElement: The network holds what cannot be represented exactly; names it.
        PowerFlowError: pandapower cannot build a model of the network.
        ValueError: Another solver, or a tolerance or number of iterations that is not positive.
    """

    def __init__(
        self,
        net: Any,
        *,
        solver: Literal["newton", "fixed_point"] = "newton",
        tolerance_mva: float = 1e-8,
        max_iterations: int | None = None,
    ) -> None:
        if solver not in {"newton", "fixed_point"}:
            raise ValueError(f'solver: expected "newton" or "fixed_point", got {solver!r}')
        check_limits(tolerance_mva, max_iterations)
        self._network = network = _compiled(net, tolerance_mva)
        self._injections = given = FlatInjections(network.injections)
        self.load, self.sgen, self.storage, self.gen = given.load, given.sgen, given.storage, given.gen
        self._grid = grid = network.grid
        self.bus_index, self.line_index = grid.bus_index, network.line_index
        self.trafo_index, self.ext_grid_index = network.trafo_index, network.ext_grid_index
        self.n_injections = given.n_settable
        self.set_points, self.injection_columns = given.set_points, given.set_point_columns

        self._admittance = AdmittanceMatrix(grid)
        self._node_power = NodePower(grid, given)
        self._ones = np.ones(grid.n_node, dtype=complex)
        self._solver: NewtonSolver | FixedPointSolver
        if solver == "newton":
            self._solver = NewtonSolver(grid, tolerance_mva, max_iterations or 20)
        else:
            self._solver = FixedPointSolver(grid, tolerance_mva, max_iterations or 100)
        self._readout = Readout(grid, self._admittance)
        self._taps: TapTable | None = None
        self._set_branches(grid.branch_admittance)
        self._start = StartVoltages(grid, self._admittance.matrix)
        self._slack_va_degree = grid.ext_grid_va_degree
        self.set_slack(grid.ext_grid_vm_pu)

    def set_slack(self, vm_pu: ArrayLike, va_degree: ArrayLike | None = None) -> None:
        """See :meth:`powergrid.powerflow.PowerFlow.set_slack`."""
        if va_degree is None:
            va_degree = self._slack_va_degree
        vm, va = checked_slack(vm_pu, va_degree, len(self._grid.ext_grid_vm_pu))
        angle = np.deg2rad(va)
        self._start.set_slack(vm * np.cos(angle) + 1j * (vm * np.sin(angle)))
        self._slack_va_degree = va
        self._generators_seen: tuple[bytes, bytes] | None = None

    def set_taps(self, tap_pos: ArrayLike) -> None:
        """See :meth:`powergrid.powerflow.PowerFlow.set_taps`.

        The first call computes the admittances of every position (1-3 ms each).
        """
        if self._taps is None:
            self._taps = self._network.read_taps()
        self._set_branches(self._taps.branch_admittance(self._grid, tap_pos))

    def solve(self) -> PowerFlowResult:
        """See :meth:`powergrid.powerflow.PowerFlow.solve`."""
        voltage, power, iterations = self._solved()
        return self._readout.one(voltage, power, iterations)

    def solve_loadings(self) -> Loadings:
        """See :meth:`powergrid.powerflow.PowerFlow.solve_loadings`."""
        return self._readout.loadings(self._solved()[0])

    def _solved(self) -> tuple[ComplexArray, ComplexArray, int]:
        """Return node voltages, the power injected at the nodes, and iterations."""
        self._hold_generator_voltages()
        power = self._node_power.one()
        if not cmath.isfinite(power.dot(self._ones)) and (reason := self._injections.first_not_finite()):
            raise PowerFlowDiverged(reason)
        voltage, iterations = self._solver.solve(power, self._start.voltage)
        return voltage, power, iterations

    def solve_batch(self, p_mw: ArrayLike, q_mvar: ArrayLike) -> BatchPowerFlowResult:
        """Solve many operating points at once.

        Scaling, in_service, generators, slack and taps are the present ones for all scenarios; the
        present p_mw and q_mvar of load, sgen and storage are neither read nor changed. A scenario that
        does not converge has NaN in its rows and does not disturb the others.

        Args:
            p_mw: (n_scenarios, n_injections) MW: load, sgen, storage side by side (``injection_columns``),
                each in pandapower's own sign of its table, before scaling.
            q_mvar: (n_scenarios, n_injections) Mvar, likewise.

        Raises:
            ValueError: Wrong shapes.
            PowerFlowError: The generators' set-points contradict each other.
        """
        p, q = self._node_power.checked_batch(p_mw, q_mvar)
        self._hold_generator_voltages()
        blocks = Blocks(self._node_power, self._solver, self._readout)
        return blocks.solve(p, q, self._start.voltage)

    def _set_branches(self, branch_admittance: ComplexArray) -> None:
        self._solver.set_matrix(self._admittance.assemble(branch_admittance))
        self._readout.set_branches(branch_admittance)

    def _hold_generator_voltages(self) -> None:
        """Tell start voltages and solver about the generators, if these or the slack have changed."""
        gen = self.gen
        seen = (gen.vm_pu.tobytes(), gen.in_service.tobytes())
        if seen == self._generators_seen:
            return
        self._solver.set_controlled_nodes(self._start.hold(gen))
        self._generators_seen = seen


def _compiled(net: Any, tolerance_mva: float) -> CompiledNetwork:
    if isinstance(net, CompiledNetwork):
        return net
    from powergrid.powerflow.adapter import compile_network  # pandapower takes a second to import

    return compile_network(net, tolerance_mva)
