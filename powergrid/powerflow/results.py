"""What a power flow returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "BatchPowerFlowResult", "Loadings", "PowerFlowResult"]

Array = NDArray[np.float64]


class Loadings(NamedTuple):
    """What of a solved operating point, or of each of (...) points, has limits.

    Attributes:
        side_by_side: (..., n_bus + n_line + n_trafo) voltages, pu, loadings of lines and of transformers, %,
            as in :class:`PowerFlowResult`.
        n_bus, n_line: How many of them are voltages, and loadings of lines.
    """

    side_by_side: Array
    n_bus: int
    n_line: int

    @classmethod
    def of(cls, vm_pu: Array, line_loading_percent: Array, trafo_loading_percent: Array) -> Self:
        """Return them of three arrays, (..., n_bus), (..., n_line) and (..., n_trafo)."""
        parts = (vm_pu, line_loading_percent, trafo_loading_percent)
        return cls(np.concatenate(parts, -1), vm_pu.shape[-1], line_loading_percent.shape[-1])

    def at(self, where: Any) -> Self:
        """Return those of some of the points."""
        return self._replace(side_by_side=self.side_by_side[where])

    @property
    def vm_pu(self) -> Array:
        """(..., n_bus) voltage magnitudes, pu; a view."""
        return self.side_by_side[..., : self.n_bus]

    @property
    def branch_loading_percent(self) -> Array:
        """(..., n_line + n_trafo) loadings of lines, then of transformers, %; a view."""
        return self.side_by_side[..., self.n_bus :]

    @property
    def line_loading_percent(self) -> Array:
        """(..., n_line) %; a view."""
        return self.side_by_side[..., self.n_bus : self.n_bus + self.n_line]

    @property
    def trafo_loading_percent(self) -> Array:
        """(..., n_trafo) %; a view."""
        return self.side_by_side[..., self.n_bus + self.n_line :]


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
