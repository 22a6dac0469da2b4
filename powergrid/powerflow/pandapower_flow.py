"""The same interface on ``pandapower.runpp``: the reference, and the fallback for what is not compiled."""

from __future__ import annotations

import copy
from typing import Any

import pandapower as pp

from heron_mqtt.errors import PowerFlowDiverged, PowerFlowError
from powergrid.powerflow.adapter import iterations_of, read_tap_positions, run_scaled
from powergrid.powerflow.injections import TABLES, FlatInjections, index_of, read_injections
from powergrid.powerflow.results import Loadings, PowerFlowResult
from powergrid.powerflow.setpoints import check_limits, checked_slack, checked_taps
from powergrid.powerflow.unsupported import refuse_zero_impedance

__all__ = ["PandapowerFlow"]

_BRANCH_TABLES = ("line", "trafo", "trafo3w", "impedance", "dcline")


class PandapowerFlow:
    """A power flow that calls ``pandapower.runpp`` for every solve (tens of milliseconds).

    Args:
        net: A pandapower network; copied, never written to.
        tolerance_mva: Largest power mismatch of a node, MVA.
        max_iterations: Newton steps before giving up; None for pandapower's own choice.

    Raises:
        ValueError: A tolerance or a number of iterations that is not positive.
        PowerFlowError: A line without impedance.
    """

    def __init__(self, net: Any, *, tolerance_mva: float = 1e-8, max_iterations: int | None = None) -> None:
        check_limits(tolerance_mva, max_iterations)
        refuse_zero_impedance(net)
        self._net = copy.deepcopy(net)
        self._taps = read_tap_positions(self._net.trafo)
        self._options: dict[str, Any] = {
            "tolerance_mva": tolerance_mva,
            "max_iteration": "auto" if max_iterations is None else max_iterations,
            "numba": False,
            "lightsim2grid": False,
        }
        self._injections = given = FlatInjections(read_injections(self._net))
        self.set_points, self.injection_columns = given.set_points, given.set_point_columns
        self.load, self.sgen = self._injections.load, self._injections.sgen
        self.storage, self.gen = self._injections.storage, self._injections.gen
        self.bus_index, self.line_index = index_of(self._net.bus), index_of(self._net.line)
        self.trafo_index, self.ext_grid_index = index_of(self._net.trafo), index_of(self._net.ext_grid)

    def set_slack(self, vm_pu: Any, va_degree: Any = None) -> None:
        """See :meth:`powergrid.powerflow.PowerFlow.set_slack`."""
        table = self._net.ext_grid
        table["vm_pu"], table["va_degree"] = checked_slack(
            vm_pu, table["va_degree"].to_numpy(float) if va_degree is None else va_degree, len(table)
        )

    def set_taps(self, tap_pos: Any) -> None:
        """See :meth:`powergrid.powerflow.PowerFlow.set_taps`."""
        self._net.trafo["tap_pos"] = checked_taps(self._taps, tap_pos)

    def solve(self) -> PowerFlowResult:
        """See :meth:`powergrid.powerflow.PowerFlow.solve`."""
        net = self._net
        if not_finite := self._injections.first_not_finite():
            raise PowerFlowDiverged(not_finite)
        self._write_injections()
        try:
            run_scaled(net, **self._options)
        except pp.LoadflowNotConverged as error:
            raise PowerFlowDiverged(str(error)) from error
        except (UserWarning, ValueError, FloatingPointError) as error:
            raise PowerFlowError(f"pandapower cannot solve this network: {error}") from error
        return PowerFlowResult(
            vm_pu=_column(net.res_bus, "vm_pu"),
            va_degree=_column(net.res_bus, "va_degree"),
            line_loading_percent=_column(net.res_line, "loading_percent"),
            trafo_loading_percent=_column(net.res_trafo, "loading_percent"),
            ext_grid_p_mw=_column(net.res_ext_grid, "p_mw"),
            ext_grid_q_mvar=_column(net.res_ext_grid, "q_mvar"),
            losses_mw=self._losses_mw(),
            iterations=iterations_of(net),
        )

    def solve_loadings(self) -> Loadings:
        """See :meth:`powergrid.powerflow.PowerFlow.solve_loadings`."""
        result = self.solve()
        return Loadings.of(result.vm_pu, result.line_loading_percent, result.trafo_loading_percent)

    def _write_injections(self) -> None:
        net = self._net
        for name in TABLES:
            values, table = getattr(self, name), net[name]
            table["p_mw"], table["q_mvar"] = values.p_mw, values.q_mvar
            table["scaling"], table["in_service"] = values.scaling, values.in_service
        gen = self.gen
        net.gen["p_mw"], net.gen["vm_pu"] = gen.p_mw, gen.vm_pu
        net.gen["scaling"], net.gen["in_service"] = gen.scaling, gen.in_service

    def _losses_mw(self) -> float:
        losses = sum(float(self._net[f"res_{name}"]["pl_mw"].sum()) for name in _BRANCH_TABLES)
        switch = self._net.res_switch
        if "p_from_mw" in switch:
            losses += float(switch["p_from_mw"].sum() + switch["p_to_mw"].sum())
        return losses


def _column(table: Any, name: str) -> Any:
    return table[name].to_numpy(float, copy=True)
