"""The physical side of a scenario, compiled into arrays: time series in, power flow out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError, PowerFlowError
from powergrid.build import Blueprint
from powergrid.networks import DeviceKind, MicrogridSites, to_pandapower_p, to_pandapower_q
from powergrid.powerflow import Injections, PowerFlow, PowerFlowResult, make_power_flow
from powergrid.series import Array, Positions, Series

__all__ = ["DeviceColumn", "MicrogridIndex", "Port", "World"]

# A tenth of a milliwatt: voltages and loadings (per unit) must not depend on the solver beyond 1e-9, and at
# the usual 1e-8 MVA they do on a low-voltage grid. It costs half a Newton iteration.
TOLERANCE_MVA = 1e-10


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
    kind: DeviceKind


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    """Where the devices of one pandapower table get their power.

    Attributes:
        table: Name of the table.
        rows: (n,) positions in it.
        columns: (n,) positions among the devices.
        p_sign, q_sign: (n,) factor from an injection to the sign of the table.
    """

    table: str
    rows: Positions
    columns: Positions
    p_sign: Array
    q_sign: Array


class World:
    """A scenario's grid, ready to be stepped.

    Args:
        blueprint: The scenario with everything it names.

    Attributes:
        agents: Names of the microgrids, in the scenario's order.
        devices: Every device, microgrid by microgrid: the order of (..., n_devices) arrays.
        series: What the time series say.
        ports: Where the devices are in the power flow.

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
        self.bus_names = [str(name) for name in blueprint.net.bus.name]
        self.microgrids = {name: self._index(blueprint.sites[name]) for name in self.agents}
        load = self.flow.load
        self.series = Series(
            blueprint, load.p_mw, load.q_mvar, [index.loads for index in self.microgrids.values()]
        )
        self.devices = tuple(
            DeviceColumn(agent, name, table.spec.kind)
            for agent, microgrid in self.scenario.microgrids.items()
            for name, table in microgrid.devices.items()
        )
        self.ports = self._make_ports()
        self._injections: list[tuple[Injections, Port]] = [
            (getattr(self.flow, port.table), port) for port in self.ports
        ]

    def positions(self, kind: DeviceKind | None = None) -> list[Positions]:
        """Return each microgrid's devices, counted among all of them or among those of one kind."""
        owners = np.array([device.agent for device in self.devices if kind in {None, device.kind}])
        return [np.flatnonzero(owners == agent) for agent in self.agents]

    def vector(self, values: Mapping[str, Mapping[str, float]]) -> Array:
        """Return (n_devices,) values given by microgrid and device; 0 for what is not named."""
        return np.array([values.get(d.agent, {}).get(d.name, 0.0) for d in self.devices])

    def solve(self, row: int, p_mw: Array, q_mvar: Array) -> PowerFlowResult:
        """Solve the grid for one row of the time series.

        Args:
            row: Decides the loads.
            p_mw: (n_devices,) MW, positive = injected.
            q_mvar: (n_devices,) Mvar, positive = injected.

        Raises:
            PowerFlowDiverged: There is no solution.
        """
        load = self.flow.load
        load.p_mw[:], load.q_mvar[:] = self.series.loads(row)
        for injections, port in self._injections:
            injections.p_mw[port.rows] = p_mw[port.columns] * port.p_sign
            injections.q_mvar[port.rows] = q_mvar[port.columns] * port.q_sign
        return self.flow.solve()

    # -- compilation -------------------------------------------------------------------------------

    def _index(self, sites: MicrogridSites) -> MicrogridIndex:
        flow = self.flow
        return MicrogridIndex(
            buses=_positions(flow.bus_index, sites.buses),
            lines=_positions(flow.line_index, sites.lines),
            trafos=_positions(flow.trafo_index, sites.trafos),
            loads=_positions(flow.load.index, sites.loads),
        )

    def _make_ports(self) -> tuple[Port, ...]:
        ports = []
        places = [self.blueprint.devices[device.agent, device.name] for device in self.devices]
        for table in sorted({table for table, _ in places}):
            columns = [i for i, place in enumerate(places) if place[0] == table]
            injections: Injections = getattr(self.flow, table)
            kinds = [self.devices[i].kind for i in columns]
            ports.append(
                Port(
                    table=table,
                    rows=_positions(injections.index, [places[i][1] for i in columns]),
                    columns=np.array(columns, dtype=np.intp),
                    p_sign=np.array([to_pandapower_p(kind, 1.0) for kind in kinds]),
                    q_sign=np.array([to_pandapower_q(kind, 1.0) for kind in kinds]),
                )
            )
        return tuple(ports)


def _compile(blueprint: Blueprint) -> PowerFlow:
    try:
        solver = blueprint.loaded.scenario.network.solver
        return make_power_flow(blueprint.net, solver, tolerance_mva=TOLERANCE_MVA)
    except PowerFlowError as exc:
        raise ConfigError(
            f'{blueprint.loaded.source}: network: {exc}; solver = "pandapower" takes every network that '
            "pandapower can solve, and is slower"
        ) from exc


def _positions(index: NDArray[np.int64], wanted: Iterable[int]) -> Positions:
    at = {int(value): position for position, value in enumerate(index)}
    return np.array([at[int(value)] for value in wanted], dtype=np.intp)
