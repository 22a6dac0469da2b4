"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading.

The last axis of every array counts microgrids; leading axes (...) count copies of the grid, if any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.protocols.p2p import SettledTrade
from powergrid.groups import Groups
from powergrid.scenario import RewardTable

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RewardTerms:
    """The step of every microgrid, each (..., n_agents) $; what costs is negative. ``total`` is the reward.

    Attributes:
        generation: Fuel, start and stop of its generators, <= 0.
        grid: Energy sold to the grid at the price, minus energy bought at price + import adder.
        trades: Energy sold to peers minus energy bought from them, at the trades' prices.
        voltage: Weighted voltage violation, <= 0.
        loading: Weighted overload, <= 0.
        soc: Weighted excursion of the state of charge from its preferred band, <= 0.
    """

    generation: Array
    grid: Array
    trades: Array
    voltage: Array
    loading: Array
    soc: Array

    @property
    def total(self) -> Array:
        """The reward, $."""
        return self.generation + self.grid + self.trades + self.voltage + self.loading + self.soc

    def forget(self, where: Any = ...) -> None:
        """Make every term NaN, in all copies or ``where``: the step has no power-flow solution."""
        for name in TERMS:
            getattr(self, name)[where] = np.nan


TERMS = tuple(term.name for term in fields(RewardTerms))


def grid_bill(net_mwh: Any, traded_mwh: Any, price: Any, import_adder: float) -> Any:
    """Return what the grid pays for the energy that was not traded, $; negative = the microgrid pays.

    Args:
        net_mwh: Net injection of a microgrid in the step, MWh, positive = injected.
        traded_mwh: Part of it that was sold to peers (negative = bought from peers), MWh.
        price: $/MWh.
        import_adder: Charge on energy drawn from the grid, $/MWh.

    Each but the last is a number or an array; the shapes must broadcast.
    """
    rest_mwh = net_mwh - traded_mwh
    return rest_mwh * (price + import_adder * (rest_mwh < 0.0))


def traded(agents: Sequence[str], trades: Sequence[SettledTrade]) -> tuple[Array, Array]:
    """Return settled trades as (n_agents, n_agents) MWh that row sold to column (negative = bought from it),
    and (n_agents,) $ earned minus paid.
    """
    mwh, usd = np.zeros((len(agents), len(agents))), np.zeros(len(agents))
    number = {agent: i for i, agent in enumerate(agents)}
    for trade in trades:
        seller, buyer = number[trade.seller], number[trade.buyer]
        mwh[seller, buyer], mwh[buyer, seller] = trade.mwh, -trade.mwh
        usd[seller] += trade.mwh * trade.price
        usd[buyer] -= trade.mwh * trade.price
    return mwh, usd


class Violations:
    """How far each microgrid is outside its limits, unweighted.

    Args:
        limits: Bands.
        buses: Positions of each microgrid's buses.
        branches: Positions of its lines and transformers.
        batteries: Positions of its storage devices.
    """

    def __init__(self, limits: RewardTable, *, buses: Groups, branches: Groups, batteries: Groups) -> None:
        self._limits = limits
        self._buses, self._branches, self._batteries = buses, branches, batteries

    def sizes(self, vm_pu: Array, loading_percent: Array, soc: Array) -> tuple[Array, Array, Array]:
        """Return voltage, loading and state of charge violations, each (..., n_agents), >= 0.

        Args:
            vm_pu: (..., n) as ``buses.take`` gives them; NaN = out of service, counts as none.
            loading_percent: (..., n) as ``branches.take`` gives them; NaN likewise.
            soc: (..., n) as ``batteries.take`` gives them.

        Returns:
            Voltage (sum over buses, pu), loading (sum over branches, in units of 100 %), state of charge
            (sum over devices, fraction).
        """
        limits = self._limits
        off_band = _outside(vm_pu, limits.vm_min_pu, limits.vm_max_pu)
        overload = _outside(loading_percent, 0.0, limits.loading_max_percent)
        off_charge = _outside(soc, limits.soc_min, limits.soc_max)
        return (
            self._buses.reduce(np.add, off_band, 0.0),
            self._branches.reduce(np.add, overload, 0.0) / 100.0,
            self._batteries.reduce(np.add, off_charge, 0.0),
        )


def _outside(values: Array, low: float, high: float) -> Array:
    """Return how far each value lies outside [low, high], >= 0; NaN counts as inside."""
    return np.fmax(np.fmax(low - values, values - high), 0.0)
