"""From a scenario to a grid: everything it names is found, and the grid it is solved on is pandapower's."""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandapower as pp
import pytest

from heron_mqtt.config import shipped_config
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.stamping import utc_text
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import load_scenario, scenario_from_dict
from powergrid.simulation.build import Blueprint, build
from powergrid.simulation.time_series import RowClock
from support.small_grid import BUSES
from support.small_grid import scenario as small

START_ROW = 28
DEVICE_TABLES = {"gen": "sgen", "pv": "sgen", "ess": "storage"}


def rows(file: str = "profiles/simbench_week.csv") -> list[dict[str, str]]:
    with (shipped_config() / file).open(newline="") as f:
        return list(csv.DictReader(f))


def problems(changes: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build(scenario_from_dict(small(changes), "my.toml"))
    return caught.value.problems


def one_problem(changes: dict[str, Any]) -> str:
    (problem,) = problems(changes)
    assert problem.startswith("my.toml: ")
    assert "\n" not in problem
    return problem


@pytest.fixture(scope="module")
def blueprint() -> Blueprint:
    return build(scenario_from_dict(small()))


pytestmark = pytest.mark.usefixtures("built_anew", "built_once")


@pytest.fixture(scope="module")
def env() -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids({"scenario": small()})


# -- what is found ---------------------------------------------------------------------------------------


def test_every_device_stands_once_in_the_network_at_its_place(blueprint: Blueprint) -> None:
    assert set(blueprint.devices) == {(mg, d) for mg in BUSES for d in ("gen", "ess", "pv")}
    assert len(set(blueprint.devices.values())) == len(blueprint.devices)
    for (microgrid, device), (table, index) in blueprint.devices.items():
        assert table == DEVICE_TABLES[device]
        assert blueprint.net[table].bus[index] in BUSES[microgrid]


def test_a_device_stands_at_the_bus_that_is_named() -> None:
    made = build(
        scenario_from_dict(
            small({"microgrids.MG1.devices.gen.bus": "bus_1_3", "microgrids.MG1.devices.ess.bus": 5})
        )
    )
    names = made.net.bus.name
    for device, bus in (("gen", "bus_1_3"), ("ess", names[5])):
        table, index = made.devices["MG1", device]
        assert names[made.net[table].bus[index]] == bus


def test_loads_follow_their_microgrids_columns_and_the_others_their_own() -> None:
    buses = small()["microgrids"]["MG3"]["buses"][:-1]  # the last bus is outside now
    made = build(
        scenario_from_dict(
            small(
                {
                    "microgrids.MG3.buses": buses,
                    "microgrids.MG2.loads": {"p": "industrial_p_pu", "scale": 2.0},
                    "network.loads": {"p": "wind_pu"},
                }
            )
        )
    )
    of_bus = dict(zip(made.net.load.bus, made.loads, strict=True))
    assert (of_bus[2].p_column, of_bus[2].q_column) == ("residential_p_pu", "residential_q_pu")
    assert (of_bus[6].p_column, of_bus[6].q_column, of_bus[6].scale) == ("industrial_p_pu",) * 2 + (2.0,)
    assert of_bus[14].p_column == "wind_pu"


def test_a_load_without_a_column_follows_its_customer() -> None:
    made = build(load_scenario("three_microgrids"))
    customers = made.net.load.customer
    assert {c for c in customers if c} >= {"residential", "industrial", "commercial"}
    for customer, load in zip(customers, made.loads, strict=True):
        if customer:
            assert (load.p_column, load.q_column) == (f"{customer}_p_pu", f"{customer}_q_pu")


def test_a_microgrid_may_have_any_name() -> None:
    made = build(scenario_from_dict(small(names={"MG1": "a/b", "MG2": "+ #", "MG3": "50%"})))
    assert list(made.sites) == ["a/b", "+ #", "50%"]
    assert ("+ #", "gen") in made.devices


# -- what is not found -------------------------------------------------------------------------------------

# Each of these is reported in the same run as all the others: changes, and what one line must hold.
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "bus name of a device": (
        {"microgrids.MG1.devices.gen.bus": "nowhere"},
        ("my.toml: microgrids.MG1.devices.gen.bus: ", "no bus is named 'nowhere'"),
    ),
    "bus index of a device": (
        {"microgrids.MG1.devices.ess.bus": 99},
        ("my.toml: microgrids.MG1.devices.ess.bus: ", "no bus has index 99"),
    ),
    "bus of a microgrid": (
        {"microgrids.MG2.buses": ["elsewhere"]},
        ("my.toml: microgrids.MG2.buses: ", "no bus is named 'elsewhere'"),
    ),
    "buses of a microgrid that the network does not have": (
        {"microgrids.MG3.buses": ...},
        ("my.toml: microgrids.MG3: the network has no microgrid of that name", "buses = [...]"),
    ),
    "column of PV": (
        {"microgrids.MG2.devices.pv.profile": "pv_9_pu"},
        (
            "my.toml: profiles.file: ",
            "column 'pv_9_pu': no such column; there are time, residential_p_pu",
            "asked for by microgrids.MG2.devices.pv.profile",
        ),
    ),
    "column of P": (
        {"microgrids.MG1.loads.p": "none_p_pu"},
        ("column 'none_p_pu': no such column", "asked for by microgrids.MG1.loads.p"),
    ),
    "column of Q": (
        {"microgrids.MG1.loads.q": "none_q_pu"},
        ("column 'none_q_pu': no such column", "asked for by microgrids.MG1.loads.q"),
    ),
    "column outside all microgrids": (
        {"network.loads": {"p": "none_pu"}},
        ("column 'none_pu': no such column", "asked for by network.loads.p"),
    ),
    "column of the price": (
        {"profiles.price_column": "eur_per_mwh"},
        (
            "my.toml: profiles.price_file: ",
            "column 'eur_per_mwh': no such column; there are time, price_per_mwh",
        ),
    ),
}


@pytest.fixture(scope="module")
def all_wrong() -> tuple[str, ...]:
    """The problems of one scenario in which everything is wrong."""
    return problems({key: value for changes, _ in WRONG.values() for key, value in changes.items()})


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_found_is_named_with_the_key_that_asks_for_it(
    name: str, all_wrong: tuple[str, ...]
) -> None:
    _, words = WRONG[name]
    assert [p for p in all_wrong if all(word in p for word in words)], all_wrong


def test_everything_that_is_wrong_is_named_at_once_and_once(all_wrong: tuple[str, ...]) -> None:
    assert len(all_wrong) == len(set(all_wrong)) == len(WRONG)
    assert all(problem.startswith("my.toml: ") and "\n" not in problem for problem in all_wrong)


def test_an_unknown_network_is_named() -> None:
    problem = one_problem({"network.source": "cigre_mv_lw"})
    assert problem.startswith("my.toml: network.source: network 'cigre_mv_lw': no such network")
    assert "did you mean cigre_mv_lv" in problem


def test_a_bus_belongs_to_one_microgrid() -> None:
    problem = one_problem({"microgrids.MG2.buses": [5, 6, 7]})
    assert "microgrid 'MG2'" in problem
    assert "also belong to 'MG1'" in problem


def test_a_missing_file_is_named_with_its_key() -> None:
    found = problems({"profiles.file": "none.csv", "profiles.price_file": "nix.csv"})
    assert [p.split(": no such file")[0] for p in found] == [
        "my.toml: profiles.price_file: nix.csv",
        "my.toml: profiles.file: none.csv",
    ]


def test_a_column_of_the_wrong_unit_is_refused() -> None:
    found = problems(
        {
            "profiles.price_file": "profiles/simbench_week.csv",
            "profiles.price_column": "wind_pu",
            "profiles.file": "profiles/price_week.csv",
            "microgrids.MG1.devices.pv.profile": "price_per_mwh",
        }
    )
    assert any("column 'wind_pu': is per unit; expected price" in problem for problem in found)
    (of_pv,) = (p for p in found if "column 'price_per_mwh'" in p)
    assert "expected per unit" in of_pv
    assert of_pv.endswith("asked for by microgrids.MG1.devices.pv.profile")


def test_an_episode_longer_than_the_series_is_refused_and_so_is_a_step_that_is_not_theirs() -> None:
    too_long = {"steps": 700, "profiles.start_row": 0}
    assert all("too few rows: 672" in p for p in problems({**too_long, "profiles.repeat": False}))
    assert all("rows are 900 s apart; expected 60 s" in p for p in problems({"step_s": 60.0}))
    build(scenario_from_dict(small(too_long)))


def test_a_gap_or_nan_in_a_file_is_named_with_row_and_column(tmp_path: Path) -> None:
    lines = (shipped_config() / "profiles/price_week.csv").read_text().splitlines()
    time = lines[4].split(",")[0]
    lines[4] = f"{time},nan"
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    problem = one_problem({"profiles.price_file": str(path)})
    assert str(path) in problem
    assert "row 5" in problem
    assert "column 'price_per_mwh'" in problem


# -- the grid it is solved on ------------------------------------------------------------------------------


def reference(made: Blueprint, step: int, infos: dict[str, dict[str, Any]]) -> Any:
    """Return pandapower's own solution of a step, from the CSV file and what the devices did."""
    net, row = made.net, rows()[START_ROW + step]
    for index, load in zip(net.load.index, made.loads, strict=True):
        for quantity, column in (("p_mw", load.p_column), ("q_mvar", load.q_column)):
            nominal = small_nominal[int(index)][quantity]
            net.load.loc[index, quantity] = nominal * load.scale * float(row[column]) if column else nominal
    for (microgrid, device), (table, index) in made.devices.items():
        sign = -1.0 if table in {"storage", "load"} else 1.0
        net[table].loc[index, "p_mw"] = sign * infos[microgrid]["p_mw"][device]
        net[table].loc[index, "q_mvar"] = sign * infos[microgrid]["q_mvar"][device]
    pp.runpp(net, tolerance_mva=1e-10, numba=False)
    return net


small_nominal = {i: {"p_mw": 0.008, "q_mvar": 0.0} for i in range(13)}


@pytest.mark.slow_but("newton", "fixed_point")
@pytest.mark.parametrize("solver", ["newton", "fixed_point", "pandapower"])
def test_voltages_and_loadings_are_those_of_pandapower(solver: str, blueprint: Blueprint) -> None:
    made = blueprint
    env = MultiAgentMicrogrids({"scenario": small({"network.solver": solver})})
    env.reset(seed=1)
    for agent in env.possible_agents:
        env.action_space(agent).seed(5)
    for step in range(2):
        infos = env.step({agent: env.action_space(agent).sample() for agent in env.agents})[4]
        net = reference(made, step, infos)
        for agent, buses in BUSES.items():
            vm = net.res_bus.vm_pu[buses]
            assert infos[agent]["vm_pu"]["min"] == pytest.approx(vm.min(), abs=1e-8)
            assert infos[agent]["vm_pu"]["max"] == pytest.approx(vm.max(), abs=1e-8)
            lines = made.sites[agent].lines
            loading = net.res_line.loading_percent[list(lines)].max()
            assert infos[agent]["loading_max_percent"] == pytest.approx(loading, abs=1e-4)


def test_loads_sun_and_price_are_those_of_the_row(env: MultiAgentMicrogrids) -> None:
    observations, _ = env.reset(seed=1)
    table, prices = rows(), rows("profiles/price_week.csv")
    names = env.observation_names("MG1")
    for step in range(12):
        row = table[START_ROW + step]
        seen = dict(zip(names, observations["MG1"].tolist(), strict=True))
        assert seen["MG1/p_available_pv"] == pytest.approx(0.02 * float(row["pv_1_pu"]), abs=1e-8)
        observations, _, _, _, infos = env.step({})
        assert infos["MG1"]["price"] == float(prices[START_ROW + step]["price_per_mwh"])
        for agent, column in (
            ("MG1", "residential_p_pu"),
            ("MG2", "industrial_p_pu"),
            ("MG3", "commercial_p_pu"),
        ):
            expected = -0.008 * len(BUSES[agent]) * float(row[column])
            assert infos[agent]["p_load_mw"] == pytest.approx(expected)


def test_series_repeat_from_their_first_row() -> None:
    env = MultiAgentMicrogrids({"scenario": small({"profiles.start_row": 671})})
    env.reset(seed=1)
    seen = [env.step({})[4]["MG1"]["price"] for _ in range(3)]
    prices = [float(row["price_per_mwh"]) for row in rows("profiles/price_week.csv")]
    assert seen == [prices[671], prices[0], prices[1]]


def test_a_row_as_one_vector_says_what_its_outlook_says(env: MultiAgentMicrogrids) -> None:
    series = env.simulation.series
    for row in (0, 5, 700):
        price, *others = series.outlook(row)
        assert series.vector(row).tolist() == [price, *np.concatenate(others).tolist()]


STARTS = [datetime(2016, 2, 28, 23, 45, tzinfo=UTC), datetime(1969, 12, 31, 1, 2, 3, 4, UTC)]


@pytest.mark.parametrize("step_s", [900.0, 1.0, 0.25, 1e-3, 86_400.0])
@pytest.mark.parametrize("start", STARTS)
def test_the_time_of_a_row_as_text_is_that_of_the_moment(start: datetime, step_s: float) -> None:
    clock = RowClock(start, step_s)
    for row in (0, 1, 3, 95, 96, 671, 672, 40_001):
        assert clock.moment(row) == start + timedelta(seconds=row * step_s)
        assert clock.text(row) == utc_text(clock.moment(row))


def test_a_factor_on_loads_does_not_stay_on_them(env: MultiAgentMicrogrids) -> None:
    before = env.simulation.loads(3).copy()
    factors = np.array([2.0, 1.0, 0.5])
    changed = env.simulation.loads(3, factors)
    assert not np.array_equal(changed, before)
    assert np.array_equal(env.simulation.loads(3), before)
    of_rows = env.simulation.loads(np.array([3, 3]), np.stack((factors, np.ones(3))))
    assert np.array_equal(of_rows, np.stack((changed, before)))


def test_loads_that_later_steps_get_again_cannot_be_written_to(env: MultiAgentMicrogrids) -> None:
    for loads in (env.simulation.loads(5), env.simulation.series.loads(5)):
        with pytest.raises(ValueError, match="read-only"):
            loads[:] *= 0.0


def test_the_slack_voltage_is_the_scenarios() -> None:
    env = MultiAgentMicrogrids({"scenario": small({"network.vm_pu": 1.03})})
    observations, _ = env.reset(seed=1)
    seen = dict(zip(env.observation_names("MG1"), observations["MG1"].tolist(), strict=True))
    assert seen["vm_pu/Trafostation_OS"] == pytest.approx(1.03)


def test_the_scale_of_the_loads_counts(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    larger = MultiAgentMicrogrids({"scenario": small({"microgrids.MG1.loads.scale": 3.0})})
    larger.reset(seed=1)
    once, thrice = (e.step({})[4]["MG1"]["p_load_mw"] for e in (env, larger))
    assert thrice == pytest.approx(3.0 * once)


def test_the_energy_a_microgrid_feeds_in_is_that_of_its_loads_and_devices(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    for _ in range(4):
        infos = env.step({})[4]
        for agent in env.possible_agents:
            info = infos[agent]
            net_mw = info["p_load_mw"] + math.fsum(info["p_mw"].values())
            assert info["net_mwh"] == pytest.approx(net_mw * 0.25)
