"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading.

The last axis of every array counts microgrids; leading axes (...) count copies of the grid, if any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.protocols.p2p import SettledTrade
from powergrid.scenario import Scenario

Array = NDArray[np.float64]

TERMS = ("generation", "grid", "trades", "voltage", "loading", "soc")
"""The terms of the reward, each in $; what costs is negative.

``generation``: fuel, start and stop of the generators. ``grid``: energy sold to the grid at the price, minus
energy bought at price + import adder. ``trades``: energy sold to peers minus energy bought from them, at the
trades' prices. ``voltage``, ``loading``, ``soc``: weighted violations.
"""


class Rewards:
    """Computes the terms.

    Args:
        scenario: Weights and import adder.
    """

    def __init__(self, scenario: Scenario) -> None:
        weights = scenario.reward
        self._weights = -np.array([[weights.voltage_weight], [weights.loading_weight], [weights.soc_weight]])
        self._import_adder = scenario.market.import_adder_per_mwh

    def terms(
        self, cost: Array, net_mwh: Array, traded_mwh: Array, traded_usd: Array, price: Any, outside: Array
    ) -> Array:
        """Return (..., n_terms, n_agents) $, rows as in ``TERMS``; their sum is the reward.

        Args:
            cost: (..., n_agents) generation cost, $.
            net_mwh: (..., n_agents) net injection, MWh.
            traded_mwh: (..., n_agents) part of it that was sold to peers, MWh.
            traded_usd: (..., n_agents) earned minus paid in trades, $.
            price: (..., 1) $/MWh.
            outside: (..., 3, n_agents) as in ``powergrid.rewards.violations.LimitReadings``.
        """
        terms = np.empty((*cost.shape[:-1], len(TERMS), cost.shape[-1]))
        np.negative(cost, out=terms[..., 0, :])
        terms[..., 1, :] = grid_bill(net_mwh, traded_mwh, price, self._import_adder)
        terms[..., 2, :] = traded_usd
        np.multiply(self._weights, outside, out=terms[..., 3:, :])
        return terms


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
    """Return what settled trades come to.

    Returns:
        (n_agents, n_agents) MWh that the row's agent sold to the column's, negative = bought from it; and
        (n_agents,) $ earned minus paid.
    """
    mwh, usd = np.zeros((len(agents), len(agents))), np.zeros(len(agents))
    for trade in trades:
        seller, buyer = agents.index(trade.seller), agents.index(trade.buyer)
        mwh[seller, buyer], mwh[buyer, seller] = trade.mwh, -trade.mwh
        usd[seller] += trade.mwh * trade.price
        usd[buyer] -= trade.mwh * trade.price
    return mwh, usd
