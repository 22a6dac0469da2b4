"""Declaring buses a microgrid: finding its branches, its loads and where it joins the grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandapower
import pandapower.topology

from heron_mqtt.errors import ConfigError
from powergrid._networks.sites import MicrogridSites, Pcc, describe_buses, resolve_bus

# The ends of every branch table by which a microgrid may join the grid.
_ENDS: Mapping[str, tuple[str, str]] = {
    "line": ("from_bus", "to_bus"),
    "trafo": ("hv_bus", "lv_bus"),
    "switch": ("bus", "element"),
}
# Branch tables that may lie inside a microgrid, or outside, but not on its border.
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
        ConfigError: A bus does not exist, its name is not unique, or it has no supply; no bus was
            named; the external grid is inside; nothing connects the buses to the rest.
    """
    where = f"microgrid '{name}'"
    inside = _chosen_buses(net, where, buses, zone)
    problems = []
    slack = inside & {int(bus) for table in ("ext_grid",) for bus in net[table].bus[net[table].in_service]}
    if slack:
        problems.append(f"{where}: {describe_buses(net, slack)} hold the external grid; leave them out")
    dead = inside & {int(bus) for bus in pandapower.topology.unsupplied_buses(net)}
    if dead:
        problems.append(f"{where}: {describe_buses(net, dead)} have no connection to an external grid")
    for table, ends in _OTHER_ENDS.items():
        crossing = [
            int(index)
            for index, row in net[table].iterrows()
            if 0 < sum(int(row[end]) in inside for end in ends) < len(ends)
        ]
        if crossing:
            problems.append(
                f"{where}: {table} {crossing} crosses its border; expected lines, two-winding transformers "
                "and bus-to-bus switches there"
            )
    pccs = tuple(_find_pccs(net, inside))
    if not (pccs or problems):
        problems.append(f"{where}: no line, transformer or switch in service connects it to the grid")
    if problems:
        raise ConfigError(*problems)
    suggested = dict.fromkeys(("generator", "battery", "pv", "load"), pccs[0].microgrid_bus)
    for kind, reference in (device_buses or {}).items():
        suggested[kind] = resolve_bus(net, reference, f"{where}, bus of the {kind}")
    if net.bus.zone.dtype != object:
        net.bus["zone"] = net.bus.zone.astype(object)
    net.bus.loc[sorted(inside), "zone"] = name
    return MicrogridSites(
        name=name,
        buses=tuple(sorted(inside)),
        lines=_touching(net, "line", inside, pccs),
        trafos=_touching(net, "trafo", inside, pccs),
        loads=tuple(int(load) for load in net.load.index[net.load.bus.isin(inside)]),
        pccs=pccs,
        device_buses=suggested,
    )


def _chosen_buses(net: Any, where: str, buses: Iterable[int | str] | None, zone: str | None) -> set[int]:
    if (buses is None) == (zone is None):
        raise ConfigError(f"{where}: name its buses or its zone, and not both")
    if zone is not None:
        chosen = {int(bus) for bus in net.bus.index[net.bus.zone.astype(object) == zone]}
        if not chosen:
            zones = sorted({str(known) for known in net.bus.zone.dropna()})
            has = f"the zones are {', '.join(zones)}" if zones else "no bus of this network has a zone"
            raise ConfigError(f"{where}: no bus is in zone '{zone}'; {has}")
        return chosen
    chosen, problems = set(), []
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


def _find_pccs(net: Any, inside: set[int]) -> Iterable[Pcc]:
    """Yield the closed, in-service branches with one end inside."""
    for table in ("trafo", "line", "switch"):
        for index, row in net[table].iterrows():
            if table == "switch":
                if row.et != "b" or not row.closed:
                    continue
            elif not row.in_service or _is_open(net, table, index):
                continue
            one, other = (int(row[end]) for end in _ENDS[table])
            if (one in inside) == (other in inside):
                continue
            grid, microgrid = (other, one) if one in inside else (one, other)
            side = "" if table == "switch" else _ENDS[table][grid == other].removesuffix("_bus")
            yield Pcc(table, int(index), grid, side, microgrid)  # type: ignore[arg-type]


def _is_open(net: Any, table: str, index: Any) -> bool:
    switches = net.switch[
        (net.switch.et == {"line": "l", "trafo": "t"}[table]) & (net.switch.element == index)
    ]
    return bool((~switches.closed.astype(bool)).any())


def _touching(
    net: Any, table: Literal["line", "trafo"], inside: set[int], pccs: Iterable[Pcc]
) -> tuple[int, ...]:
    one, other = _ENDS[table]
    within = net[table].index[net[table][one].isin(inside) & net[table][other].isin(inside)]
    return tuple(sorted({int(index) for index in within} | {pcc.index for pcc in pccs if pcc.table == table}))
