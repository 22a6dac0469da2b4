"""The least that a policy is compared with: storage that does nothing, and storage that does anything."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from powergrid.agents.policy import AgentPolicy, PolicyContext, PolicyView
from powergrid.scenario import Scenario

__all__ = ["IdlePolicy", "RandomPolicy", "batteries"]


def batteries(scenario: Scenario, agent: str) -> dict[str, Any]:
    """Return the nameplates of a microgrid's batteries, by name."""
    devices = scenario.microgrids[agent].devices
    return {name: table.spec for name, table in devices.items() if table.spec.kind == "battery"}


class IdlePolicy(AgentPolicy):
    """Batteries rest; everything else follows the agent's own rules."""

    decides_for_copies: ClassVar[bool] = True

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._names = [f"p_{name}" for name in batteries(context.scenario, context.agent_id)]

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return 0 for each battery."""
        return dict.fromkeys(self._names, 0.0)


class RandomPolicy(AgentPolicy):
    """Batteries get setpoints uniform within their nameplate; everything else follows the own rules.

    The episode's seed and the microgrid decide.
    """

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._specs = batteries(context.scenario, context.agent_id)
        self._rng = random.Random(0)  # noqa: S311 - not for secrets

    def reset(self, episode: int, seed: int | None) -> None:
        """Begin the episode's sequence."""
        self._rng.seed(f"{seed}/{self.context.agent_id}/random policy")

    def get_state(self) -> Any:
        """Return the state of the sequence."""
        return self._rng.getstate()

    def set_state(self, state: Any) -> None:
        """Put it back."""
        self._rng.setstate(state)

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return a random setpoint for each battery, MW."""
        return {
            f"p_{name}": self._rng.uniform(-spec.max_p_charge_mw, spec.max_p_discharge_mw)
            for name, spec in self._specs.items()
        }
