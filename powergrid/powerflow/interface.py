"""What a power flow offers, and the choice of one."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from powergrid.powerflow.compiled import CompiledPowerFlow
from powergrid.powerflow.injections import Generators, Injections
from powergrid.powerflow.results import Loadings, PowerFlowResult

_SOLVERS = ("newton", "fixed_point", "pandapower")


class PowerFlow(Protocol):
    """A network whose set-points are arrays.

    An object is for one thread: its set-points and work arrays are its own, but not guarded.

    Attributes:
        load, sgen, storage: Set-points of these tables; write into their arrays before a solve.
        gen: Set-points of the voltage-controlling generators.
        set_points: (2, n_injections) MW and Mvar of load, sgen and storage side by side, the same memory: to
            write all of them at once.
        injection_columns: Table name -> slice of these columns.
        bus_index, line_index, trafo_index, ext_grid_index: pandapower index values, in the order of the
            result arrays.
    """

    load: Injections
    sgen: Injections
    storage: Injections
    gen: Generators
    set_points: NDArray[np.float64]
    injection_columns: dict[str, slice]
    bus_index: NDArray[np.int64]
    line_index: NDArray[np.int64]
    trafo_index: NDArray[np.int64]
    ext_grid_index: NDArray[np.int64]

    def set_slack(self, vm_pu: ArrayLike, va_degree: ArrayLike | None = None) -> None:
        """Set the voltage of the external grids.

        Args:
            vm_pu: One number or (n_ext_grid,), pu, > 0.
            va_degree: The same in degrees; None leaves the angles as they are.

        Raises:
            ValueError: Wrong shape or not finite.
        """

    def set_taps(self, tap_pos: ArrayLike) -> None:
        """Set the tap positions of the transformers.

        Args:
            tap_pos: (n_trafo,) whole numbers; NaN stands for the position in the network as given.

        Raises:
            ValueError: Wrong shape, a position outside tap_min..tap_max, or a transformer without tap
                changer.
        """

    def solve(self) -> PowerFlowResult:
        """Solve for the present set-points.

        Raises:
            heron_mqtt.errors.PowerFlowDiverged: No solution was found; says why. The next solve is not
                affected.
            heron_mqtt.errors.PowerFlowError: The set-points contradict each other.
        """

    def solve_loadings(self) -> Loadings:
        """Solve as ``solve`` does, and work out only what has limits: voltages and loadings.

        Raises:
            heron_mqtt.errors.PowerFlowDiverged, heron_mqtt.errors.PowerFlowError: As ``solve``.
        """


def make_power_flow(
    net: Any,
    solver: Literal["newton", "fixed_point", "pandapower"] = "newton",
    *,
    tolerance_mva: float = 1e-8,
    max_iterations: int | None = None,
) -> PowerFlow:
    """Build the power flow of a network.

    Args:
        net: A pandapower network; copied, never written to. For any but the last solver also what
            ``CompiledPowerFlow`` takes.
        solver: "newton" for any network that the compiled power flow supports; "fixed_point" for distribution
            networks with few generators that hold voltages; "pandapower" for every network that pandapower
            can solve. The last one is a hundred times slower.
        tolerance_mva: Largest power mismatch of a node, MVA.
        max_iterations: None for the solver's own limit.

    Raises:
        heron_mqtt.errors.UnsupportedElement: The compiled power flow cannot represent this network exactly.
        heron_mqtt.errors.PowerFlowError: pandapower cannot build a model of the network.
        ValueError: Another solver, or a tolerance or number of iterations that is not positive.
    """
    if solver not in _SOLVERS:
        raise ValueError(f"solver: expected one of {', '.join(_SOLVERS)}, got {solver!r}")
    if solver == "pandapower":
        from powergrid.powerflow.pandapower_flow import PandapowerFlow  # it takes a second to import

        return PandapowerFlow(net, tolerance_mva=tolerance_mva, max_iterations=max_iterations)
    return CompiledPowerFlow(net, solver=solver, tolerance_mva=tolerance_mva, max_iterations=max_iterations)
