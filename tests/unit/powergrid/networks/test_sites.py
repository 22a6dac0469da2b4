"""Microgrids and devices placed in any network."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandapower as pp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError
from powergrid.networks import (
    DeviceSite,
    GridModel,
    attach_devices,
    attach_microgrid,
    load_network,
    resolve_bus,
    to_pandapower_p,
    to_pandapower_q,
)

LV_RESIDENTIAL = [f"Bus R{number}" for number in range(1, 19)]


@pytest.fixture(scope="module")
def pristine() -> Any:
    return load_network("create_cigre_network_lv")


@pytest.fixture
def net(pristine: Any) -> Any:
    """CIGRE LV: bus 0 holds the external grid; closed switches join it to R0, I0 and C0."""
    return copy.deepcopy(pristine)


def problems(call: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value.problems


def test_a_microgrid_given_by_bus_names_finds_what_is_its_own(net: Any) -> None:
    sites = attach_microgrid(net, "north", buses=LV_RESIDENTIAL, device_buses={"battery": "Bus R10"})
    assert len(sites.buses) == 18
    assert len(sites.lines) == 17
    assert set(net.load.name[list(sites.loads)]) == {f"Load R{n}" for n in (1, 11, 15, 16, 17, 18)}
    (pcc,) = sites.pccs
    assert net.trafo.name[pcc.index] == "Trafo R0-R1"
    assert net.bus.name[sites.busbar] == "Bus R1"
    assert net.bus.name[sites.device_buses["battery"]] == "Bus R10"
    assert net.bus.name[sites.device_buses["pv"]] == "Bus R1"
    assert (net.bus.zone == "north").sum() == 18


def test_buses_by_index_by_name_and_by_zone_are_the_same_microgrid(net: Any) -> None:
    by_name = attach_microgrid(net, "north", buses=LV_RESIDENTIAL)
    assert attach_microgrid(net, "north", zone="north") == by_name
    assert attach_microgrid(net, "north", buses=by_name.buses) == by_name


def test_a_border_of_lines_gives_one_coupling_point_each_with_its_side() -> None:
    net = load_network("create_cigre_network_mv")
    sites = attach_microgrid(net, "south", buses=["Bus 8", "Bus 9", "Bus 10", "Bus 11", "Bus 7"])
    # Line 11-4 and Line 14-8 are open at one end and carry nothing; Line 6-7 too.
    assert [net.line.name[pcc.index] for pcc in sites.pccs] == ["Line 3-8"]
    (pcc,) = sites.pccs
    assert (pcc.table, pcc.grid_side, net.bus.name[pcc.grid_bus]) == ("line", "from", "Bus 3")
    assert pcc.index in sites.lines


@pytest.mark.parametrize("side", ["hv", "from", "to"])
def test_power_at_the_coupling_points_is_what_the_microgrid_draws(net: Any, side: str) -> None:
    net = {"hv": net}.get(side) or load_network("create_cigre_network_mv")
    names = {"hv": LV_RESIDENTIAL, "from": ["Bus 13", "Bus 14"], "to": ["Bus 13", "Bus 14"]}[side]
    if side == "to":
        net.line[["from_bus", "to_bus"]] = net.line[["to_bus", "from_bus"]].to_numpy()
    sites = attach_microgrid(net, "mg", buses=names)
    pp.runpp(net, numba=False, tolerance_mva=1e-11)
    assert {pcc.grid_side for pcc in sites.pccs} == {side}
    drawn_mw = sum(net[f"res_{p.table}"].loc[p.index, f"p_{p.grid_side}_mw"] for p in sites.pccs)
    used_mw = net.res_load.p_mw[list(sites.loads)].sum()
    lost_mw = net.res_line.pl_mw[list(sites.lines)].sum() + net.res_trafo.pl_mw[list(sites.trafos)].sum()
    # Line 14-8, open at its far end, charges from Bus 14 and loses 4 mW: nobody's.
    assert drawn_mw == pytest.approx(used_mw + lost_mw, abs=1e-8)


def test_every_unknown_bus_is_named_with_the_close_ones(net: Any) -> None:
    found = problems(lambda: attach_microgrid(net, "north", buses=["Bus R1", "Bus R99", "bus r2", 99, True]))
    assert len(found) == 4
    assert found[0].startswith("microgrid 'north': no bus is named 'Bus R99'; did you mean 'Bus R")
    assert "no bus has index 99; the indices are 0 to 43" in found[2]
    assert "no bus has index True" in found[3]
    assert net.bus.zone.tolist() == ["CIGRE_LV"] * 44


def test_a_name_that_two_buses_have_asks_for_an_index(net: Any) -> None:
    net.bus.loc[5, "name"] = "Bus R2"
    (problem,) = problems(lambda: resolve_bus(net, "Bus R2", "here"))
    assert problem == "here: 2 buses are named 'Bus R2'; use an index of [3, 5]"


def test_a_name_like_no_other_lists_some_that_exist(net: Any) -> None:
    (problem,) = problems(lambda: resolve_bus(net, "xyzzy", "here"))
    assert "there are 'Bus 0', 'Bus R0'" in problem
    assert problem.endswith("and 34 more")


def test_a_zone_that_no_bus_is_in_lists_the_zones(net: Any) -> None:
    (problem,) = problems(lambda: attach_microgrid(net, "north", zone="MG1"))
    assert problem == "microgrid 'north': no bus is in zone 'MG1'; the zones are CIGRE_LV"
    net.bus["zone"] = None
    (problem,) = problems(lambda: attach_microgrid(net, "north", zone="MG1"))
    assert problem.endswith("no bus has a zone")


def test_buses_or_zone_but_not_both_nor_neither(net: Any) -> None:
    assert "and not both" in problems(lambda: attach_microgrid(net, "north"))[0]
    assert "and not both" in problems(lambda: attach_microgrid(net, "north", buses=[3], zone="x"))[0]
    assert "name at least one" in problems(lambda: attach_microgrid(net, "north", buses=[]))[0]


def test_the_external_grid_cannot_be_in_a_microgrid(net: Any) -> None:
    found = problems(lambda: attach_microgrid(net, "all", buses=list(net.bus.index)))
    assert found == ("microgrid 'all': bus 'Bus 0': the external grid is there; leave it out",)


def test_buses_without_supply_are_named(net: Any) -> None:
    net.line.loc[net.line.name == "Line R9-R10", "in_service"] = False
    found = problems(lambda: attach_microgrid(net, "north", buses=LV_RESIDENTIAL))
    assert found == ("microgrid 'north': buses 'Bus R10', 'Bus R18': no connection to an external grid",)


def test_a_border_through_a_closed_switch_is_refused(net: Any) -> None:
    (problem,) = problems(lambda: attach_microgrid(net, "north", buses=["Bus R0", *LV_RESIDENTIAL]))
    assert "its border runs through a closed switch between buses 'Bus 0', 'Bus R0'" in problem


def test_a_border_through_a_three_winding_transformer_is_refused() -> None:
    net = pp.create_empty_network()
    hv, mv, lv = (pp.create_bus(net, vn_kv) for vn_kv in (110.0, 20.0, 10.0))
    pp.create_ext_grid(net, hv)
    pp.create_transformer3w(net, hv, mv, lv, "63/25/38 MVA 110/20/10 kV")
    (problem,) = problems(lambda: attach_microgrid(net, "mv", buses=[lv]))[:1]
    assert "trafo3w [0] crosses its border" in problem


def test_device_buses_must_be_inside_and_of_a_known_kind(net: Any) -> None:
    wrong = {"battery": "Bus C1", "pv": "Bus X", "windmill": "Bus R1"}
    found = problems(lambda: attach_microgrid(net, "north", buses=LV_RESIDENTIAL, device_buses=wrong))
    assert found[0] == "microgrid 'north': bus 'Bus C1', for the battery, is not inside"
    assert found[1].startswith("microgrid 'north', bus of the pv: no bus is named 'Bus X'")
    assert found[2].startswith("microgrid 'north': unknown kind of device 'windmill'; expected battery")
    assert "north" not in set(net.bus.zone)


def test_a_bus_cannot_belong_to_two_microgrids(net: Any) -> None:
    one = attach_microgrid(net, "one", buses=LV_RESIDENTIAL)
    two = attach_microgrid(net, "two", buses=["Bus R10", "Bus R18"])
    (problem,) = problems(lambda: GridModel(net, {"one": one, "two": two}))
    assert problem.startswith("microgrid 'two': buses 'Bus R10', 'Bus R18' also belong to 'one'")
    assert "its sites are those of 'one'" in problems(lambda: GridModel(net, {"two": one}))[0]


def test_a_grid_model_cannot_be_rearranged(net: Any) -> None:
    grid = GridModel(net, {"one": attach_microgrid(net, "one", buses=LV_RESIDENTIAL)})
    with pytest.raises(TypeError):
        grid.microgrids["two"] = grid.microgrids["one"]  # type: ignore[index]
    with pytest.raises(TypeError):
        grid.microgrids["one"].device_buses["pv"] = 1  # type: ignore[index]


def test_devices_become_elements_at_rest_in_the_table_of_their_kind(net: Any) -> None:
    before = len(net.load)
    placed = attach_devices(
        net,
        [
            DeviceSite("MG1/ess", "battery", "Bus R10"),
            DeviceSite("MG1/gen", "generator", 2),
            DeviceSite("MG1/pv", "pv", np.int64(2)),  # type: ignore[arg-type]
            DeviceSite("MG1/load", "load", "Bus R1"),
        ],
    )
    assert placed == {
        "MG1/ess": ("storage", 0),
        "MG1/gen": ("sgen", 0),
        "MG1/pv": ("sgen", 1),
        "MG1/load": ("load", before),
    }
    for name, (table, index) in placed.items():
        row = net[table].loc[index]
        assert (row["name"], row.p_mw, row.q_mvar, row.in_service) == (name, 0.0, 0.0, True)
    assert net.bus.name[net.storage.bus[0]] == "Bus R10"
    pp.runpp(net, numba=False)


def test_wrong_devices_are_all_named_and_none_is_created(net: Any) -> None:
    sites = [
        DeviceSite("a", "battery", "Bus R10"),
        DeviceSite("a", "pv", "Bus R1"),
        DeviceSite("b", "windmill", "Bus R1"),  # type: ignore[arg-type]
        DeviceSite("c", "pv", "nowhere"),
    ]
    found = problems(lambda: attach_devices(net, sites))
    assert [problem.split(";")[0] for problem in found] == [
        "device 'a': the name is used twice",
        "device 'b': unknown kind 'windmill'",
        "device 'c': no bus is named 'nowhere'",
    ]
    assert len(net.storage) == 0


@pytest.mark.parametrize("kind", ["battery", "generator", "pv", "load"])
def test_injection_lowers_what_the_grid_supplies_whatever_the_kind(net: Any, kind: Any) -> None:
    ((table, index),) = attach_devices(net, [DeviceSite("d", kind, "Bus R1")]).values()
    supplied = []
    for power in (-0.01, 0.01):
        net[table].loc[index, "p_mw"] = to_pandapower_p(kind, power)
        net[table].loc[index, "q_mvar"] = to_pandapower_q(kind, power)
        pp.runpp(net, numba=False)
        supplied.append(net.res_ext_grid.loc[0, ["p_mw", "q_mvar"]].to_numpy(float))
    assert (supplied[1] < supplied[0] - 0.019).all()


@given(st.floats(-10, 10), st.sampled_from(["battery", "generator", "pv", "load"]))
def test_the_sign_changes_exactly_where_the_table_counts_consumption(p_mw: float, kind: Any) -> None:
    sign = -1.0 if kind in ("battery", "load") else 1.0
    assert to_pandapower_p(kind, p_mw) == to_pandapower_q(kind, p_mw) == sign * p_mw
    many = to_pandapower_p(kind, np.array([p_mw, 0.5]))
    np.testing.assert_array_equal(many, [sign * p_mw, sign * 0.5])


def test_an_unknown_kind_has_no_sign() -> None:
    with pytest.raises(ConfigError, match="unknown kind of device 'windmill'"):
        to_pandapower_p("windmill", 1.0)  # type: ignore[arg-type]
