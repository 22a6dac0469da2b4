"""From a scenario to what it names: network, microgrids, devices, loads, series; every problem at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from heron_mqtt.errors import ConfigError, DataError
from powergrid.networks import (
    DeviceSite,
    GridModel,
    MicrogridSites,
    attach_devices,
    attach_microgrid,
    load_grid,
)
from powergrid.profiles import Profiles, Unit, load_profiles
from powergrid.scenario import LoadedScenario, LoadProfile, Scenario

T = TypeVar("T")


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
        net: pandapowerNet with the devices attached.
        sites: By microgrid.
        devices: (microgrid, device) -> (pandapower table, index).
        loads: One entry a load, in the order of ``net.load``.
        profiles: Columns of loads and PV, per unit.
        prices: Column of the price, $/MWh.
    """

    loaded: LoadedScenario
    net: Any
    sites: Mapping[str, MicrogridSites]
    devices: Mapping[tuple[str, str], tuple[str, int]]
    loads: tuple[LoadSeries, ...]
    profiles: Profiles | None
    prices: Profiles


def build(loaded: LoadedScenario) -> Blueprint:
    """Find and check everything that a scenario names.

    Raises:
        ConfigError: One line for each problem: scenario, key and what was expected; for data files with
            row and column.
    """
    scenario = loaded.scenario
    attempt = _Attempts(loaded.source)
    prices = attempt("profiles.price_file", lambda: _prices(loaded))
    grid = attempt("network.source", lambda: load_grid(_network_source(loaded)))
    if grid is None:
        attempt.raise_problems()
        raise AssertionError("unreachable: a grid that was not built is a problem")
    sites: dict[str, MicrogridSites] = {}
    for name, table in scenario.microgrids.items():
        key = f"microgrids.{name}" if table.buses is None else f"microgrids.{name}.buses"
        found = attempt(key, partial(_sites, grid, name, table.buses))
        if found is not None:
            sites[name] = found
    attempt("microgrids", lambda: GridModel(grid.net, sites))
    devices = _place_devices(scenario, grid, sites, attempt)
    loads = _load_series(scenario, grid, sites)
    columns = _columns(scenario, loads)
    profiles = attempt("profiles.file", lambda: _profiles(loaded, columns)) if columns else None
    attempt.raise_problems()
    assert prices is not None
    return Blueprint(loaded, grid.net, sites, devices, loads, profiles, prices)


class _Attempts:
    """Collects what is wrong, so that a user sees all of it at once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: list[str] = []

    def __call__(self, key: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except ConfigError as exc:
            self._problems += [f"{self._source}: {key}: {problem}" for problem in exc.problems]
            return None

    def raise_problems(self) -> None:
        if self._problems:
            raise ConfigError(*dict.fromkeys(self._problems))


def _network_source(loaded: LoadedScenario) -> str | Path:
    source = loaded.scenario.network.source
    return loaded.path(source) if source.endswith(".json") else source


def _sites(grid: GridModel, name: str, buses: list[str | int] | None) -> MicrogridSites:
    if buses is not None:
        return attach_microgrid(grid.net, name, buses=buses)
    if name in grid.microgrids:
        return grid.microgrids[name]
    if (grid.net.bus.zone == name).any():
        return attach_microgrid(grid.net, name, zone=name)
    known = ", ".join(grid.microgrids) or "none"
    raise ConfigError(
        f"the network has no microgrid of that name (it has: {known}); name its buses: buses = [...]"
    )


def _place_devices(
    scenario: Scenario, grid: GridModel, sites: Mapping[str, MicrogridSites], attempt: _Attempts
) -> dict[tuple[str, str], tuple[str, int]]:
    placed: dict[tuple[str, str], tuple[str, int]] = {}
    for name, found in sites.items():
        for device, table in scenario.microgrids[name].devices.items():
            kind = table.spec.kind
            bus = found.device_buses[kind] if table.bus is None else table.bus
            site = DeviceSite(f"{name}/{device}", kind, bus)
            done = attempt(
                f"microgrids.{name}.devices.{device}.bus", partial(attach_devices, grid.net, [site])
            )
            if done is not None:
                placed[name, device] = done[site.name]
    return placed


def _load_series(
    scenario: Scenario, grid: GridModel, sites: Mapping[str, MicrogridSites]
) -> tuple[LoadSeries, ...]:
    owner = {load: name for name, found in sites.items() for load in found.loads}
    table = grid.net.load
    customers = table["customer"] if "customer" in table else [None] * len(table)
    series = []
    for index, customer in zip(table.index, customers, strict=True):
        name = owner.get(int(index))
        profile: LoadProfile = scenario.network.loads if name is None else scenario.microgrids[name].loads
        follows = customer if isinstance(customer, str) and customer else None
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
