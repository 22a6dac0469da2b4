"""A network with a scenario's microgrids and devices in it: built anew, or known from before."""

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

__all__ = ["KnownGrid", "KnownGrids", "PlacedGrid", "Placement", "network_source", "placed_grid"]


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """What of a network is whose; all numbers are pandapower indices.

    Attributes:
        sites: By microgrid.
        devices: (microgrid, device) -> (pandapower table, index).
        load_index: Of the load table, in its order.
        load_customers: Kind of customer of each of these loads; None = none is named.
        bus_names: In the order of the bus table.
    """

    sites: Mapping[str, MicrogridSites]
    devices: Mapping[tuple[str, str], tuple[str, int]]
    load_index: tuple[int, ...]
    load_customers: tuple[str | None, ...]
    bus_names: tuple[str, ...]


class KnownGrid(NamedTuple):
    """A grid that needs no pandapower.

    Attributes:
        placement: What of the network is whose.
        network: As plain arrays.
        drawing: The network as a drawing; None if it is too large for one.
    """

    placement: Placement
    network: CompiledNetwork
    drawing: NetworkModel | None


class KnownGrids(Protocol):
    """What may know a scenario's grid from before; ``grid_cache.GridCache`` is one."""

    def key(self, loaded: LoadedScenario) -> str | None:
        """Return a name for all that decides the grid of a scenario now; None if nobody can tell."""

    def find(self, key: str) -> KnownGrid | None:
        """Return the grid of that name; None if it is not known."""

    def keep(self, key: str, grid: KnownGrid) -> None:
        """Keep a grid by that name if possible."""


class PlacedGrid:
    """A network with microgrids and devices, as pandapower has it and as plain arrays.

    Either is made when it is asked for, if it is not there: so a grid that was compiled before needs no
    pandapower.

    Args:
        loaded: The scenario.
        placement: What of the network is whose.
        net: pandapowerNet with the devices attached; None = not built yet.
        known: The grid as it is known from before; None = it is not.
        cache: What keeps it, once it is compiled.
        key: By which name it does; as of before it was built.
    """

    def __init__(
        self,
        loaded: LoadedScenario,
        placement: Placement,
        *,
        net: Any = None,
        known: KnownGrid | None = None,
        cache: KnownGrids | None = None,
        key: str | None = None,
    ) -> None:
        self.placement = placement
        self._loaded, self._cache, self._key = loaded, cache, key
        self._net, self._known = net, known

    @property
    def net(self) -> Any:
        """The pandapowerNet.

        Raises:
            ConfigError: It was known from before, and cannot be built any more.
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
            self._known = KnownGrid(self.placement, network, self._drawn())
            self._keep(self._known)
        return self._known.network

    def _keep(self, grid: KnownGrid) -> None:
        """Have it kept, unless a file has changed since: nobody knows of which content it is then."""
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


def placed_grid(loaded: LoadedScenario, attempt: Attempts, cache: KnownGrids | None = None) -> PlacedGrid:
    """Build a scenario's network, and find its microgrids and put its devices there.

    Args:
        loaded: The scenario.
        attempt: Takes what is wrong; the grid is of use only if nothing is.
        cache: What may know the grid from before, and keeps it otherwise; None = it is built.

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
        raise AssertionError("unreachable: a grid that was not built is a problem")
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
