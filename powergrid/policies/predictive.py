"""Model-predictive control of a microgrid's batteries by what is foretold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heron_mqtt.errors import ConfigError
from powergrid.agents.policy import AgentPolicy, PolicyContext, PolicyView
from powergrid.policies.dispatch_program import DispatchProgram

__all__ = ["PredictivePolicy"]


class PredictivePolicy(AgentPolicy):
    """Plans batteries and generators over the forecast's horizon in every step, and does the first of it.

    Generators then follow the agent's own economic dispatch. Energy that is left at the end of the horizon
    is worth the mean foretold price. What else draws or feeds in counts as foretold.

    Args:
        context: Of a scenario with ``[forecast]``.
        replan_every: Plan again every so many steps, and follow the plan in between.

    Raises:
        ConfigError: The scenario foretells nothing.
    """

    def __init__(self, context: PolicyContext, replan_every: int = 1) -> None:
        super().__init__(context)
        forecast = context.scenario.forecast
        if forecast.kind == "none":
            raise ConfigError(
                f'policy PredictivePolicy of {context.agent_id}: forecast.kind is "none"; it needs '
                '"perfect", "persistence" or "noisy"'
            )
        if replan_every < 1:
            raise ConfigError(f"replan_every: expected at least 1, got {replan_every}")
        self._program = DispatchProgram(context.scenario, (context.agent_id,), forecast.horizon + 1)
        self._every = min(replan_every, forecast.horizon + 1)
        self._plan: dict[str, np.ndarray[Any, Any]] = {}
        self._at = 0

    def reset(self, episode: int, seed: int | None) -> None:
        """Forget the plan."""
        self._plan, self._at = {}, 0

    def get_state(self) -> Any:
        """Return the plan and the place in it."""
        return dict(self._plan), self._at

    def set_state(self, state: Any) -> None:
        """Put it back."""
        self._plan, self._at = dict(state[0]), state[1]

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return the setpoint of each battery, MW; none where nothing was foretold in time."""
        if not self._plan or self._at >= self._every:
            if not view.forecast:
                return {name: plan[self._at] for name, plan in self._plan.items()} if self._left() else {}
            self._plan, self._at = self._planned(view), 0
        found = {name: float(plan[self._at]) for name, plan in self._plan.items()}
        self._at += 1
        return found

    def _left(self) -> bool:
        return bool(self._plan) and self._at < len(next(iter(self._plan.values())))

    def _planned(self, view: PolicyView) -> dict[str, np.ndarray[Any, Any]]:
        price = np.array([view.price, *view.forecast["price"]])
        other = np.array([view.p_load_mw, *view.forecast["p_load_mw"]])
        for name, now in view.p_available_mw.items():
            other += np.array([now, *view.forecast[f"p_available_{name}"]])
        agent = self.context.agent_id
        soc = {(agent, name): float(value) for name, value in view.soc.items()}
        solution = self._program.solve(price, other, soc, float(price.mean()))
        return {f"p_{name}": power for (_, name), power in solution.battery_mw.items()}
