"""The state of the grid as one flat vector, and what of it an agent observes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from powergrid.simulation.grid_simulation import GridSimulation

Positions = NDArray[np.intp]


class Layout:
    """Where each quantity stands in the state vector.

    An agent's own part, in this order:

    - ``price`` ($/MWh), ``hour_sin``, ``hour_cos``, ``p_load_mw``, ``q_load_mvar``;
    - for each device the quantities that its kind observes: ``p_`` and ``q_`` (last step), ``soc_`` of
      storage, ``p_available_`` of kinds with a profile (PV >= 0; a demand <= 0);
    - ``vm_min_pu``, ``vm_max_pu``, ``loading_max_percent`` (last step);
    - for each peer ``trade_`` (MWh sold to it, last step);
    - the forecast: ``price+1`` and so on, then ``p_load_mw+1``, then ``p_available_<device>+1``.

    Powers are positive when injected. Before the first step the last step's entries are 0, and the voltages
    those of the grid without devices.

    The whole grid: the own parts of all agents, then ``vm_pu`` of every bus that has a voltage, then
    ``line_loading_percent`` and ``trafo_loading_percent``.

    Args:
        simulation: The grid.
        live_buses: Positions of the buses that have a voltage.
        horizon: How many steps are forecast.

    Attributes:
        size: Length of the state vector.
        sections: Name of a quantity -> its slice of the vector.
        n_local: Length of its first part, which belongs to single microgrids; the grid's results follow.
        n_live_buses: How many of those are voltages.
        horizon: How many steps are forecast.
    """

    def __init__(self, simulation: GridSimulation, live_buses: Positions, horizon: int = 0) -> None:
        agents, devices, self.horizon = simulation.agents, simulation.devices, horizon
        self.n_live_buses = len(live_buses)
        flow = simulation.flow
        self._agents = agents
        self._grid_names = (
            *(f"vm_pu/{simulation.bus_names[i]}" for i in live_buses),
            *(f"line_loading_percent/{i}" for i in flow.line_index),
            *(f"trafo_loading_percent/{i}" for i in flow.trafo_index),
        )
        storage = [(d.agent, d.name) for d in devices if d.has_soc]
        plants = [(d.agent, d.name) for d in devices if d.follows_profile]
        sizes = {
            "hour": 2,
            # What the time series say of a step, as in ``TimeSeries.vector``.
            "price": 1,
            "p_load_mw": len(agents),
            "q_load_mvar": len(agents),
            "p_available_mw": len(plants),
            # What devices did.
            "p_mw": len(devices),
            "q_mvar": len(devices),
            "soc": len(storage),
            "vm_min_pu": len(agents),
            "vm_max_pu": len(agents),
            "loading_max_percent": len(agents),
            "traded_mwh": len(agents) ** 2,
            "net_mwh": len(agents),
            "price_ahead": horizon,
            "p_load_ahead_mw": horizon * len(agents),
            "p_available_ahead_mw": horizon * len(plants),
            "grid": len(self._grid_names),
        }
        self.sections: dict[str, slice] = {}
        self.size = 0
        for name, size in sizes.items():
            self.sections[name] = slice(self.size, self.size + size)
            self.size += size
        self.n_local = self.sections["grid"].start
        self._own = {
            agent: self._own_part(simulation, a, storage, plants) for a, agent in enumerate(simulation.agents)
        }

    def own(self, agent: str) -> tuple[tuple[str, ...], Positions]:
        """Return names and positions in the state vector of what an agent knows of its own part."""
        names, at = zip(*self._own[agent], strict=True)
        return names, np.array(at, dtype=np.intp)

    def whole(self) -> tuple[tuple[str, ...], Positions]:
        """Return names and positions in the state vector of the whole grid."""
        own = [(f"{agent}/{name}", at) for agent, part in self._own.items() for name, at in part]
        grid = zip(self._grid_names, range(self.size - len(self._grid_names), self.size), strict=True)
        names, at = zip(*own, *grid, strict=True)
        return names, np.array(at, dtype=np.intp)

    def _own_part(
        self,
        simulation: GridSimulation,
        a: int,
        storage: Sequence[tuple[str, str]],
        plants: Sequence[tuple[str, str]],
    ) -> list[tuple[str, int]]:
        """Return name and position of each entry of agent number ``a``, in the order of the observation."""
        begin = {name: section.start for name, section in self.sections.items()}
        agent = self._agents[a]
        part = [("price", begin["price"]), ("hour_sin", begin["hour"]), ("hour_cos", begin["hour"] + 1)]
        part += [(name, begin[name] + a) for name in ("p_load_mw", "q_load_mvar")]
        for d, device in enumerate(simulation.devices):
            if device.agent != agent:
                continue
            place = (agent, device.name)
            at = {"p_": begin["p_mw"] + d, "q_": begin["q_mvar"] + d}
            if place in storage:
                at["soc_"] = begin["soc"] + storage.index(place)
            if place in plants:
                at["p_available_"] = begin["p_available_mw"] + plants.index(place)
            part += [(prefix + device.name, at[prefix]) for prefix in device.spec.observed]
        part += [(name, begin[name] + a) for name in ("vm_min_pu", "vm_max_pu", "loading_max_percent")]
        row = begin["traded_mwh"] + a * len(self._agents)
        part += [(f"trade_{other}", row + peer) for peer, other in enumerate(self._agents) if peer != a]
        return part + self._foretold(a, agent, plants)

    def _foretold(self, a: int, agent: str, plants: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
        begin = {name: section.start for name, section in self.sections.items()}
        n_agents, leads = len(self._agents), range(self.horizon)
        part = [(f"price+{k + 1}", begin["price_ahead"] + k) for k in leads]
        part += [(f"p_load_mw+{k + 1}", begin["p_load_ahead_mw"] + k * n_agents + a) for k in leads]
        for i, (owner, name) in enumerate(plants):
            if owner == agent:
                first = begin["p_available_ahead_mw"] + i
                part += [(f"p_available_{name}+{k + 1}", first + k * len(plants)) for k in leads]
        return part
