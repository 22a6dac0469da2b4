"""The physical side of a scenario, compiled into arrays: time series in, power flow out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError, PowerFlowError
from powergrid.devices import DeviceSpecBase
from powergrid.networks import MicrogridSites, to_pandapower_p, to_pandapower_q
from powergrid.powerflow import Injections, Loadings, PowerFlow, make_power_flow
from powergrid.simulation.build import Blueprint
from powergrid.simulation.time_series import Array, Positions, Rows, TimeSeries

__all__ = ["DeviceColumn", "GridSimulation", "MicrogridIndex"]


@dataclass(frozen=True, slots=True)
class MicrogridIndex:
    """Positions of one microgrid's elements in the tables and result arrays."""

    buses: Positions
    lines: Positions
    trafos: Positions
    loads: Positions


@dataclass(frozen=True, slots=True)
class DeviceColumn:
    """One device of the scenario: a column of every (..., n_devices) array."""

    agent: str
    name: str
    spec: DeviceSpecBase

    @property
    def kind(self) -> str:
        """Its kind of device."""
        return self.spec.kind

    @property
    def has_soc(self) -> bool:
        """Whether it has a state of charge: a column of every (..., n_storage) array."""
        return self.spec.has_soc

    @property
    def follows_profile(self) -> bool:
        """Whether the time series say what it can do: the sun of a PV device, the demand of a load."""
        return self.spec.profile_says is not None


class GridSimulation:
    """A scenario's grid, ready to be stepped.

    Args:
        blueprint: The scenario with everything it names.

    Attributes:
        agents: Names of the microgrids, in the scenario's order.
        devices: Every device, microgrid by microgrid: the order of (..., n_devices) arrays.
        series: What the time series say.
        columns: (n_devices,) where each device is among the injections of the power flow.
        p_sign, q_sign: (n_devices,) factors from an injection to the sign of its table there.

    Raises:
        ConfigError: The network cannot be compiled; names the elements and the way out.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self.scenario = blueprint.loaded.scenario
        self.agents = tuple(self.scenario.microgrids)
        self.flow = _compile(blueprint)
        if self.scenario.network.vm_pu is not None:
            self.flow.set_slack(self.scenario.network.vm_pu)
        self.bus_names = list(blueprint.grid.placement.bus_names)
        self.microgrids = {name: self._index(blueprint.sites[name]) for name in self.agents}
        load = self.flow.load
        self.series = TimeSeries(
            blueprint, load.p_mw, load.q_mvar, [index.loads for index in self.microgrids.values()]
        )
        # Views: to index one row of an array by numbers takes a tenth of the time of indexing a row of two.
        self._load_points = self.flow.set_points[:, self.flow.injection_columns["load"]]
        self._p_points, self._q_points = self.flow.set_points
        self._load_owner = np.full(len(load.p_mw), len(self.agents), dtype=np.intp)
        for a, index in enumerate(self.microgrids.values()):
            self._load_owner[index.loads] = a
        self.devices = tuple(
            DeviceColumn(agent, name, table.spec)
            for agent, microgrid in self.scenario.microgrids.items()
            for name, table in microgrid.devices.items()
        )
        places = [blueprint.devices[device.agent, device.name] for device in self.devices]
        self.columns = np.array([self._column(*place) for place in places], dtype=np.intp)
        self.p_sign = np.array([to_pandapower_p(device.kind, 1.0) for device in self.devices])
        self.q_sign = np.array([to_pandapower_q(device.kind, 1.0) for device in self.devices])

    def positions(self) -> list[Positions]:
        """Return each microgrid's devices, counted among all of them."""
        return self._by_agent([device.agent for device in self.devices])

    def banded(self) -> list[Positions]:
        """Return each microgrid's devices whose state of charge has a band, counted among (n_storage,)."""
        storage = [device for device in self.devices if device.has_soc]
        return self._by_agent([device.agent if device.spec.soc_has_band else "" for device in storage])

    def _by_agent(self, owners: list[str]) -> list[Positions]:
        return [np.flatnonzero(np.array(owners) == agent) for agent in self.agents]

    def vector(self, values: Mapping[str, Mapping[str, float]]) -> Array:
        """Return (n_devices,) values given by microgrid and device; 0 for what is not named."""
        return np.array([values.get(d.agent, {}).get(d.name, 0.0) for d in self.devices])

    def solve(self, row: int, p_mw: Array, q_mvar: Array, load_factor: Array | None = None) -> Loadings:
        """Solve the grid for one row of the time series.

        Args:
            row: Decides the loads.
            p_mw: (n_devices,) MW, positive = injected.
            q_mvar: (n_devices,) Mvar, positive = injected.
            load_factor: (n_agents,) on each microgrid's loads; None = 1.

        Raises:
            PowerFlowDiverged: There is no solution.
        """
        self._load_points[...] = self.loads(row, load_factor)
        self._p_points[self.columns] = p_mw * self.p_sign
        self._q_points[self.columns] = q_mvar * self.q_sign
        return self.flow.solve_loadings()

    def loads(self, row: Rows, load_factor: Array | None = None) -> Array:
        """Return (..., 2, n_load) MW and Mvar of every load, positive = consumed.

        Of one row without ``load_factor`` it cannot be written to: copy it first.

        Args:
            row: Of the time series, or (...) rows.
            load_factor: (..., n_agents) on each microgrid's loads; None = 1. Other loads have no factor.
        """
        loads = self.series.loads(row)
        if load_factor is not None:
            of_load = np.concatenate((load_factor, np.ones((*load_factor.shape[:-1], 1))), axis=-1)
            factors = of_load.take(self._load_owner, axis=-1)[..., np.newaxis, :]
            loads = np.multiply(loads, factors, out=None if isinstance(row, int) else loads)
        return loads

    # -- compilation -------------------------------------------------------------------------------

    def _index(self, sites: MicrogridSites) -> MicrogridIndex:
        flow = self.flow
        return MicrogridIndex(
            buses=_positions(flow.bus_index, sites.buses),
            lines=_positions(flow.line_index, sites.lines),
            trafos=_positions(flow.trafo_index, sites.trafos),
            loads=_positions(flow.load.index, sites.loads),
        )

    def _column(self, table: str, index: int) -> int:
        injections: Injections = getattr(self.flow, table)
        at: int = self.flow.injection_columns[table].start + _positions(injections.index, [index])[0]
        return at


def _compile(blueprint: Blueprint) -> PowerFlow:
    try:
        table, grid = blueprint.loaded.scenario.network, blueprint.grid
        network = grid.net if table.solver == "pandapower" else grid.compiled()
        # By default a tenth of a milliwatt: voltages and loadings (per unit) must not depend on the solver
        # beyond 1e-9, and at the usual 1e-8 MVA they do on a low-voltage grid. It costs half an iteration.
        return make_power_flow(network, table.solver, tolerance_mva=table.tolerance_mva)
    except PowerFlowError as exc:
        way_out = '; solver = "pandapower" takes every network that pandapower can solve, and is slower'
        raise ConfigError(
            f"{blueprint.loaded.source}: network: {exc}{'' if table.solver == 'pandapower' else way_out}"
        ) from exc


def _positions(index: NDArray[np.int64], wanted: Iterable[int]) -> Positions:
    at = {int(value): position for position, value in enumerate(index)}
    return np.array([at[int(value)] for value in wanted], dtype=np.intp)
