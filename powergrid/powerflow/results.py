"""What a power flow returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "BatchPowerFlowResult", "Loadings", "PowerFlowResult"]

Array = NDArray[np.float64]


class Loadings(NamedTuple):
    """What of a solved operating point has limits; arrays as in :class:`PowerFlowResult`."""

    vm_pu: Array
    line_loading_percent: Array
    trafo_loading_percent: Array


@dataclass(frozen=True, slots=True, eq=False)
class PowerFlowResult:
    """One solved operating point.

    All arrays are float64, in the row order of the network's tables, and belong to the caller.

    Attributes:
        vm_pu: (n_bus,) voltage magnitude, pu; NaN at a bus without supply.
        va_degree: (n_bus,) voltage angle, degrees in (-180, 180]; NaN at a bus without supply.
        line_loading_percent: (n_line,) current over thermal limit at the more loaded end, %; 0 out of
            service, NaN at a bus without supply.
        trafo_loading_percent: (n_trafo,) current over rated current on the more loaded side, %.
        ext_grid_p_mw: (n_ext_grid,) MW, positive = injected into the network; 0 out of service.
        ext_grid_q_mvar: (n_ext_grid,) Mvar, same sign.
        losses_mw: Active power lost in the branches (lines, transformers, impedances), MW, without
            shunts and wards.
        iterations: Iterations of the solver.
    """

    vm_pu: Array
    va_degree: Array
    line_loading_percent: Array
    trafo_loading_percent: Array
    ext_grid_p_mw: Array
    ext_grid_q_mvar: Array
    losses_mw: float
    iterations: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchPowerFlowResult:
    """Many operating points of one network: :class:`PowerFlowResult` with a leading scenario axis.

    Rows of a scenario that did not converge are NaN.

    Attributes:
        vm_pu: (n_scenarios, n_bus), and so on, as in :class:`PowerFlowResult`.
        losses_mw: (n_scenarios,) MW.
        iterations: (n_scenarios,) int.
        converged: (n_scenarios,) bool.
    """

    vm_pu: Array
    va_degree: Array
    line_loading_percent: Array
    trafo_loading_percent: Array
    ext_grid_p_mw: Array
    ext_grid_q_mvar: Array
    losses_mw: Array
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
