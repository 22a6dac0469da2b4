"""MultiAgentMicrogrids: a PettingZoo ParallelEnv whose agents are reached directly or over a broker."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from powergrid.envs.microgrid_environment import MicrogridEnvironment
from powergrid.envs.observation_form import AgentObservation
from powergrid.simulation.build import Blueprint


class MultiAgentMicrogrids(MicrogridEnvironment, ParallelEnv[str, AgentObservation, NDArray[np.float32]]):
    """Microgrids on one distribution grid, one agent each.

    With ``centralized``, agents are called directly. Otherwise the same agents exchange messages over a
    broker. With the same seed, policies and simulated devices both give the same trajectory. An agent without
    an action in ``step`` follows its own policy.

    The synchronous calls may be used anywhere; from asynchronous code prefer ``reset_async``,
    ``step_async`` and ``close_async``, which run in the caller's event loop.

    Args:
        config: See ``powergrid.envs.config.EnvConfig``.

    Attributes:
        state_space: The space of ``state()``.

    Raises:
        ConfigError: One line for each problem in configuration, scenario and data files.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "multi_agent_microgrids_v0", "render_modes": ["ansi"]}

    def _assemble(self, blueprint: Blueprint) -> None:
        super()._assemble(blueprint)
        self.state_space = self._state.whole.flat_space
