"""Voltages, loadings and states of charge beside their limits, all microgrids in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.named_tuples import make_tuple
from powergrid.rewards.group_reduce import GroupedReducer
from powergrid.scenario import RewardTable

__all__ = ["LimitReadings", "LimitViolations"]

Array = NDArray[np.float64]
Positions = NDArray[np.intp]

_UNIT = np.array([1.0, 100.0, 1.0])  # an overload counts in units of 100 %
_ZERO = np.array(0.0)  # numpy takes an array of its own in half the time of a number


class LimitReadings(NamedTuple):
    """What has limits, each (..., 3 * n_agents): voltages (pu), loadings (%), then states of charge.

    Attributes:
        lowest, highest: Extremes within each microgrid; where there is nothing NaN, and 0 % as the highest
            loading.
        outside: Sum of what lies outside the limits, >= 0: pu, units of 100 %, fraction.
    """

    lowest: Array
    highest: Array
    outside: Array


class LimitViolations:
    """Reads results and states of charge against their limits.

    Args:
        limits: Bands.
        buses: For each microgrid the positions of its buses.
        branches: Positions of its lines and, behind all lines, transformers.
        batteries: Positions of its storage devices.
        live: (n_bus + n_branch,) bool, False for what has no supply: it is left out.
        n_bus: How many of these are buses.
        places: (n_bus + n_branch + n_batteries,) where each stands in the vectors to come; None = in this
            order.
    """

    def __init__(
        self,
        limits: RewardTable,
        *,
        buses: list[Positions],
        branches: list[Positions],
        batteries: list[Positions],
        live: NDArray[np.bool_],
        n_bus: int,
        places: Positions | None = None,
    ) -> None:
        # One vector (voltages, loadings, states of charge) and one group for each quantity and microgrid.
        supplied = [group[live[group]] for group in (*buses, *(n_bus + group for group in branches))]
        groups = [*supplied, *(len(live) + group for group in batteries)]
        self._reducer = GroupedReducer(
            groups if places is None else [places[np.asarray(group, dtype=np.intp)] for group in groups]
        )
        n = len(buses)
        sizes = [sum(len(group) for group in groups[i : i + n]) for i in (0, n, 2 * n)]
        self._low = np.repeat([limits.vm_min_pu, 0.0, limits.soc_min], sizes)
        self._high = np.repeat([limits.vm_max_pu, limits.loading_max_percent, limits.soc_max], sizes)
        self._unit = np.repeat(_UNIT, n)  # of the sums' shape: half the time
        self._highest_of_nothing = np.repeat([np.nan, 0.0, np.nan], n)

    def read(self, quantities: Array) -> LimitReadings:
        """Return extremes and violations.

        Args:
            quantities: (..., n) vectors in which stand voltages, pu; loadings of lines and transformers, %;
                states of charge. NaN stays NaN, except where there is no supply.
        """
        values, reduce = self._reducer.take(quantities), self._reducer.reduce
        outside = self._low - values
        np.maximum(outside, values - self._high, out=outside)
        np.maximum(outside, _ZERO, out=outside)
        sums = reduce(np.add, outside, 0.0)
        sums /= self._unit
        lowest = reduce(np.minimum, values, np.nan)
        highest = reduce(np.maximum, values, self._highest_of_nothing)
        return make_tuple(LimitReadings, (lowest, highest, sums))
