"""A network with the microgrids and devices of a scenario: built by pandapower, or compiled earlier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import NetworkModel
from powergrid.networks import (
    DeviceSite,
    GridModel,
    MicrogridSites,
    attach_devices,
    attach_microgrid,
    find_source,
    load_grid,
)
from powergrid.networks.diagram import network_model
from powergrid.powerflow import CompiledNetwork
from powergrid.scenario import LoadedScenario, Scenario
from powergrid.simulation.attempts import Attempts

__all__ = ["CompiledGrid", "GridStore", "PlacedGrid", "Placement", "network_source", "placed_grid"]


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which elements of a network belong to which microgrid and device; numbers are pandapower indices.

    Attributes:
        sites: Microgrid -> its buses, lines, transformers, loads and connections to the grid.
        devices: (microgrid, device) -> (pandapower table, index).
        load_index: Index of the load table, in its order.
        load_customers: Kind of customer of each of these loads; None = the network names none.
        bus_names: In the order of the bus table.
    """

    sites: Mapping[str, MicrogridSites]
    devices: Mapping[tuple[str, str], tuple[str, int]]
    load_index: tuple[int, ...]
    load_customers: tuple[str | None, ...]
    bus_names: tuple[str, ...]


class CompiledGrid(NamedTuple):
    """A compiled grid: it can be used without importing pandapower.

    Attributes:
        placement: Which elements belong to which microgrid and device.
        network: As plain arrays.
        drawing: The network as a drawing; None if it is too large for one.
    """

    placement: Placement
    network: CompiledNetwork
    drawing: NetworkModel | None


class GridStore(Protocol):
    """A cache of compiled grids; ``grid_cache.GridCache`` is one."""

    def key(self, loaded: LoadedScenario) -> str | None:
        """Return the key of a scenario's grid: a hash of all that it depends on; None if unknown."""

    def find(self, key: str) -> CompiledGrid | None:
        """Return the grid with this key; None if there is none."""

    def keep(self, key: str, grid: CompiledGrid) -> None:
        """Store a grid with this key if possible."""


class PlacedGrid:
    """A network with microgrids and devices, as a pandapowerNet and as plain arrays.

    Each form is made at its first use. So a grid that was compiled earlier does not import pandapower.

    Args:
        loaded: The scenario.
        placement: Which elements belong to which microgrid and device.
        net: pandapowerNet with the devices attached; None = not built yet.
        known: The compiled grid; None = not compiled yet.
        cache: Stores the grid after it is compiled; None = it is not stored.
        key: Its key in the cache, taken before it was built.
    """

    def __init__(
        self,
        loaded: LoadedScenario,
        placement: Placement,
        *,
        net: Any = None,
        known: CompiledGrid | None = None,
        cache: GridStore | None = None,
        key: str | None = None,
    ) -> None:
        self.placement = placement
        self._loaded, self._cache, self._key = loaded, cache, key
        self._net, self._known = net, known

    @property
    def net(self) -> Any:
        """The pandapowerNet.

        Raises:
            ConfigError: The grid was compiled earlier and can no longer be built.
        """
        if self._net is None:
            attempt = Attempts(self._loaded.source)
            self._net = placed_grid(self._loaded, attempt).net
            attempt.raise_problems()
        return self._net

    def compiled(self) -> CompiledNetwork:
        """Return the network as plain arrays.

        Raises:
            UnsupportedElement, PowerFlowError: See ``powergrid.powerflow.compile_network``.
        """
        if self._known is None:
            from powergrid.powerflow import compile_network  # pandapower takes a second to import

            network = compile_network(self.net, self._loaded.scenario.network.tolerance_mva)
            self._known = CompiledGrid(self.placement, network, self._drawn())
            self._keep(self._known)
        return self._known.network

    def _keep(self, grid: CompiledGrid) -> None:
        """Store it, unless a file changed while it was built: then it may not fit its key."""
        if self._cache is None or self._key is None:
            return
        if self._cache.key(self._loaded) == self._key:
            self._cache.keep(self._key, grid)

    def drawing(self) -> NetworkModel | None:
        """Return the network as a drawing; None if it is too large for one."""
        return self._drawn() if self._known is None else self._known.drawing

    def _drawn(self) -> NetworkModel | None:
        agents = {bus: name for name, sites in self.placement.sites.items() for bus in sites.buses}
        devices = [
            (f"{agent}/{name}", table.spec.kind, self._bus_of(agent, name))
            for agent, microgrid in self._loaded.scenario.microgrids.items()
            for name, table in microgrid.devices.items()
        ]
        return network_model(self.net, agents, devices)

    def _bus_of(self, agent: str, device: str) -> int:
        table, index = self.placement.devices[agent, device]
        return int(self.net[table].bus.at[index])


def placed_grid(loaded: LoadedScenario, attempt: Attempts, cache: GridStore | None = None) -> PlacedGrid:
    """Return a scenario's network with its microgrids and devices: from the cache, or built.

    Args:
        loaded: The scenario.
        attempt: Collects the problems; the grid is only valid if there are none.
        cache: Searched first; stores the grid after it is compiled. None = the network is built.

    Raises:
        ConfigError: There is no such network.
    """
    grid_key = None if cache is None else cache.key(loaded)
    if cache is not None and grid_key is not None and (known := cache.find(grid_key)) is not None:
        return PlacedGrid(loaded, known.placement, known=known)
    scenario = loaded.scenario
    grid = attempt("network.source", lambda: load_grid(network_source(loaded)))
    if grid is None:
        attempt.raise_problems()
        raise AssertionError("unreachable: without a grid there is a problem")
    sites: dict[str, MicrogridSites] = {}
    for name, table in scenario.microgrids.items():
        key = f"microgrids.{name}" if table.buses is None else f"microgrids.{name}.buses"
        found = attempt(key, partial(_sites, grid, name, table.buses))
        if found is not None:
            sites[name] = found
    attempt("microgrids", lambda: GridModel(grid.net, sites))
    devices = _place_devices(scenario, grid, sites, attempt)
    load = grid.net.load
    customers = load["customer"] if "customer" in load else [None] * len(load)
    placement = Placement(
        sites=sites,
        devices=devices,
        load_index=tuple(int(index) for index in load.index),
        load_customers=tuple(text if isinstance(text, str) and text else None for text in customers),
        bus_names=tuple(str(name) for name in grid.net.bus.name),
    )
    return PlacedGrid(loaded, placement, net=grid.net, cache=cache, key=grid_key)


def network_source(loaded: LoadedScenario) -> str | Path:
    """Return the network that a scenario names: a name, or the path of a file."""
    source = loaded.scenario.network.source
    found = find_source(source)
    return loaded.path(source) if found is not None and found.is_file(source) else source


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
    scenario: Scenario, grid: GridModel, sites: Mapping[str, MicrogridSites], attempt: Attempts
) -> dict[tuple[str, str], tuple[str, int]]:
    placed: dict[tuple[str, str], tuple[str, int]] = {}
    for name, found in sites.items():
        for device, table in scenario.microgrids[name].devices.items():
            kind = table.spec.kind
            bus = found.device_buses.get(kind, found.busbar) if table.bus is None else table.bus
            site = DeviceSite(f"{name}/{device}", kind, bus)
            done = attempt(
                f"microgrids.{name}.devices.{device}.bus", partial(attach_devices, grid.net, [site])
            )
            if done is not None:
                placed[name, device] = done[site.name]
    return placed
