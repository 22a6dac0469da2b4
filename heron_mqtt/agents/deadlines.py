"""How long each phase of a step may take before it continues without those who are late."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Deadlines(BaseModel):
    """Longest waits, wall-clock s. A phase ends earlier if all messages have arrived."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    # Shorter than peer_s: an agent that waits so long for a command is still in time for the offers.
    upstream_s: float = Field(1.0, gt=0, description="Agent: observation, price and command of the step.")
    peer_s: float = Field(2.0, gt=0, description="Agent: one round of the horizontal protocol.")
    device_s: float = Field(2.0, gt=0, description="Agent: telemetry that answers the setpoints.")
    action_s: float = Field(15.0, gt=0, description="Environment: the actions of all agents.")
    ready_s: float = Field(30.0, gt=0, description="Environment: agents and devices ready for an episode.")

    @property
    def plan_s(self) -> float:
        """Environment: the plans of all agents, where the grid is checked; half of ``action_s``."""
        return 0.5 * self.action_s

    @property
    def clearance_s(self) -> float:
        """Agent: the clearance of its plan, which comes once all plans are there or ``plan_s`` is over."""
        return self.plan_s + self.upstream_s

    @model_validator(mode="after")
    def _action_comes_last(self) -> Self:
        if self.action_s <= max(self.upstream_s, self.peer_s, self.device_s):
            raise ValueError(
                f"action_s must exceed upstream_s, peer_s and device_s, which agents wait for before they "
                f"act, got {self.action_s}"
            )
        return self
