"""Batteries that follow a plan made beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from powergrid.agents.policy import AgentPolicy, PolicyContext, PolicyView

__all__ = ["FollowPlan"]


class FollowPlan(AgentPolicy):
    """Sets batteries to what ``plan`` says of each step of the episode; what it does not say is left alone.

    Attributes:
        plan: By ``p_<device>``, (n_steps,) MW, positive = discharging.
    """

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self.plan: Mapping[str, Any] = {}
        self._step = 0

    def reset(self, episode: int, seed: int | None) -> None:
        """Begin the plan again."""
        self._step = 0

    def get_state(self) -> Any:
        """Return the plan and the place in it."""
        return self.plan, self._step

    def set_state(self, state: Any) -> None:
        """Put it back."""
        self.plan, self._step = state

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return the setpoints of the step, MW."""
        step, self._step = self._step, self._step + 1
        return {name: float(power[step]) for name, power in self.plan.items() if step < len(power)}
