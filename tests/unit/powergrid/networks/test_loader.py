"""Loading a network by name: what is found, and what a wrong name is told."""

from __future__ import annotations

import logging
import random
from typing import Any

import pandapower as pp
import pandapower.networks
import pytest

from heron_mqtt.errors import ConfigError
from powergrid.networks import library, load_grid, load_network, network_names
from powergrid.networks.sources import SHIPPED_NETWORKS
from support.rows import each_row


def test_networks_of_pandapower_are_known_by_their_function_names() -> None:
    names = network_names()
    assert names[:2] == ("cigre_mv_lv", "three_case33bw_on_cigre_mv")
    assert {"create_cigre_network_lv", "case33bw", "mv_oberrhein", "example_multivoltage"} <= set(names)
    assert len(load_network("case33bw").bus) == 33
    assert load_grid("create_cigre_network_lv").microgrids == {}


def test_a_network_of_pandapower_brings_no_advice_to_install_numba(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pandapower.auxiliary").warning("numba cannot be imported and numba functions ...")
    logging.getLogger("pandapower.auxiliary").warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


@each_row(
    "name",
    [
        "from_json",
        "from_pickle",
        "create_bus",
        "os",
        "rd",
        "__builtins__",
        "sorted_from_json",
        "_get_cases_path",
        "cigre_networks",
        "create_dickert_lv_feeders",
        "",
    ],
)
def test_nothing_but_a_network_is_reached_by_name(name: str) -> None:
    assert name not in network_names()
    with pytest.raises(ConfigError, match="no such network"):
        load_grid(name)


def test_a_misspelt_name_is_told_the_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"network 'cigre_mv': .* did you mean .*cigre_mv_lv"):
        load_grid("cigre_mv")
    with pytest.raises(ConfigError, match=f"there are {', '.join(SHIPPED_NETWORKS)} and the net"):
        load_grid("xyzzy")


def test_a_network_drawn_at_random_is_the_same_each_time_and_leaves_the_generator_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drawn() -> Any:
        net = pp.networks.example_simple()
        net.line["length_km"] = [random.random() for _ in net.line.index]
        return net

    monkeypatch.setattr(library, "_builders", lambda: {"drawn": drawn})
    random.seed(7)
    first = load_network("drawn")
    after = random.random()
    assert after == random.Random(7).random()
    assert load_network("drawn").line.length_km.tolist() == first.line.length_km.tolist()


def test_a_network_without_an_external_grid_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_builders", lambda: {"island": pp.create_empty_network})
    with pytest.raises(ConfigError, match="'island': has no external grid in service"):
        load_grid("island")


def test_what_pandapower_cannot_build_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("no data")

    monkeypatch.setattr(library, "_builders", lambda: {"broken": broken, "none": lambda: None})
    with pytest.raises(ConfigError, match="'broken': pandapower could not build it"):
        load_grid("broken")
    with pytest.raises(ConfigError, match="'none': is not a network"):
        load_grid("none")


@pytest.mark.parametrize("name", ["cigre_mv_lv", "create_cigre_network_lv"])
def test_a_network_that_was_changed_is_a_new_one_for_who_asks_next(name: str) -> None:
    first = load_grid(name)
    buses, loads = len(first.net.bus), first.net.load.p_mw.sum()
    first.net.load["p_mw"] = 0.0
    first.net.bus.drop(first.net.bus.index[:3], inplace=True)
    again = load_grid(name)
    assert (len(again.net.bus), again.net.load.p_mw.sum()) == (buses, loads)
    assert again.net is not first.net
