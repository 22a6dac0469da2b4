"""The networks shipped with the project; docs/profiles.md has them as a table."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pandapower
import pandapower.networks
import pandapower.toolbox

from powergrid.networks.membership import attach_microgrid
from powergrid.networks.sites import GRID_ZONE, GridModel

_CIGRE_CUSTOMERS = {"R": "residential", "I": "industrial", "C": "commercial", "CI": "commercial"}


def cigre_mv_lv() -> GridModel:
    """Return CIGRE's medium-voltage grid with CIGRE's three low-voltage feeders below it.

    The feeders keep their own 20/0.4 kV transformers and loads, which add to the benchmark's loads:

    - **MG1**, residential (0.5 MVA), at MV bus 14, the far end of feeder 2, which serves households.
    - **MG2**, industrial (0.15 MVA), at MV bus 2, on the trunk of feeder 1, where the benchmark has no
      customer: a works next to the substation.
    - **MG3**, commercial (0.3 MVA), at MV bus 12, the head of feeder 2.

    The rest of feeder 1 is at 0.92 to 0.93 pu with every load of the benchmark at its peak, which leaves
    too little for the 6 to 9 % that the low-voltage feeders lose. All electrical data are CIGRE's.

    Source: CIGRE Task Force C6.04.02, "Benchmark Systems for Network Integration of Renewable and
    Distributed Energy Resources", 2014, as in ``pandapower.networks``.
    """
    feeders = pandapower.networks.create_cigre_network_lv()
    feeders.load["customer"] = [_cigre_customer(name) for name in feeders.load.name]
    feeders.switch = feeders.switch.drop(feeders.switch.index)
    feeders.ext_grid = feeders.ext_grid.drop(feeders.ext_grid.index)
    feeders.bus = feeders.bus.drop(_index(feeders.bus, "Bus 0"))
    places = (("MG1", "R", "Bus 14"), ("MG2", "I", "Bus 2"), ("MG3", "C", "Bus 12"))
    for name, letter, _ in places:
        feeders.bus.loc[feeders.bus.name.str.startswith(f"Bus {letter}"), "zone"] = name
        own = feeders.load.name.str.startswith(f"Load {letter}")
        feeders.load.loc[own, "name"] = f"{name} " + feeders.load.name[own]  # MV has a "Load R1" too

    net = _merge(_cigre_mv(), feeders)
    for name, letter, mv_bus in places:
        # The transformer leaves the 20 kV bus it has in the low-voltage benchmark for its place in the grid.
        trafo = _index(net.trafo, f"Trafo {letter}0-{letter}1")
        net.bus = net.bus.drop(net.trafo.hv_bus[trafo])
        net.trafo.loc[trafo, "hv_bus"] = _index(net.bus, mv_bus)
        _add_breaker(net, name, trafo)
    pandapower.toolbox.create_continuous_bus_index(net)
    device_buses = {
        "MG1": {"generator": "Bus R1", "battery": "Bus R10", "pv": "Bus R6"},
        "MG2": {"generator": "Bus I1", "battery": "Bus I2", "pv": "Bus I2"},
        "MG3": {"generator": "Bus C1", "battery": "Bus C5", "pv": "Bus C3"},
    }
    return _with_microgrids(net, device_buses)


def three_case33bw_on_cigre_mv() -> GridModel:
    """Return CIGRE's medium-voltage grid with three 12.66 kV feeders of the megawatt class below it.

    Each microgrid is the 33-bus feeder of Baran and Wu with three quarters of its load, 2.79 MW and
    1.73 Mvar, and without its five open tie lines, below a 20/12.66 kV transformer of 6.3 MVA:

    - **MG1** at MV bus 1 and **MG2** at MV bus 12, the busbars of the two substations.
    - **MG3** at MV bus 13, 4.9 km out on the overhead line of feeder 2.

    The lumped loads ``Load R1`` and ``Load R12`` stand for the other feeders of their substations; they
    are reduced by the microgrids' active power, so that the substations carry what they do in the
    benchmark. With the whole load of Baran and Wu, whose own feeder ends at 0.913 pu, no fixed tap keeps
    MG3 between 0.9 and 1.1 pu from no load to full load.

    Source of the transformer: rating and ``vk_percent`` are the step and the least impedance of
    IEC 60076-5:2006, table 1; losses typical of the size; taps as pandapower's "0.63 MVA 20/0.4 kV".
    Source of the line ratings, which Baran and Wu do not give: 400 A up to bus 10 and 200 A elsewhere,
    as usual in studies of this feeder.

    Source: M. Baran and F. Wu, "Network reconfiguration in distribution systems for loss reduction and
    load balancing", IEEE Trans. Power Delivery 4 (2), 1989, as in ``pandapower.networks``; CIGRE as in
    :func:`cigre_mv_lv`.
    """
    net = _cigre_mv()
    original = pandapower.networks.case33bw()
    places = (
        ("MG1", "residential", "Bus 1", "Load R1", -1),
        ("MG2", "industrial", "Bus 12", "Load R12", -1),
        ("MG3", "commercial", "Bus 13", "Load R12", -2),
    )
    for name, customer, mv_bus, lumped_load, tap_pos in places:
        feeder = _feeder(original, name, customer)
        load = _index(net.load, lumped_load)
        rest = net.load.p_mw[load] - feeder.load.p_mw.sum()
        net.load.loc[load, ["p_mw", "q_mvar"]] *= rest / net.load.p_mw[load]
        net = _merge(net, feeder)
        trafo = pandapower.create_transformer_from_parameters(
            net,
            hv_bus=_index(net.bus, mv_bus),
            lv_bus=_index(net.bus, f"{name} Bus 1"),
            name=f"{name} Trafo",
            sn_mva=6.3,
            vn_hv_kv=20.0,
            vn_lv_kv=12.66,
            vk_percent=7.0,
            vkr_percent=0.7,
            pfe_kw=6.0,
            i0_percent=0.1,
            shift_degree=0.0,
            tap_side="hv",
            tap_neutral=0,
            tap_min=-2,
            tap_max=2,
            tap_step_percent=2.5,
            tap_pos=tap_pos,
            tap_changer_type="Ratio",
        )
        _add_breaker(net, name, trafo)
    device_buses = {
        name: {"generator": f"{name} Bus 6", "battery": f"{name} Bus 18", "pv": f"{name} Bus 30"}
        for name, *_ in places
    }
    return _with_microgrids(net, device_buses)


def _cigre_mv() -> Any:
    net = pandapower.networks.create_cigre_network_mv()
    net.bus["zone"] = GRID_ZONE
    net.load["customer"] = [_cigre_customer(name) for name in net.load.name]
    return net


def _cigre_customer(load: str) -> str:
    """Return the customers of a CIGRE load from its name (``"Load CI14"``)."""
    return _CIGRE_CUSTOMERS[load.removeprefix("Load ").rstrip("0123456789")]


def _feeder(case33bw: Any, name: str, customer: str) -> Any:
    """Return the 33-bus feeder as one microgrid: without its source, and named as its authors number it."""
    net = copy.deepcopy(case33bw)
    for table in ("ext_grid", "poly_cost"):
        net[table] = net[table].drop(net[table].index)
    net.line = net.line[net.line.in_service]
    net.bus["name"] = [f"{name} Bus {bus + 1}" for bus in net.bus.index]
    net.bus["zone"] = name
    net.line["name"] = [
        f"{name} Line {a + 1}-{b + 1}" for a, b in zip(net.line.from_bus, net.line.to_bus, strict=True)
    ]
    net.line["max_i_ka"] = [0.4 if bus < 10 else 0.2 for bus in net.line.to_bus]
    net.load["name"] = [f"{name} Load {bus + 1}" for bus in net.load.bus]
    net.load["customer"] = customer
    net.load[["p_mw", "q_mvar"]] *= 0.75
    return net


def _merge(net: Any, part: Any) -> Any:
    """Return ``net`` with the elements of ``part`` behind its own, in their order."""
    # merge_nets() alone moves just the indices that collide, and so mixes the order of the elements.
    pandapower.toolbox.create_continuous_bus_index(part, start=int(net.bus.index.max()) + 1)
    for table in ("line", "trafo", "load"):
        first = int(net[table].index.max()) + 1
        pandapower.toolbox.reindex_elements(part, table, range(first, first + len(part[table])))
    return pandapower.toolbox.merge_nets(
        net, part, validate=False, merge_results=False, net2_reindex_log_level=None
    )


def _add_breaker(net: Any, name: str, trafo: int) -> None:
    hv_bus = net.trafo.hv_bus[trafo]
    pandapower.create_switch(net, hv_bus, trafo, et="t", closed=True, type="CB", name=f"{name} PCC")


def _with_microgrids(net: Any, device_buses: Mapping[str, Mapping[str, int | str]]) -> GridModel:
    return GridModel(
        net,
        {
            name: attach_microgrid(net, name, zone=name, device_buses=buses)
            for name, buses in device_buses.items()
        },
    )


def _index(table: Any, name: str) -> int:
    (index,) = table.index[table.name == name]
    return int(index)
