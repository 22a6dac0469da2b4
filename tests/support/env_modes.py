"""The environment of the small grid in both modes, for tests that hold in each."""

from __future__ import annotations

from typing import Any

from powergrid.envs import MultiAgentMicrogrids
from support.small_grid import scenario as small

MODES: dict[str, dict[str, Any]] = {
    "centralized": {"centralized": True},
    "distributed": {"centralized": False},
}
MGS = ["MG1", "MG2", "MG3"]


def make(scenario: dict[str, Any] | None = None, **config: Any) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids({"scenario": small(scenario), **config})


def sampled(env: MultiAgentMicrogrids) -> dict[str, Any]:
    return {agent: env.action_space(agent).sample() for agent in env.agents}
