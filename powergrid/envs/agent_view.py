"""One microgrid's part of the state vector, by name: for infos, observation messages and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.agents.base import LocalState
from powergrid.envs.state_layout import Layout
from powergrid.simulation.grid_simulation import GridSimulation

Values = Sequence[Any] | NDArray[np.float64]
RESULTS = ("vm_min_pu", "vm_max_pu", "loading_max_percent")


class AgentView:
    """Where one agent's quantities stand in the state vector.

    Args:
        simulation: The grid.
        layout: Of the state vector.
        agent: One of the microgrids.
    """

    def __init__(self, simulation: GridSimulation, layout: Layout, agent: str) -> None:
        begin = {name: section.start for name, section in layout.sections.items()}
        number, n_agents = simulation.agents.index(agent), len(simulation.agents)
        own = [(d, device.name) for d, device in enumerate(simulation.devices) if device.agent == agent]
        batteries = [device for device in simulation.devices if device.kind == "battery"]
        profiled = [device for device in simulation.devices if device.follows_profile]
        self.devices = tuple(name for _, name in own)
        self._price = begin["price"]
        self._p = [(name, begin["p_mw"] + d) for d, name in own]
        self._q = [(name, begin["q_mvar"] + d) for d, name in own]
        self._soc = [(b.name, begin["soc"] + i) for i, b in enumerate(batteries) if b.agent == agent]
        self._p_load, self._q_load = begin["p_load_mw"] + number, begin["q_load_mvar"] + number
        self._net = begin["net_mwh"] + number
        self._vm_min, self._vm_max, self._loading = (begin[name] + number for name in RESULTS)
        row = begin["traded_mwh"] + number * n_agents
        self._traded = [(peer, row + i) for i, peer in enumerate(simulation.agents) if peer != agent]
        self._available = [
            (device.name, begin["p_available_mw"] + i)
            for i, device in enumerate(profiled)
            if device.agent == agent
        ]

    def info(self, now: Values) -> dict[str, Any]:
        """Return what happened in the last step.

        Args:
            now: The state vector: a number, or an array over copies, for each quantity.
        """
        return {
            "price": now[self._price],
            "p_mw": {name: now[at] for name, at in self._p},
            "q_mvar": {name: now[at] for name, at in self._q},
            "soc": {name: now[at] for name, at in self._soc},
            "p_load_mw": now[self._p_load],
            "net_mwh": now[self._net],
            "vm_pu": {"min": now[self._vm_min], "max": now[self._vm_max]},
            "loading_max_percent": now[self._loading],
        }

    def traded_mwh(self, now: Values) -> dict[str, Any]:
        """Return what was sold to each peer, MWh, negative = bought; ``now`` as in ``info``."""
        return {peer: now[at] for peer, at in self._traded}

    def local_state(self, now: Sequence[float], dt_s: float, commanded: bool) -> LocalState:
        """Return what the agent is told of the coming step: its own part of the grid and no more."""
        available = {name: now[at] for name, at in self._available}
        told = dt_s, commanded, now[self._p_load], now[self._q_load], available
        if math.isnan(now[self._vm_min]):  # no bus of it has a voltage
            return LocalState(*told)
        return LocalState(*told, now[self._vm_min], now[self._vm_max], now[self._loading])
