"""The results of each step as others see them."""

from __future__ import annotations

from typing import Any

import numpy as np

from powergrid.powerflow import Loadings
from powergrid.simulation.time_series import Array

VM_DIGITS, LOADING_DIGITS = 5, 2  # of what people look at: a hundredth of a volt at 1 kV


def results_fields(result: Loadings | str) -> dict[str, Any]:
    """Return the fields of ``GridResults`` for a step, or why there are none; they are known to be right."""
    if isinstance(result, str):
        return {"type": "grid_results", "diverged": result[:500]}
    return {
        "type": "grid_results",
        "vm_pu": _numbers(result.vm_pu, VM_DIGITS),
        "line_loading_percent": _numbers(result.line_loading_percent, LOADING_DIGITS),
        "trafo_loading_percent": _numbers(result.trafo_loading_percent, LOADING_DIGITS),
    }


def _numbers(values: Array, digits: int) -> list[float | None]:
    rounded: list[float | None] = np.round(values, digits).tolist()
    if np.isnan(values).any():
        return [None if value != value else value for value in rounded]  # noqa: PLR0124 - not a number
    return rounded
