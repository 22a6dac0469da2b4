"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading.

The last axis of every array counts microgrids; leading axes (...) count copies of the grid, if any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from heron_mqtt.protocols.p2p import SettledTrade
from powergrid.rewards.terms import REWARD_TERMS, StepAccount, Violation
from powergrid.scenario import Scenario

Array = NDArray[np.float64]

TERMS = tuple(term.name for term in REWARD_TERMS.values() if term.is_shipped)
"""The terms of every reward, each in $; what costs is negative."""


class Rewards:
    """Computes the terms.

    Args:
        scenario: Weights, and what energy costs.

    Attributes:
        names: Of the terms: the shipped ones, then those that the scenario gives a weight.

    Raises:
        ConfigError: The scenario gives a weight to a term that there is not.
    """

    def __init__(self, scenario: Scenario) -> None:
        wanted = scenario.reward.terms
        for name in wanted:
            if REWARD_TERMS[name].is_shipped:
                raise ConfigError(f"'{name}' is a term of every reward and weighed by its own key")
        self._terms = [
            term(scenario) for term in REWARD_TERMS.values() if term.is_shipped or term.name in wanted
        ]
        self.names = tuple(term.name for term in self._terms)
        violations = {at: term for at, term in enumerate(self._terms) if isinstance(term, Violation)}
        self._others = [(at, term) for at, term in enumerate(self._terms) if at not in violations]
        # They stand side by side, as what lies outside does.
        self._violations = slice(min(violations), max(violations) + 1)
        self._factors = np.array([[term.factor] for term in violations.values()])

    def terms(self, step: StepAccount) -> Array:
        """Return (..., n_terms, n_agents) $, rows as in ``names``; their sum is the reward."""
        cost = step.cost
        terms = np.empty((*cost.shape[:-1], len(self._terms), cost.shape[-1]))
        np.multiply(step.outside, self._factors, out=terms[..., self._violations, :])
        for at, term in self._others:
            terms[..., at, :] = term.earned(step)
        return terms


def traded(agents: Sequence[str], trades: Sequence[SettledTrade]) -> tuple[Array, Array]:
    """Return what settled trades come to.

    Returns:
        (n_agents, n_agents) MWh that the row's agent sold to the column's, negative = bought from it; and
        (n_agents,) $ earned minus paid.
    """
    mwh, usd = np.zeros((len(agents), len(agents))), [0.0] * len(agents)
    for trade in trades:
        seller, buyer = agents.index(trade.seller), agents.index(trade.buyer)
        mwh[seller, buyer], mwh[buyer, seller] = trade.mwh, -trade.mwh
        usd[seller] += trade.mwh * trade.price
        usd[buyer] -= trade.mwh * trade.price
    return mwh, np.array(usd)
