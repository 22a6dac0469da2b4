"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.protocols.p2p import SettledTrade
from powergrid.scenario import RewardTable

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RewardTerms:
    """One microgrid's step, $; what costs is negative. ``total`` is the reward.

    Attributes:
        generation: Fuel, start and stop of its generators, <= 0.
        grid: Energy sold to the grid at the price, minus energy bought at price + import adder.
        trades: Energy sold to peers minus energy bought from them, at the trades' prices.
        voltage: Weighted voltage violation, <= 0.
        loading: Weighted overload, <= 0.
        soc: Weighted excursion of the state of charge from its preferred band, <= 0.
    """

    generation: float
    grid: float
    trades: float
    voltage: float
    loading: float
    soc: float

    @property
    def total(self) -> float:
        """The reward, $."""
        return self.generation + self.grid + self.trades + self.voltage + self.loading + self.soc

    def as_dict(self) -> dict[str, float]:
        """Return the terms by name."""
        return {name: getattr(self, name) for name in TERMS}

    @classmethod
    def unknown(cls) -> RewardTerms:
        """Return the terms of a step without a power-flow solution: NaN, every one."""
        return cls(*(float("nan") for _ in TERMS))


TERMS = tuple(term.name for term in fields(RewardTerms))


def grid_bill(net_mwh: float, traded_mwh: float, price: float, import_adder: float) -> float:
    """Return what the grid pays for the energy that was not traded, $; negative = the microgrid pays.

    Args:
        net_mwh: Net injection of the microgrid in the step, MWh, positive = injected.
        traded_mwh: Part of it that was sold to peers (negative = bought from peers), MWh.
        price: $/MWh.
        import_adder: Charge on energy drawn from the grid, $/MWh.
    """
    rest_mwh = net_mwh - traded_mwh
    return rest_mwh * (price if rest_mwh >= 0.0 else price + import_adder)


def trade_sums(agent: str, trades: Sequence[SettledTrade]) -> tuple[float, float]:
    """Return (MWh sold minus bought, $ earned minus paid) of one agent's settled trades."""
    mwh = usd = 0.0
    for trade in trades:
        if trade.seller == agent:
            mwh += trade.mwh
            usd += trade.mwh * trade.price
        elif trade.buyer == agent:
            mwh -= trade.mwh
            usd -= trade.mwh * trade.price
    return mwh, usd


def violations(
    vm_pu: Array, loading_percent: Array, soc: Mapping[str, float], limits: RewardTable
) -> tuple[float, float, float]:
    """Return the sizes of the violations, unweighted, each >= 0.

    Args:
        vm_pu: (n_bus,) voltages of the microgrid; NaN = out of service, counts as none.
        loading_percent: (n_line + n_trafo,) of the microgrid; NaN likewise.
        soc: By storage device.
        limits: Bands.

    Returns:
        Voltage (sum over buses, pu), loading (sum over branches, in units of 100 %), state of charge
        (sum over devices, fraction).
    """
    below = np.maximum(limits.vm_min_pu - vm_pu, 0.0)
    above = np.maximum(vm_pu - limits.vm_max_pu, 0.0)
    over = np.maximum(loading_percent - limits.loading_max_percent, 0.0)
    outside = sum(max(limits.soc_min - s, s - limits.soc_max, 0.0) for s in soc.values())
    return float(np.nansum(below) + np.nansum(above)), float(np.nansum(over)) / 100.0, outside
