"""Declaring buses a microgrid: finding its branches, its loads and where it joins the grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from heron_mqtt.errors import ConfigError
from powergrid.devices import DEVICES
from powergrid.networks.sites import MicrogridSites, Pcc, describe_buses, resolve_bus

# Branches by which a microgrid may join the grid: the columns of their ends, and what the ends are called.
_ENDS: Mapping[Literal["trafo", "line"], Mapping[str, Literal["hv", "lv", "from", "to"]]] = {
    "trafo": {"hv_bus": "hv", "lv_bus": "lv"},
    "line": {"from_bus": "from", "to_bus": "to"},
}
# Branches that may lie inside a microgrid or outside, but not on its border.
_OTHER_ENDS: Mapping[str, tuple[str, ...]] = {
    "trafo3w": ("hv_bus", "mv_bus", "lv_bus"),
    "impedance": ("from_bus", "to_bus"),
    "dcline": ("from_bus", "to_bus"),
}


def attach_microgrid(
    net: Any,
    name: str,
    *,
    buses: Iterable[int | str] | None = None,
    zone: str | None = None,
    device_buses: Mapping[str, int | str] | None = None,
) -> MicrogridSites:
    """Declare buses of ``net`` a microgrid: write ``name`` into their ``zone`` and find what is theirs.

    Args:
        net: pandapowerNet; only ``net.bus.zone`` is changed.
        name: Name of the microgrid.
        buses: Its buses, by index or name. Give either this or ``zone``.
        zone: The buses are those with this ``net.bus.zone``.
        device_buses: Suggested bus by kind of device; a kind left out is put at the busbar.

    Raises:
        ConfigError: Everything found of: a bus does not exist, its name is not unique, or it has no
            supply; no bus was named; the external grid is inside; nothing connects the buses to the
            rest; a device bus is outside. Then nothing was changed.
    """
    where = f"microgrid '{name}'"
    inside = _chosen_buses(net, where, buses, zone)
    pccs = tuple(_find_pccs(net, inside))
    problems = list(_problems(net, where, inside))
    if not (pccs or problems):
        problems.append(f"{where}: no line or transformer in service connects it to the rest of the grid")
    suggested: dict[str, int] = dict.fromkeys(DEVICES, pccs[0].microgrid_bus if pccs else 0)
    for kind, reference in (device_buses or {}).items():
        try:
            bus = resolve_bus(net, reference, f"{where}, bus of the {kind}")
        except ConfigError as exc:
            problems += exc.problems
            continue
        if kind not in DEVICES:
            problems.append(f"{where}: unknown kind of device '{kind}'; expected {', '.join(DEVICES)}")
        elif bus not in inside:
            problems.append(f"{where}: {describe_buses(net, [bus])}, for the {kind}, is not inside")
        else:
            suggested[kind] = bus
    if problems:
        raise ConfigError(*problems)
    net.bus["zone"] = net.bus.zone.astype(object)  # an empty column may have been read as numbers
    net.bus.loc[sorted(inside), "zone"] = name
    return MicrogridSites(
        name=name,
        buses=tuple(sorted(inside)),
        lines=_within(net, "line", inside, pccs),
        trafos=_within(net, "trafo", inside, pccs),
        loads=tuple(int(load) for load in net.load.index[net.load.bus.isin(inside)]),
        pccs=pccs,
        device_buses=suggested,
    )


def _chosen_buses(net: Any, where: str, buses: Iterable[int | str] | None, zone: str | None) -> set[int]:
    if (buses is None) == (zone is None):
        raise ConfigError(f"{where}: name its buses or its zone, and not both")
    if zone is not None:
        zones = {int(bus): str(known) for bus, known in net.bus.zone.dropna().items()}
        chosen = {bus for bus, known in zones.items() if known == zone}
        if not chosen:
            has = f"the zones are {', '.join(sorted(set(zones.values())))}" if zones else "no bus has a zone"
            raise ConfigError(f"{where}: no bus is in zone '{zone}'; {has}")
        return chosen
    chosen = set()
    problems: list[str] = []
    for reference in buses or ():
        try:
            chosen.add(resolve_bus(net, reference, where))
        except ConfigError as exc:
            problems += exc.problems
    if not (chosen or problems):
        problems.append(f"{where}: has no buses; name at least one")
    if problems:
        raise ConfigError(*problems)
    return chosen


def _problems(net: Any, where: str, inside: set[int]) -> Iterator[str]:
    import pandapower.topology  # a second, and nothing else here needs it

    slack = inside & set(net.ext_grid.bus[net.ext_grid.in_service])
    if slack:
        yield f"{where}: {describe_buses(net, slack)}: the external grid is there; leave it out"
    dead = inside & set(pandapower.topology.unsupplied_buses(net))
    if dead:
        yield f"{where}: {describe_buses(net, dead)}: no connection to an external grid"
    for table, ends in _OTHER_ENDS.items():
        ends_inside = sum(net[table][end].isin(inside).astype(int) for end in ends)
        crossing = [int(index) for index in net[table].index[(ends_inside > 0) & (ends_inside < len(ends))]]
        if crossing:
            allowed = "only lines and two-winding transformers may"
            yield f"{where}: {table} {crossing} crosses its border; {allowed}"
    switches = net.switch[(net.switch.et == "b") & net.switch.closed.astype(bool)]
    for _, switch in switches[switches.bus.isin(inside) != switches.element.isin(inside)].iterrows():
        pair = describe_buses(net, [switch.bus, switch.element])
        # Buses joined by a switch are one node to the power flow: no power between them can be told.
        yield f"{where}: its border runs through a closed switch between {pair}; take both or neither"


def _find_pccs(net: Any, inside: set[int]) -> Iterator[Pcc]:
    """Yield the branches in service, and not open, with one end inside."""
    for table, ends in _ENDS.items():
        one, other = ends
        branches = net[table]
        open_at = net.switch.element[(net.switch.et == table[0]) & ~net.switch.closed.astype(bool)]
        branches = branches[branches.in_service & ~branches.index.isin(open_at)]
        branches = branches[branches[one].isin(inside) != branches[other].isin(inside)]
        for index, row in branches.iterrows():
            grid_end, microgrid_end = (other, one) if row[one] in inside else (one, other)
            yield Pcc(table, int(index), int(row[grid_end]), ends[grid_end], int(row[microgrid_end]))


def _within(
    net: Any, table: Literal["line", "trafo"], inside: set[int], pccs: Iterable[Pcc]
) -> tuple[int, ...]:
    """Return the branches with both ends inside, and those to the grid."""
    one, other = _ENDS[table]
    within = net[table].index[net[table][one].isin(inside) & net[table][other].isin(inside)]
    return tuple(sorted({int(index) for index in within} | {pcc.index for pcc in pccs if pcc.table == table}))
