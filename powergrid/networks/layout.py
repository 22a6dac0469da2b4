"""Where microgrids go in a network, and how large their devices may be: by load, and by what it carries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from heron_mqtt.errors import ConfigError

VM_MAX_PU = 1.05
"""Planning limit of the voltage."""
MAX_RISE_PU = 0.02
"""How much devices may raise a voltage that is above ``VM_MAX_PU`` without them. It is the rule of
medium-voltage networks, 2 % (BDEW, technical guideline for plants at the medium-voltage network, 2008,
section 2.3)."""
LOADING_MAX_PERCENT = 100.0
SHARES = {"pv": 0.8, "ess": 0.25, "gen": 0.3}
"""Rated power of a device, as a share of the microgrid's nominal load."""
SPREAD = 0.2  # sizes differ by up to this much, seeded
SMALLEST_MW = 0.001
ROUNDS = 12  # of halving what the grid does not carry
LIGHT_LOAD = 0.2
"""Of nominal: when the sun is high and homes are empty. Power plants that hold voltages follow the load."""


@dataclass(frozen=True, slots=True)
class Microgrid:
    """One microgrid that is to be.

    Attributes:
        name: MG1, MG2, ...
        buses: Indices.
        device_bus: Where its devices are: the bus with the largest load.
        load_mw: Nominal, positive = consumed.
        pv_mw: Rated, 0 = the grid has no room for it.
        ess_mw: Rated.
        gen_mw: Rated.
    """

    name: str
    buses: tuple[int, ...]
    device_bus: int
    load_mw: float
    pv_mw: float
    ess_mw: float
    gen_mw: float


def laid_out(net: Any, count: int, seed: int) -> list[Microgrid]:
    """Divide a network's loads into microgrids of about equal load, and size their devices.

    Buses are taken in the order of a walk from the external grid along the feeders. So a microgrid is a part
    of one feeder where possible. Devices are halved, where the network is worst, until no voltage rises too
    high and nothing is overloaded with all of them at full power and little load.

    Args:
        net: pandapowerNet; not changed.
        count: Of microgrids, >= 1.
        seed: Of the sizes.

    Raises:
        ConfigError: The network has fewer buses with loads than microgrids are wanted, or no power-flow
            solution at little load.
    """
    loads = net.load[net.load.in_service].groupby("bus").p_mw.sum()
    outside = set(net.ext_grid.bus)
    order = [bus for bus in _walk(net) if bus in loads.index and bus not in outside and loads[bus] > 0.0]
    if len(order) < count:
        raise ConfigError(
            f"--microgrids {count}: the network has {len(order)} buses with loads; expected at most that many"
        )
    rng = random.Random(seed)  # noqa: S311 - sizes that repeat
    found = []
    for number, buses in enumerate(_shares(order, [float(loads[bus]) for bus in order], count), start=1):
        load_mw = float(sum(loads[bus] for bus in buses))
        sizes = {
            name: _rounded(share * load_mw * rng.uniform(1 - SPREAD, 1 + SPREAD))
            for name, share in SHARES.items()
        }
        largest = max(buses, key=lambda bus: (float(loads[bus]), -bus))
        found.append(
            Microgrid(f"MG{number}", tuple(buses), largest, load_mw, sizes["pv"], sizes["ess"], sizes["gen"])
        )
    return _carried(net, found)


def _walk(net: Any) -> list[int]:
    """Return the buses in the order of a depth-first walk from the external grid."""
    import networkx as nx  # type: ignore[import-untyped, unused-ignore]
    from pandapower.topology import create_nxgraph

    graph = create_nxgraph(net, multi=False)
    order: list[int] = []
    for root in net.ext_grid.bus[net.ext_grid.in_service]:
        order += [int(bus) for bus in nx.dfs_preorder_nodes(graph, root) if bus not in order]
    return order


def _shares(order: Sequence[int], load_mw: Sequence[float], count: int) -> list[list[int]]:
    """Cut a row of buses into parts of about equal load, none of them empty."""
    total, parts, done_mw = sum(load_mw), [[]], 0.0  # type: tuple[float, list[list[int]], float]
    for position, (bus, p_mw) in enumerate(zip(order, load_mw, strict=True)):
        left = len(order) - position
        is_full = done_mw >= total * len(parts) / count
        if parts[-1] and len(parts) < count and (is_full or left <= count - len(parts)):
            parts.append([])
        parts[-1].append(bus)
        done_mw += p_mw
    return parts


def _carried(net: Any, microgrids: list[Microgrid]) -> list[Microgrid]:
    """Halve devices until the grid carries all of them."""
    import copy

    import pandapower as pp

    trial = copy.deepcopy(net)
    trial.load["scaling"] = LIGHT_LOAD
    trial.gen["scaling"] = LIGHT_LOAD
    try:
        pp.runpp(trial, numba=False)
    except pp.LoadflowNotConverged:
        raise ConfigError(
            f"--network: has no power-flow solution at {LIGHT_LOAD:.0%} of its load, with which devices are "
            "sized; expected one that has"
        ) from None
    high = (trial.res_bus.vm_pu + MAX_RISE_PU).clip(lower=VM_MAX_PU)
    busy = _loading(trial)
    plants = [pp.create_sgen(trial, m.device_bus, 0.0) for m in microgrids]
    for _ in range(ROUNDS):
        for plant, m in zip(plants, microgrids, strict=True):
            trial.sgen.loc[plant, "p_mw"] = m.pv_mw + m.ess_mw + m.gen_mw
        try:
            pp.runpp(trial, numba=False)
        except pp.LoadflowNotConverged:
            microgrids = [_halved(m) for m in microgrids]
            continue
        above = trial.res_bus.vm_pu - high
        overloaded = (_loading(trial) - busy.clip(lower=LOADING_MAX_PERCENT)).max() > 1e-6
        worst = [m.name for m in microgrids if above.loc[list(m.buses)].max() > 1e-6]
        if not worst and not overloaded:
            return microgrids
        microgrids = [_halved(m) if m.name in worst or overloaded else m for m in microgrids]
    return [replace(m, pv_mw=SMALLEST_MW, ess_mw=SMALLEST_MW, gen_mw=SMALLEST_MW) for m in microgrids]


def _loading(net: Any) -> Any:
    import pandas as pd

    found = [net.res_line.loading_percent, net.res_trafo.loading_percent]
    return pd.concat(found, ignore_index=True).fillna(0)


def _halved(m: Microgrid) -> Microgrid:
    return replace(
        m, pv_mw=_rounded(m.pv_mw / 2), ess_mw=_rounded(m.ess_mw / 2), gen_mw=_rounded(m.gen_mw / 2)
    )


def _rounded(p_mw: float) -> float:
    return max(float(f"{p_mw:.2g}"), SMALLEST_MW)
