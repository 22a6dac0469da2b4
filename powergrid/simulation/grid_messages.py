"""The results of each step as others see them."""

from __future__ import annotations

import math

import numpy as np

from heron_mqtt.messages import GridResults
from powergrid.powerflow import Loadings
from powergrid.simulation.time_series import Array

VM_DIGITS, LOADING_DIGITS = 5, 2  # of what people look at: a hundredth of a volt at 1 kV


def results_message(result: Loadings | str) -> GridResults:
    """Return the results of a step, or why there are none."""
    if isinstance(result, str):
        return GridResults(diverged=result[:500])
    return GridResults(
        vm_pu=_numbers(result.vm_pu, VM_DIGITS),
        line_loading_percent=_numbers(result.line_loading_percent, LOADING_DIGITS),
        trafo_loading_percent=_numbers(result.trafo_loading_percent, LOADING_DIGITS),
    )


def _numbers(values: Array, digits: int) -> list[float | None]:
    return [None if math.isnan(value) else value for value in np.round(values, digits).tolist()]
