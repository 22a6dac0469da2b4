"""The terms of the reward: one class and one registration each. Formulas: docs/models.md, reward.

The last axis of every array counts microgrids; leading axes (...) count copies of the grid, if any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.registry import Registry
from powergrid.scenario import Scenario

__all__ = ["REWARD_TERMS", "RewardTerm", "StepAccount", "Violation", "grid_bill"]

Array = NDArray[np.float64]


class StepAccount(NamedTuple):
    """What happened in a step.

    Our own terms but violations are also asked for one microgrid: the first five values are numbers then.

    Attributes:
        cost: (..., n_agents) cost of the devices' steps, $: fuel, starts, what was not served.
        net_mwh: (..., n_agents) net injection, MWh.
        traded_mwh: (..., n_agents) part of it that was sold to peers, MWh.
        traded_usd: (..., n_agents) earned minus paid in trades, $.
        price: (..., 1) $/MWh.
        outside: (..., 3, n_agents) what ``powergrid.rewards.violations.LimitReadings`` has, a row a quantity.
        p_mw, q_mvar: (..., n_devices) MW and Mvar, positive = injected; None where devices are not known.
        sum_by_agent: From (..., n_devices) to the (..., n_agents) sums over each microgrid's devices.
    """

    cost: Any
    net_mwh: Any
    traded_mwh: Any
    traded_usd: Any
    price: Any
    outside: Array
    p_mw: Array | None = None
    q_mvar: Array | None = None
    sum_by_agent: Callable[[Array], Array] | None = None


class RewardTerm(ABC):
    """One term of the reward, $; what costs is negative.

    A shipped term is part of every reward. Another one is where the scenario gives it a weight:
    ``[reward.terms]  my_term = 2.0``.

    Args:
        scenario: With weights, and what energy costs.

    Attributes:
        name: In ``infos[agent]["reward_terms"]``, and in ``[reward.terms]``.
        is_shipped: It is part of every reward.
        weight: The scenario's, of a term that is not shipped; ``earned`` multiplies by it.
    """

    name: ClassVar[str]
    is_shipped: ClassVar[bool] = False

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.weight = scenario.reward.terms.get(self.name, 1.0)

    @abstractmethod
    def earned(self, step: StepAccount) -> Any:
        """Return the (..., n_agents) $ that the step earned each microgrid by this term."""


REWARD_TERMS: Registry[type[RewardTerm]] = Registry(
    "reward term", "heron_mqtt.reward_terms", lambda term: term.name
)
"""Every term, in the order in which they are summed."""


@REWARD_TERMS.add
class Generation(RewardTerm):
    """What the devices' steps cost: fuel, start and stop of generators, what was not served."""

    name = "generation"
    is_shipped = True

    def earned(self, step: StepAccount) -> Any:
        """Return the negative cost."""
        return -step.cost


@REWARD_TERMS.add
class Grid(RewardTerm):
    """Energy sold to the grid at the price, minus energy bought at price + import adder."""

    name = "grid"
    is_shipped = True

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self._adder = scenario.market.import_adder_per_mwh

    def earned(self, step: StepAccount) -> Any:
        """Return the grid's bill of what was not traded."""
        return grid_bill(step.net_mwh, step.traded_mwh, step.price, self._adder)


@REWARD_TERMS.add
class Trades(RewardTerm):
    """Energy sold to peers minus energy bought from them, at the trades' prices."""

    name = "trades"
    is_shipped = True

    def earned(self, step: StepAccount) -> Any:
        """Return earned minus paid."""
        return step.traded_usd


class Violation(RewardTerm):
    """A weighted violation; ``row`` of what lies outside the limits. ``Rewards`` works all out at once.

    Attributes:
        factor: $ for each unit outside, <= 0.
    """

    is_shipped = True
    row: ClassVar[int]

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.factor = -float(getattr(scenario.reward, f"{self.name}_weight"))

    def earned(self, step: StepAccount) -> Any:
        """Return the negative weighted sum of what lies outside."""
        return self.factor * step.outside[..., self.row, :]


@REWARD_TERMS.add
class Voltage(Violation):
    """Bus voltages outside their band."""

    name = "voltage"
    row = 0


@REWARD_TERMS.add
class Loading(Violation):
    """Lines and transformers loaded beyond their limit."""

    name = "loading"
    row = 1


@REWARD_TERMS.add
class Soc(Violation):
    """States of charge outside their preferred band."""

    name = "soc"
    row = 2


def grid_bill(net_mwh: Any, traded_mwh: Any, price: Any, import_adder: Any) -> Any:
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
