"""What of a network belongs to which microgrid, and how a bus is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from heron_mqtt.errors import ConfigError

GRID_ZONE = "grid"
"""``net.bus.zone`` of the buses of a shipped network that belong to no microgrid."""


@dataclass(frozen=True)
class Pcc:
    """One branch by which a microgrid joins the grid: its point of common coupling.

    Attributes:
        table: Table of the branch.
        index: Its index in that table.
        grid_bus: Bus at its grid end. Power into the branch at this end is what the microgrid draws.
        grid_side: Its grid end in the names of result columns: ``p_<grid_side>_mw``.
        microgrid_bus: Bus at its microgrid end.
    """

    table: Literal["line", "trafo"]
    index: int
    grid_bus: int
    grid_side: Literal["from", "to", "hv", "lv"]
    microgrid_bus: int


@dataclass(frozen=True)
class MicrogridSites:
    """What of a network belongs to one microgrid; all numbers are pandapower indices.

    Attributes:
        name: Name of the microgrid, also the ``zone`` of its buses.
        buses: Buses inside, in ascending order.
        lines, trafos: Branches with both ends inside, and those of ``pccs``.
        loads: Loads at those buses.
        pccs: Branches to the grid, at least one; transformers first, then lines.
        device_buses: Suggested bus of a device by its kind; ``busbar`` for others.
    """

    name: str
    buses: tuple[int, ...]
    lines: tuple[int, ...]
    trafos: tuple[int, ...]
    loads: tuple[int, ...]
    pccs: tuple[Pcc, ...]
    device_buses: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device_buses", MappingProxyType(dict(self.device_buses)))

    @property
    def pcc_bus(self) -> int:
        """Bus of the grid that the microgrid hangs on (at its first ``Pcc``)."""
        return self.pccs[0].grid_bus

    @property
    def busbar(self) -> int:
        """Bus of the microgrid next to the grid (at its first ``Pcc``)."""
        return self.pccs[0].microgrid_bus


@dataclass(frozen=True, eq=False)
class GridModel:
    """A network and the microgrids in it.

    Attributes:
        net: pandapowerNet. Loads may have a ``customer`` (``residential``, ``industrial``,
            ``commercial``): the kind of profile they should follow.
        microgrids: By name, in the order given.

    Raises:
        ConfigError: A bus belongs to two microgrids, or a key is not the microgrid's own name.
    """

    net: Any
    microgrids: Mapping[str, MicrogridSites]

    def __post_init__(self) -> None:
        owner: dict[int, str] = {}
        problems = []
        for name, sites in self.microgrids.items():
            if name != sites.name:
                problems.append(f"microgrid '{name}': its sites are those of '{sites.name}'")
            shared: dict[str, list[int]] = {}
            for bus in sites.buses:
                if owner.setdefault(bus, name) != name:
                    shared.setdefault(owner[bus], []).append(bus)
            problems += [
                f"microgrid '{name}': {describe_buses(self.net, buses)} also belong to '{other}'; "
                "a bus belongs to one microgrid"
                for other, buses in shared.items()
            ]
        if problems:
            raise ConfigError(*problems)
        object.__setattr__(self, "microgrids", MappingProxyType(dict(self.microgrids)))

    @property
    def background_loads(self) -> tuple[int, ...]:
        """Loads that belong to no microgrid."""
        owned = {load for sites in self.microgrids.values() for load in sites.loads}
        return tuple(int(load) for load in self.net.load.index if load not in owned)


def resolve_bus(net: Any, reference: int | str, where: str) -> int:
    """Return the index of a bus given by index or by name.

    Args:
        net: pandapowerNet.
        reference: Index in ``net.bus``, or a name that one bus has.
        where: What asks, for the message (``"scenario.toml, microgrids.MG1.bus"``).

    Raises:
        ConfigError: No such bus, or several of that name.
    """
    if isinstance(reference, str):
        names = [str(bus_name) for bus_name in net.bus.name]
        found = [
            int(index) for index, bus_name in zip(net.bus.index, names, strict=True) if bus_name == reference
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{where}: {len(found)} buses are named '{reference}'; use an index of {found}")
        close = difflib.get_close_matches(reference, names, n=3)
        hint = (
            f"did you mean {' or '.join(repr(match) for match in close)}?" if close else _known_buses(names)
        )
        raise ConfigError(f"{where}: no bus is named '{reference}'; {hint}")
    if isinstance(reference, bool) or reference not in net.bus.index:
        first, last = net.bus.index.min(), net.bus.index.max()
        raise ConfigError(f"{where}: no bus has index {reference}; the indices are {first} to {last}")
    return int(reference)


def describe_buses(net: Any, buses: Iterable[int]) -> str:
    """Return names for a message: ``bus 'Bus 4'``, or the first five of many."""
    names = [f"'{net.bus.name[bus]}'" for bus in sorted(buses)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"bus{'es' if len(names) > 1 else ''} {', '.join(names[:5])}{more}"


def _known_buses(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are {', '.join(repr(name) for name in names[:10])}{more}"
