"""The one-line diagram: complete, the same every time, and without crossings where there need be none."""

from __future__ import annotations

from typing import Any

import pandapower
import pandapower.networks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powergrid.networks import load_grid
from powergrid.networks.diagram import MAX_BUSES, Branch, crossings, network_model, tree_points


def model(net: Any) -> Any:
    found = network_model(net, {}, [])
    assert found is not None
    return found


@pytest.mark.slow_but("cigre_mv_lv")
@pytest.mark.parametrize("source", ["cigre_mv_lv", "three_case33bw_on_cigre_mv", "case118", "mv_oberrhein"])
def test_every_bus_and_branch_is_in_it_and_no_two_buses_at_one_place(source: str) -> None:
    net = load_grid(source).net
    found = model(net)
    assert (len(found.bus), len(found.line), len(found.trafo)) == (
        len(net.bus),
        len(net.line),
        len(net.trafo),
    )
    assert len(set(zip(found.bus_x, found.bus_y, strict=True))) == len(net.bus)
    assert model(net) == found


def test_coordinates_are_used_where_they_make_a_drawing() -> None:
    net = pandapower.networks.create_cigre_network_mv()
    assert not model(net).laid_out
    assert model(load_grid("cigre_mv_lv").net).laid_out, "feeders drawn over each other are no drawing"
    net.bus.loc[net.bus.index[3], "geo"] = None
    assert model(net).laid_out


def test_open_lines_are_named_as_open() -> None:
    net = pandapower.networks.case33bw()
    assert [net.line.in_service.iloc[i] for i in model(net).line_open] == [False] * 5


def test_a_network_too_large_for_a_drawing_has_none() -> None:
    net = pandapower.create_empty_network()
    pandapower.create_buses(net, MAX_BUSES + 1, 20.0)
    pandapower.create_ext_grid(net, 0)
    assert network_model(net, {}, []) is None


@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_a_radial_network_is_laid_out_without_crossings(parents: list[int]) -> None:
    """Drawn from the supply down and then to the right: no vertical part meets another branch."""
    branches = [Branch("line", "", parent % (n + 1), n + 1, True) for n, parent in enumerate(parents)]
    points = tree_points(range(len(parents) + 1), branches, [0])
    assert len(set(points.values())) == len(points)
    rows = [(points[b.start][0] + 0.2, points[b.start][1], points[b.end][1]) for b in branches]
    flats = [(points[b.start][0] + 0.2, points[b.end][0], points[b.end][1]) for b in branches]
    for i, (x, top, bottom) in enumerate(rows):
        assert top <= bottom
        for j, (left, right, y) in enumerate(flats):
            assert i == j or not (left < x < right and top < y < bottom)


def test_crossings_are_counted() -> None:
    cross = [Branch("line", "", 0, 1, True), Branch("line", "", 2, 3, True)]
    square = {0: (0.0, 0.0), 1: (1.0, 1.0), 2: (0.0, 1.0), 3: (1.0, 0.0)}
    assert crossings(cross, square) == 1
    assert crossings(cross, {**square, 3: (0.0, 2.0)}) == 0
