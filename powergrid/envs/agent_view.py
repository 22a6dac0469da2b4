"""One microgrid's part of the state vector, by name: for infos, observation messages and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.agents.base import LocalState
from powergrid.devices.base import make_tuple
from powergrid.envs.state_layout import Layout
from powergrid.simulation.grid_simulation import GridSimulation

ViewValues = Sequence[Any] | NDArray[np.float64]
RESULTS = ("vm_min_pu", "vm_max_pu", "loading_max_percent")


class AgentView:
    """Where one agent's quantities stand in the state vector.

    Args:
        simulation: The grid.
        layout: Of the state vector.
        agent: One of the microgrids.

    Attributes:
        devices: Names of its devices, in the order of the state vector.
        storage: Of those with a state of charge, likewise.
    """

    def __init__(self, simulation: GridSimulation, layout: Layout, agent: str) -> None:
        begin = {name: section.start for name, section in layout.sections.items()}
        number, n_agents = simulation.agents.index(agent), len(simulation.agents)
        own = [(d, device.name) for d, device in enumerate(simulation.devices) if device.agent == agent]
        storage = [device for device in simulation.devices if device.has_soc]
        profiled = [device for device in simulation.devices if device.follows_profile]
        self.devices = tuple(name for _, name in own)
        self._price = begin["price"]
        self._p = [(name, begin["p_mw"] + d) for d, name in own]
        self._q = [(name, begin["q_mvar"] + d) for d, name in own]
        self._soc = [(b.name, begin["soc"] + i) for i, b in enumerate(storage) if b.agent == agent]
        self.storage = tuple(name for name, _ in self._soc)
        self._p_load, self._q_load = begin["p_load_mw"] + number, begin["q_load_mvar"] + number
        self._net = begin["net_mwh"] + number
        self._vm_min, self._vm_max, self._loading = (begin[name] + number for name in RESULTS)
        self._clock = begin["hour"]
        self._ahead = self._foretold(layout, number, n_agents, profiled, agent)
        row = begin["traded_mwh"] + number * n_agents
        self._traded = [(peer, row + i) for i, peer in enumerate(simulation.agents) if peer != agent]
        self._available = [
            (device.name, begin["p_available_mw"] + i)
            for i, device in enumerate(profiled)
            if device.agent == agent
        ]

    def info(self, now: ViewValues) -> dict[str, Any]:
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

    def traded_mwh(self, now: ViewValues) -> dict[str, Any]:
        """Return what was sold to each peer, MWh, negative = bought; ``now`` as in ``info``."""
        return {peer: now[at] for peer, at in self._traded}

    def told(self, now: NDArray[np.float64], n: int) -> dict[str, Any]:
        """Return what a policy gets besides price, load, sun and its devices, by name in ``PolicyView``.

        Each is an (n,) array.
        """
        angle = np.arctan2(now[self._clock], now[self._clock + 1])
        has_bus = not np.isnan(now[self._vm_min]).all()
        return {
            "clock_s": np.round(angle / (2.0 * math.pi) * 86_400.0, 3) % 86_400.0,
            "q_load_mvar": now[self._q_load],
            "vm_min_pu": now[self._vm_min] if has_bus else None,
            "vm_max_pu": now[self._vm_max] if has_bus else None,
            "loading_max_percent": now[self._loading] if has_bus else None,
            "forecast": {name: now[part].T for name, part in self._ahead.items()},
        }

    def local_state(self, now: Sequence[float], dt_s: float, clock_s: float, commanded: bool) -> LocalState:
        """Return what the agent receives of the coming step: its own part of the grid and no more."""
        available = {name: now[at] for name, at in self._available}
        forecast = {name: now[part] for name, part in self._ahead.items()} if self._ahead else None
        vm_min_pu = now[self._vm_min]
        if vm_min_pu != vm_min_pu:  # noqa: PLR0124 - not a number: no bus of it has a voltage
            grid: tuple[float | None, ...] = None, None, None
        else:
            grid = vm_min_pu, now[self._vm_max], now[self._loading]
        told = dt_s, commanded, now[self._p_load], now[self._q_load], available
        return make_tuple(LocalState, (*told, *grid, clock_s, forecast, None))

    def _foretold(
        self, layout: Layout, number: int, n_agents: int, profiled: Sequence[Any], agent: str
    ) -> dict[str, slice]:
        """Return where each forecast stands, by the name it has in the observation message."""
        price, load = layout.sections["price_ahead"], layout.sections["p_load_ahead_mw"]
        if price.start == price.stop:
            return {}
        parts = {"price": price, "p_load_mw": slice(load.start + number, load.stop, n_agents)}
        plants = layout.sections["p_available_ahead_mw"]
        for i, device in enumerate(profiled):
            if device.agent == agent:
                parts[f"p_available_{device.name}"] = slice(plants.start + i, plants.stop, len(profiled))
        return parts
