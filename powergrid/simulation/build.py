"""From a scenario to what it names: network, microgrids, devices, loads, series; every problem at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from heron_mqtt.errors import DataError
from powergrid.agents.policy import check_policy
from powergrid.networks import MicrogridSites
from powergrid.profiles import Profiles, Unit, load_profiles
from powergrid.rewards import Rewards
from powergrid.scenario import LoadedScenario, LoadProfile, Scenario
from powergrid.simulation.attempts import Attempts
from powergrid.simulation.placed_grid import GridStore, PlacedGrid, Placement, placed_grid


@dataclass(frozen=True, slots=True)
class LoadSeries:
    """How one load of the network follows the series: nominal * scale * column; None = constant 1."""

    p_column: str | None
    q_column: str | None
    scale: float


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A scenario with everything it names found and checked.

    Attributes:
        grid: The network with its microgrids and devices.
        loads: One entry a load, in the order of ``net.load``.
        profiles: Columns of loads and PV, per unit.
        prices: Column of the price, $/MWh.
    """

    loaded: LoadedScenario
    grid: PlacedGrid
    loads: tuple[LoadSeries, ...]
    profiles: Profiles | None
    prices: Profiles

    @property
    def net(self) -> Any:
        """The pandapowerNet with the devices attached; built now if the grid was known from before."""
        return self.grid.net

    @property
    def sites(self) -> Mapping[str, MicrogridSites]:
        """What of the network belongs to which microgrid."""
        return self.grid.placement.sites

    @property
    def devices(self) -> Mapping[tuple[str, str], tuple[str, int]]:
        """(microgrid, device) -> (pandapower table, index)."""
        return self.grid.placement.devices


def build(loaded: LoadedScenario, cache: GridStore | None = None) -> Blueprint:
    """Find and check everything that a scenario names.

    Args:
        loaded: The scenario.
        cache: What may know its grid from before; None = the grid is built.

    Raises:
        ConfigError: One line for each problem: scenario, key and what was expected; for data files with
            row and column.
    """
    scenario = loaded.scenario
    attempt = Attempts(loaded.source)
    prices = attempt("profiles.price_file", lambda: _prices(loaded))
    grid = placed_grid(loaded, attempt, cache)
    attempt("reward.terms", lambda: Rewards(scenario))
    for name, table in scenario.microgrids.items():
        if table.policy.use is not None:
            attempt(f"microgrids.{name}.policy", partial(check_policy, table.policy))
    loads = _load_series(scenario, grid.placement)
    columns = _columns(scenario, loads)
    profiles = attempt("profiles.file", lambda: _profiles(loaded, columns)) if columns else None
    attempt.raise_problems()
    assert prices is not None
    return Blueprint(loaded, grid, loads, profiles, prices)


def _load_series(scenario: Scenario, placement: Placement) -> tuple[LoadSeries, ...]:
    owner = {load: name for name, found in placement.sites.items() for load in found.loads}
    series = []
    for index, follows in zip(placement.load_index, placement.load_customers, strict=True):
        name = owner.get(index)
        profile: LoadProfile = scenario.network.loads if name is None else scenario.microgrids[name].loads
        series.append(
            LoadSeries(
                p_column=profile.p or (f"{follows}_p_pu" if follows else None),
                q_column=profile.q or (f"{follows}_q_pu" if follows else profile.p),
                scale=profile.scale,
            )
        )
    return tuple(series)


def _columns(scenario: Scenario, loads: Collection[LoadSeries]) -> dict[str, str]:
    """Return the columns that the scenario needs, each with a key that asks for it."""
    columns: dict[str, str] = {}
    profiles = {"network.loads": scenario.network.loads}
    for name, microgrid in scenario.microgrids.items():
        profiles[f"microgrids.{name}.loads"] = microgrid.loads
        for device, table in microgrid.devices.items():
            if table.profile is not None:
                columns.setdefault(table.profile, f"microgrids.{name}.devices.{device}.profile")
    for key, profile in profiles.items():
        for leaf, column in (("p", profile.p), ("q", profile.q)):
            if column is not None:
                columns.setdefault(column, f"{key}.{leaf}")
    for load in loads:
        for column in (load.p_column, load.q_column):
            if column is not None:
                columns.setdefault(column, "the customer of the network's loads")
    return columns


def _profiles(loaded: LoadedScenario, columns: Mapping[str, str]) -> Profiles:
    units: dict[str, tuple[Unit, ...]] = dict.fromkeys(sorted(columns), ("pu",))
    try:
        return _read(loaded, loaded.scenario.profiles.file, units)
    except DataError as exc:
        raise DataError(*(_with_key(problem, columns) for problem in exc.problems)) from None


def _with_key(problem: str, columns: Mapping[str, str]) -> str:
    for column, key in columns.items():
        if f"column '{column}'" in problem:
            return f"{problem}; asked for by {key}"
    return problem


def _prices(loaded: LoadedScenario) -> Profiles:
    table = loaded.scenario.profiles
    units: dict[str, tuple[Unit, ...]] = {table.price_column: ("per_mwh",)}
    return _read(loaded, table.price_file, units)


def _read(loaded: LoadedScenario, file: str, units: Mapping[str, Collection[Unit]]) -> Profiles:
    scenario = loaded.scenario
    table = scenario.profiles
    needed = table.start_row + (1 if table.repeat else scenario.steps)
    return load_profiles(loaded.path(file), units, step_s=scenario.step_s, n_steps=needed)
