"""The shipped networks: they solve, their voltages are plausible, and everything in them has its owner."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.topology
import pandas as pd
import pytest

from powergrid.devices import DEVICES
from powergrid.networks import GRID_ZONE, GridModel, load_grid, load_network
from powergrid.networks.sources import SHIPPED_NETWORKS

NAMES = ("MG1", "MG2", "MG3")


@cache
def _built(name: str) -> GridModel:
    return load_grid(name)


@pytest.fixture(params=SHIPPED_NETWORKS)
def grid(request: pytest.FixtureRequest) -> GridModel:
    """Shared: a test that changes the network copies it first."""
    return _built(request.param)


def solve(net: Any) -> Any:
    pp.runpp(net, numba=False)
    return net


@pytest.mark.slow_but("cigre_mv_lv")
def test_voltages_are_plausible_from_full_load_to_no_load(grid: GridModel) -> None:
    net = copy.deepcopy(grid.net)
    for scaling in (1.0, 0.5, 0.0):
        net.load["scaling"] = scaling
        solve(net)
        assert len(net.res_bus) == len(net.bus)
        assert net.res_bus.vm_pu.between(0.9, 1.1).all(), scaling
        assert net.res_line.loading_percent.max() <= 100.0
        assert net.res_trafo.loading_percent.max() <= 105.0


def test_each_microgrid_has_loads_and_exactly_one_transformer_to_the_grid(grid: GridModel) -> None:
    assert tuple(grid.microgrids) == NAMES
    for sites in grid.microgrids.values():
        assert sites.loads
        (pcc,) = sites.pccs
        assert (pcc.table, pcc.grid_side) == ("trafo", "hv")
        assert pcc.index in sites.trafos
        assert grid.net.trafo.hv_bus[pcc.index] == pcc.grid_bus == sites.pcc_bus
        assert grid.net.trafo.lv_bus[pcc.index] == pcc.microgrid_bus == sites.busbar
        assert sites.pcc_bus not in sites.buses
        assert sites.busbar in sites.buses


def test_a_microgrid_is_cut_off_when_its_breaker_opens_and_nothing_else_is(grid: GridModel) -> None:
    net = copy.deepcopy(grid.net)
    for name, sites in grid.microgrids.items():
        breaker = net.switch.name == f"{name} PCC"
        assert breaker.sum() == 1
        net.switch.loc[breaker, "closed"] = False
        assert pandapower.topology.unsupplied_buses(net) == set(sites.buses)
        net.switch.loc[breaker, "closed"] = True


def test_every_bus_line_and_load_belongs_to_one_microgrid_or_the_grid(grid: GridModel) -> None:
    net = grid.net
    assert set(net.bus.zone) == {*NAMES, GRID_ZONE}
    for name, sites in grid.microgrids.items():
        assert set(net.bus.index[net.bus.zone == name]) == set(sites.buses)
        assert set(net.load.bus[list(sites.loads)]) <= set(sites.buses)
        ends = net.line.loc[list(sites.lines), ["from_bus", "to_bus"]].to_numpy()
        assert set(ends.ravel()) <= set(sites.buses)
    owned = [load for sites in grid.microgrids.values() for load in sites.loads]
    assert sorted([*owned, *grid.background_loads]) == sorted(net.load.index)


def test_suggested_device_buses_lie_inside_their_microgrid(grid: GridModel) -> None:
    for sites in grid.microgrids.values():
        assert set(sites.device_buses) == set(DEVICES)
        assert set(sites.device_buses.values()) <= set(sites.buses)


def test_names_are_unique_and_indices_run_without_gaps(grid: GridModel) -> None:
    for table in ("bus", "line", "trafo", "load"):
        names = grid.net[table].name
        assert names.notna().all(), table
        assert names.is_unique, table
        assert grid.net[table].index.tolist() == list(range(len(names))), table


def test_every_load_says_what_kind_of_customer_it_is(grid: GridModel) -> None:
    assert set(grid.net.load.customer) == {"residential", "industrial", "commercial"}
    kinds = {name: set(grid.net.load.customer[list(s.loads)]) for name, s in grid.microgrids.items()}
    assert kinds == {"MG1": {"residential"}, "MG2": {"industrial"}, "MG3": {"commercial"}}


def test_every_call_builds_the_same_network_anew() -> None:
    first, second = _built("cigre_mv_lv"), load_grid("cigre_mv_lv")
    assert first.net is not second.net
    for table in ("bus", "line", "trafo", "load", "switch", "ext_grid"):
        pd.testing.assert_frame_equal(first.net[table], second.net[table])
    assert first.microgrids == second.microgrids


@pytest.mark.slow
def test_cigre_feeders_behave_in_the_grid_as_they_do_alone() -> None:
    """CIGRE's own network gives each feeder's result when fed with the voltage of its bus in the grid."""
    grid = _built("cigre_mv_lv")
    net = solve(copy.deepcopy(grid.net))
    letters = {"MG1": "R", "MG2": "I", "MG3": "C"}
    for name, letter in letters.items():
        alone = load_network("create_cigre_network_lv")
        alone.ext_grid["vm_pu"] = net.res_bus.vm_pu[grid.microgrids[name].pcc_bus]
        solve(alone)
        in_grid = net.res_bus.vm_pu[list(grid.microgrids[name].buses)]
        own = alone.bus.name.str.startswith(f"Bus {letter}") & (alone.bus.vn_kv < 1)
        assert len(in_grid) == own.sum()
        np.testing.assert_allclose(in_grid, alone.res_bus.vm_pu[own], atol=1e-7)


def test_case33bw_microgrids_carry_three_quarters_of_the_original_load() -> None:
    grid = _built("three_case33bw_on_cigre_mv")
    original = load_network("case33bw")
    for sites in grid.microgrids.values():
        own = grid.net.load.loc[list(sites.loads), ["p_mw", "q_mvar"]].sum()
        np.testing.assert_allclose(own, 0.75 * original.load[["p_mw", "q_mvar"]].sum())
        assert len(sites.buses) == 33
        assert len(sites.lines) == 32


def test_lumped_loads_make_room_for_the_case33bw_feeders() -> None:
    plain, grid = load_network("create_cigre_network_mv"), _built("three_case33bw_on_cigre_mv")
    assert grid.net.load.p_mw.sum() == pytest.approx(plain.load.p_mw.sum())
