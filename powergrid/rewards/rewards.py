"""What a step earned each microgrid, term by term. Formulas: docs/models.md, economics and trading.

The last axis of every array counts microgrids; leading axes (...) count copies of the grid, if any.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from heron_mqtt.protocols.p2p import SettledTrade
from powergrid.rewards.terms import REWARD_TERMS, Generation, Grid, StepAccount, Trades, Violation
from powergrid.scenario import Scenario

Array = NDArray[np.float64]

TERMS = tuple(term.name for term in REWARD_TERMS.values() if term.is_shipped)
"""The terms of every reward, each in $; what costs is negative."""
_IN_NUMBERS = {Generation, Grid, Trades}  # they take a ``StepAccount`` of one microgrid in numbers, too


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
        self._weights = [(at, term.factor, term.row) for at, term in violations.items()]
        self._plain = [(at, term.earned) for at, term in self._others if type(term) in _IN_NUMBERS]
        self._added = [(at, term) for at, term in self._others if type(term) not in _IN_NUMBERS]

    def terms(self, step: StepAccount) -> Array:
        """Return (..., n_terms, n_agents) $, rows as in ``names``; their sum is the reward."""
        cost = step.cost
        terms = np.empty((*cost.shape[:-1], len(self._terms), cost.shape[-1]))
        np.multiply(step.outside, self._factors, out=terms[..., self._violations, :])
        for at, term in self._others:
            terms[..., at, :] = term.earned(step)
        return terms

    def terms_by_agent(
        self,
        accounts: Sequence[StepAccount],
        outside: Sequence[Sequence[float]],
        whole: Callable[[], StepAccount],
    ) -> list[list[float]]:
        """Return the same of one grid in plain numbers, to the last bit: for each agent its terms.

        Arrays of a few numbers take longer to multiply than these numbers themselves.

        Args:
            accounts: Of each agent, in numbers.
            outside: (3, n_agents) as in ``StepAccount``.
            whole: Returns the account of all agents, for other terms than ours.
        """
        found = []
        for agent, account in enumerate(accounts):
            terms = [0.0] * len(self._terms)
            for at, earned_by in self._plain:
                terms[at] = earned_by(account)
            for at, factor, row in self._weights:
                terms[at] = outside[row][agent] * factor
            found.append(terms)
        for at, term in self._added:
            earned = np.empty(len(accounts))
            earned[...] = term.earned(whole())  # as ``terms`` does: what is True is 1.0
            for terms, of_agent in zip(found, earned.tolist(), strict=True):
                terms[at] = of_agent
        return found


total: Callable[[Iterable[Any]], Any] = functools.partial(functools.reduce, operator.add)
"""Return the reward that terms come to, numbers or arrays.

They are added one after the other, in their order. numpy's own sum uses another order along an axis that is
contiguous in memory, as the axis of the terms is with one microgrid.
"""


def traded(agents: Sequence[str], trades: Sequence[SettledTrade]) -> tuple[Array, Array]:
    """Return what settled trades come to.

    Returns:
        (n_agents, n_agents) MWh that the row's agent sold to the column's, negative = bought from it; and
        (n_agents,) $ earned minus paid.
    """
    mwh = np.zeros((len(agents), len(agents)))
    return mwh, np.array(enter_trades(agents, trades, mwh))


def enter_trades(agents: Sequence[str], trades: Sequence[SettledTrade], mwh: Array) -> list[float]:
    """Write into (n_agents, n_agents) zeros what was sold; return what each earned; see ``traded``."""
    usd = [0.0] * len(agents)
    for of_seller, of_buyer, sold_mwh, price in trades:
        seller, buyer = agents.index(of_seller), agents.index(of_buyer)
        mwh[seller, buyer], mwh[buyer, seller] = sold_mwh, -sold_mwh
        earned = sold_mwh * price
        usd[seller] += earned
        usd[buyer] -= earned
    return usd
