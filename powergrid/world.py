"""The physical side of a scenario, compiled into arrays: time series in, power flow out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError, PowerFlowError
from powergrid.build import Blueprint
from powergrid.networks import DeviceKind, MicrogridSites, to_pandapower_p, to_pandapower_q
from powergrid.powerflow import Injections, PowerFlow, PowerFlowResult, make_power_flow

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class MicrogridIndex:
    """Positions of one microgrid's elements in the tables and result arrays."""

    buses: Positions
    lines: Positions
    trafos: Positions
    loads: Positions


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the time series say of one step.

    Attributes:
        price: $/MWh.
        p_load_mw: By microgrid, MW, negative = consuming.
        q_load_mvar: By microgrid, Mvar, negative = consuming.
        p_available_mw: By microgrid and PV device, MW, >= 0.
    """

    price: float
    p_load_mw: Mapping[str, float]
    q_load_mvar: Mapping[str, float]
    p_available_mw: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Where one device's power goes."""

    injections: Injections
    at: int
    kind: DeviceKind
    agent: str
    device: str


class World:
    """A scenario's grid, ready to be stepped.

    Args:
        blueprint: The scenario with everything it names.

    Raises:
        ConfigError: The network cannot be compiled; names the elements and the way out.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.scenario = blueprint.loaded.scenario
        self.agents = tuple(self.scenario.microgrids)
        self.flow = _compile(blueprint)
        if self.scenario.network.vm_pu is not None:
            self.flow.set_slack(self.scenario.network.vm_pu)
        self.bus_names = [str(name) for name in blueprint.net.bus.name]
        self.microgrids = {name: self._index(sites) for name, sites in blueprint.sites.items()}
        prices, profiles = blueprint.prices, blueprint.profiles
        self.n_rows = min(prices.n_steps, profiles.n_steps) if profiles else prices.n_steps
        self._start = prices.start if prices.start.tzinfo else prices.start.replace(tzinfo=UTC)
        self.local_start = self._start + timedelta(
            seconds=self.scenario.profiles.start_row * self.scenario.step_s
        )
        self._price = prices.columns[self.scenario.profiles.price_column]
        self._columns: Mapping[str, Array] = profiles.columns if profiles else {}
        scale = np.array([load.scale for load in blueprint.loads])
        self._base_p = self.flow.load.p_mw * scale
        self._base_q = self.flow.load.q_mvar * scale
        self._p_factors, self._p_of_load = self._factors([load.p_column for load in blueprint.loads])
        self._q_factors, self._q_of_load = self._factors([load.q_column for load in blueprint.loads])
        self._pv = {
            name: {
                device: (self._columns[table.profile], float(table.rated_mw))
                for device, table in microgrid.devices.items()
                if table.profile is not None
            }
            for name, microgrid in self.scenario.microgrids.items()
        }
        self._writers = [self._writer(*key, *place) for key, place in blueprint.devices.items()]

    # -- time series -------------------------------------------------------------------------------

    def row(self, step: int) -> int:
        """Return the row of the time series that holds during a step of the episode.

        Raises:
            IndexError: The series end before, and the scenario does not repeat them.
        """
        row = self.scenario.profiles.start_row + step
        if not self.has_row(step):
            raise IndexError(f"step {step}: the time series have {self.n_rows} rows and do not repeat")
        return row % self.n_rows

    def has_row(self, step: int) -> bool:
        """Whether the time series say anything of a step."""
        return self.scenario.profiles.repeat or self.scenario.profiles.start_row + step < self.n_rows

    def clock(self, step: int) -> datetime:
        """Return the simulated time at which a step begins, UTC."""
        rows = self.scenario.profiles.start_row + step
        return (self._start + timedelta(seconds=rows * self.scenario.step_s)).astimezone(UTC)

    def outlook(self, step: int) -> Outlook:
        """Return price, loads and available PV power of a step."""
        row = self.row(step)
        p_load = self._base_p * self._p_factors[row, self._p_of_load]
        q_load = self._base_q * self._q_factors[row, self._q_of_load]
        return Outlook(
            price=float(self._price[row]),
            p_load_mw={name: -float(p_load[index.loads].sum()) for name, index in self.microgrids.items()},
            q_load_mvar={name: -float(q_load[index.loads].sum()) for name, index in self.microgrids.items()},
            p_available_mw={
                name: {device: float(column[row]) * rated for device, (column, rated) in plants.items()}
                for name, plants in self._pv.items()
            },
        )

    # -- power flow --------------------------------------------------------------------------------

    def solve(
        self, step: int, p_mw: Mapping[str, Mapping[str, float]], q_mvar: Mapping[str, Mapping[str, float]]
    ) -> PowerFlowResult:
        """Solve the grid for one step.

        Args:
            step: Decides the loads.
            p_mw: By microgrid and device, MW, positive = injected; a device not named gives 0.
            q_mvar: Likewise, Mvar.

        Raises:
            PowerFlowDiverged: There is no solution.
        """
        row = self.row(step)
        load = self.flow.load
        np.multiply(self._base_p, self._p_factors[row, self._p_of_load], out=load.p_mw)
        np.multiply(self._base_q, self._q_factors[row, self._q_of_load], out=load.q_mvar)
        for w in self._writers:
            w.injections.p_mw[w.at] = to_pandapower_p(w.kind, p_mw[w.agent].get(w.device, 0.0))
            w.injections.q_mvar[w.at] = to_pandapower_q(w.kind, q_mvar[w.agent].get(w.device, 0.0))
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

    def _factors(self, names: list[str | None]) -> tuple[Array, Positions]:
        """Return a (row, column) table of factors and, for each load, its column; column 0 is all 1."""
        used = sorted({name for name in names if name is not None})
        table = np.ones((self.n_rows, len(used) + 1))
        for i, name in enumerate(used, start=1):
            table[:, i] = self._columns[name][: self.n_rows]
        column = {name: i for i, name in enumerate(used, start=1)}
        return table, np.array([column[name] if name else 0 for name in names], dtype=np.intp)

    def _writer(self, agent: str, device: str, table: str, index: int) -> _Writer:
        injections: Injections = getattr(self.flow, table)
        at = int(_positions(injections.index, [index])[0])
        kind = self.scenario.microgrids[agent].devices[device].spec.kind
        return _Writer(injections, at, kind, agent, device)


def _compile(blueprint: Blueprint) -> PowerFlow:
    try:
        return make_power_flow(blueprint.net, blueprint.loaded.scenario.network.solver)
    except PowerFlowError as exc:
        raise ConfigError(
            f'{blueprint.loaded.source}: network: {exc}; solver = "pandapower" takes every network that '
            "pandapower can solve, and is slower"
        ) from exc


def _positions(index: NDArray[np.int64], wanted: Iterable[int]) -> Positions:
    at = {int(value): position for position, value in enumerate(index)}
    return np.array([at[int(value)] for value in wanted], dtype=np.intp)
