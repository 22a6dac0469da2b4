"""Scenarios: what is wrong is said at once, in one line each: file, key, value and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.config import MAX_SCENARIO_BYTES, find_scenario, read_toml, shipped_config
from heron_mqtt.errors import ConfigError
from powergrid.devices import BatterySpec, GeneratorSpec, PvSpec
from powergrid.scenario import Scenario, load_scenario, scenario_from_dict
from support import fmus
from support.small_grid import scenario as small


def problems(changes: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        scenario_from_dict(small(changes), "my.toml")
    return caught.value.problems


def one_problem(changes: dict[str, Any]) -> str:
    (problem,) = problems(changes)
    return problem


def looks_like_a_clear_line(problem: str) -> bool:
    internal = ("Traceback", "pydantic", "spec", "Error", "function-", "object at 0x", "errors.", "\n")
    return not any(word in problem for word in internal)


# -- what is valid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["three_microgrids", "config/three_microgrids.toml"])
def test_the_shipped_scenario_is_found_by_name_and_by_path(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_scenario(name)
    assert list(loaded.scenario.microgrids) == ["MG1", "MG2", "MG3"]
    assert loaded.path(loaded.scenario.profiles.file).is_file()


@pytest.mark.parametrize("path", sorted(shipped_config().glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_scenario_is_valid(path: Path) -> None:
    loaded = load_scenario(path)
    assert loaded.scenario.name == path.stem
    assert loaded.source == str(path)
    for microgrid in loaded.scenario.microgrids.values():
        kinds = {name: type(table.spec) for name, table in microgrid.devices.items()}
        if path.stem == "neighbourhood":  # the one that shows every other kind
            assert set(kinds.values()) - {GeneratorSpec}, kinds
        else:
            assert kinds == {"gen": GeneratorSpec, "ess": BatterySpec, "pv": PvSpec}


def test_a_file_beside_the_scenario_wins_over_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    own = tmp_path / "profiles" / "price_week.csv"
    own.touch()
    (tmp_path / "mine.toml").write_text((shipped_config() / "three_microgrids.toml").read_text())
    loaded = load_scenario(tmp_path / "mine.toml")
    assert loaded.path("profiles/price_week.csv") == own
    assert loaded.path("profiles/simbench_week.csv") == shipped_config() / "profiles/simbench_week.csv"
    assert loaded.path("profiles/none.csv") == tmp_path / "profiles/none.csv"


def test_the_environment_is_named_after_the_scenario_unless_it_says_otherwise() -> None:
    assert scenario_from_dict(small()).scenario.topic_env_id == "small"
    assert scenario_from_dict(small({"env_id": "site 7"})).scenario.topic_env_id == "site 7"


def test_whole_numbers_are_taken_for_numbers() -> None:
    assert scenario_from_dict(small({"step_s": 900})).scenario.step_s == 900.0


@pytest.mark.parametrize("name", ["a/b", "a+b", "#1", "50%", "a b", "Ünïcode"])
def test_identifiers_may_hold_what_mqtt_reserves(name: str) -> None:
    data = small({"name": name, "operator_id": name}, names={"MG2": name})
    assert list(scenario_from_dict(data).scenario.microgrids) == ["MG1", name, "MG3"]


def test_a_scenario_cannot_be_changed() -> None:
    scenario = scenario_from_dict(small()).scenario
    with pytest.raises(ValueError, match="frozen"):
        scenario.steps = 5  # type: ignore[misc]


# -- one problem, one line -----------------------------------------------------------------------------

CASES: list[tuple[dict[str, Any], str]] = [
    ({"stepz": 1}, "my.toml: stepz: unknown key; did you mean 'steps'?"),
    ({"quite_something_else": 1}, "my.toml: quite_something_else: unknown key"),
    ({"market.import_adder": 1.0}, "my.toml: market.import_adder: unknown key"),
    (
        {"microgrids.MG1.devices.gen.max_p_nw": 1.0},
        "my.toml: microgrids.MG1.devices.gen.max_p_nw: unknown key; did you mean 'max_p_mw'?",
    ),
    ({"microgrids.MG1.polcy": {}}, "my.toml: microgrids.MG1.polcy: unknown key; did you mean 'policy'?"),
    ({"name": ...}, "my.toml: name: missing; it must be given"),
    ({"microgrids": ...}, "my.toml: microgrids: missing; it must be given"),
    (
        {"microgrids.MG1.devices.ess.max_e_mwh": ...},
        "my.toml: microgrids.MG1.devices.ess.max_e_mwh: missing; it must be given",
    ),
    (
        {"microgrids.MG1.devices.gen.kind": ...},
        "my.toml: microgrids.MG1.devices.gen.kind: missing; it must be given",
    ),
    (
        {"microgrids.MG1.devices.gen.kind": "genset"},
        "my.toml: microgrids.MG1.devices.gen.kind = 'genset': should be one of 'battery', 'generator', 'pv'",
    ),
    ({"steps": "96"}, "my.toml: steps = '96': should be a valid integer"),
    ({"steps": 96.5}, "my.toml: steps = 96.5: should be a valid integer"),
    ({"steps": True}, "my.toml: steps = True: should be a valid integer"),
    ({"steps": 0}, "my.toml: steps = 0: should be greater than or equal to 1"),
    ({"step_s": "900"}, "my.toml: step_s = '900': should be a valid number"),
    ({"step_s": -1.0}, "my.toml: step_s = -1.0: should be greater than 0"),
    ({"step_s": float("nan")}, "my.toml: step_s = nan: should be a finite number"),
    ({"seed": -1}, "my.toml: seed = -1: should be greater than or equal to 0"),
    (
        {"microgrids.MG1.devices.gen.cost_b_usd_per_mwh": float("inf")},
        "my.toml: microgrids.MG1.devices.gen.cost_b_usd_per_mwh = inf: should be a finite number",
    ),
    (
        {"microgrids.MG1.devices.gen.max_p_mw": "1 MW"},
        "my.toml: microgrids.MG1.devices.gen.max_p_mw = '1 MW': should be a valid number",
    ),
    ({"microgrids.MG2": 5}, "my.toml: microgrids.MG2 = 5: should be a table"),
    ({"microgrids.MG2.devices.gen": 5}, "my.toml: microgrids.MG2.devices.gen = 5: should be a table"),
    ({"market": 5}, "my.toml: market = 5: should be a table"),
    (
        {"network.solver": "gauss"},
        "my.toml: network.solver = 'gauss': should be 'newton', 'fixed_point' or 'pandapower'",
    ),
    ({"protocol.horizontal": "p2q"}, "my.toml: protocol.horizontal = 'p2q': should be 'p2p', 'order_book'"),
    (
        {"protocol": {"horizontal": "order_book", "neighbours": "ring"}},
        "neighbours = 'ring': order_book has no neighbours, every agent trades with every other; leave the "
        "key out",
    ),
    ({"network.vm_pu": 9.0}, "my.toml: network.vm_pu = 9.0: should be less than 1.5"),
    (
        {"reward.vm_min_pu": 1.1},
        "my.toml: reward = {'vm_min_pu': 1.1}: vm_min_pu must be below vm_max_pu, got 1.1 and 1.05",
    ),
    ({"reward.soc_min": 0.9}, "soc_min must be below soc_max, got 0.9 and 0.8"),
    (
        {"microgrids.MG1.policy.charge_below": 100.0},
        "charge_below must be below discharge_above, got 100.0 and 75.0",
    ),
    (
        {"deadlines": {"action_s": 1.0}},
        "my.toml: deadlines = {'action_s': 1.0}: action_s must exceed upstream_s, peer_s and device_s",
    ),
    (
        {"microgrids.MG1.devices.ess.min_soc": 0.95},
        "my.toml: microgrids.MG1.devices.ess: min_soc must be below max_soc, got 0.95 and 0.9",
    ),
    (
        {"microgrids.MG1.devices.pv.profile": ...},
        "a pv device needs 'profile', the column of what the sun offers",
    ),
    (
        {"microgrids.MG1.devices.gen.profile": "pv_1_pu"},
        "my.toml: microgrids.MG1.devices.gen: 'profile' belongs to pv, load, ev_charger, heat_pump, "
        "flexible_load, fmu",  # and to what comes after them
    ),
    ({"microgrids.MG1.devices.gen.profile": "pv_1_pu"}, " devices, not to a generator"),
    (
        {"microgrids.MG1.devices.pv": {"kind": "load", "max_p_mw": 1.0}},
        "a load device needs 'profile', the column of its demand",
    ),
    (
        {"microgrids.MG1.devices.my-gen": {"kind": "generator", "max_p_mw": 1.0}},
        "my.toml: microgrids.MG1.devices: device name 'my-gen': letters, digits and _ only",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), CASES, ids=[str(next(iter(c))) for c, _ in CASES])
def test_a_problem_names_file_key_value_and_what_was_expected(changes: dict[str, Any], expected: str) -> None:
    found = problems(changes)
    assert any(expected in problem for problem in found), found
    assert all(problem.startswith("my.toml: ") for problem in found)
    assert all(looks_like_a_clear_line(problem) for problem in found), found


RANGES = {
    "load_scale": "0 and 100",
    "pv_scale": "0 and 100",
    "initial_soc": "0 and 1",
    "efficiency_factor": "0.01 and 1",
    "response_delay_s": "0 and 86400",
    "answer_delay_s": "0 and 3600",
}


def test_a_range_that_is_none_is_one_line_with_its_key_and_bounds() -> None:
    wrong = ("x", 1.0, True, {}, [], [1.0], [0.1, 0.2, 0.3], ["a", "b"], [True, True], [0.9, 0.1])
    for name, bounds in RANGES.items():
        for value in (*wrong, [-1.0, 0.5], [float("nan"), 1.0], [0.5, float("inf")], [1e300, 1e300]):
            with pytest.raises(ConfigError) as caught:
                scenario_from_dict(small({"randomisation": {name: value}}))
            expected = f"expected [least, most], two numbers within {bounds}"
            assert str(caught.value) == f"scenario: randomisation.{name} = {value!r}: {expected}"
        scenario_from_dict(small({"randomisation": {name: [0.5, 1]}}))


def test_a_price_is_not_so_noisy_that_no_observation_has_bounds() -> None:
    with pytest.raises(ConfigError, match=r"price_noise_per_mwh = 1e\+300: should be less"):
        scenario_from_dict(small({"randomisation": {"price_noise_per_mwh": 1e300}}))


@pytest.mark.parametrize("key", ["microgrids", "microgrids.MG2.devices"])
def test_an_empty_table_of_microgrids_or_devices_is_refused(key: str) -> None:
    problem = one_problem({key: {}})
    assert problem.startswith(f"my.toml: {key} = {{}}: ")
    assert "at least 1" in problem


def test_an_empty_name_is_refused() -> None:
    assert one_problem({"name": ""}).startswith("my.toml: name = '': ")


def test_every_problem_is_named_at_once() -> None:
    found = problems(
        {
            "stepz": 1,
            "steps": "x",
            "reward.vm_min_pu": 1.1,
            "microgrids.MG1.devices.gen.kind": "genset",
            "microgrids.MG2.devices.ess.max_e_mwh": ...,
            "microgrids.MG3.policy.battery_share": 2.0,
        }
    )
    keys = [problem.split(": ")[1].split(" = ")[0] for problem in found]
    assert sorted(keys) == [
        "microgrids.MG1.devices.gen.kind",
        "microgrids.MG2.devices.ess.max_e_mwh",
        "microgrids.MG3.policy.battery_share",
        "reward",
        "steps",
        "stepz",
    ]


def test_the_error_reads_one_problem_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        scenario_from_dict(small({"stepz": 1, "steps": "x"}), "my.toml")
    assert str(caught.value).splitlines() == list(caught.value.problems)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "nothing of the validator shows in a traceback"


def test_a_huge_value_is_not_printed_back() -> None:
    assert len(one_problem({"steps": "x" * 10_000})) < 200


# -- files ---------------------------------------------------------------------------------------------


def test_a_missing_scenario_says_what_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no such scenario file; shipped scenarios are: .*three_microgrids"
    ):
        find_scenario(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "name", ["../pyproject.toml", "config/../../pyproject.toml", "../powergrid/scenario"]
)
def test_the_name_of_a_shipped_scenario_does_not_lead_out_of_the_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such scenario file"):
        find_scenario(name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name = ?", "not valid TOML: .*line 1"),
        (b'name = "x"\nsteps = 1\nsteps = 2\n', "not valid TOML: .*line 3"),
        (b'name = "\xff"', "not UTF-8 at byte 8"),
        (b"#" * (MAX_SCENARIO_BYTES + 1), f"a scenario has at most {MAX_SCENARIO_BYTES}"),
    ],
)
def test_a_file_that_is_not_toml_says_where(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_scenario(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder; expected a file"):
        read_toml(tmp_path)
    with pytest.raises(ConfigError, match="a device, pipe or socket; expected a file"):
        read_toml(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        read_toml(tmp_path / "none.toml")


def test_nan_and_infinity_in_toml_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    text = (shipped_config() / "three_microgrids.toml").read_text()
    path.write_text(
        text.replace("step_s = 900.0", "step_s = nan").replace("max_p_mw = 0.10", "max_p_mw = inf")
    )
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    assert f"{path}: step_s = nan: should be a finite number" in caught.value.problems
    assert (
        f"{path}: microgrids.MG1.devices.gen.max_p_mw = inf: should be a finite number"
        in caught.value.problems
    )


def test_every_key_of_a_scenario_says_its_unit_in_its_name_or_has_a_description() -> None:
    """A number without a unit in its name needs words: units are where interfaces go wrong."""
    units = ("_mw", "_mva", "_mwh", "_s", "_pu", "_percent", "_weight", "_share", "_soc", "scale", "_per_k")
    missing = []
    for table in (Scenario, *(f.annotation for f in Scenario.model_fields.values())):
        for name, field in getattr(table, "model_fields", {}).items():
            if field.annotation is float and not name.endswith(units) and not field.description:
                missing.append(f"{getattr(table, '__name__', table)}.{name}")
    assert not missing


# -- a band, and the least that a device can do ----------------------------------------------------------

GENERATOR = {"kind": "generator", "max_p_mw": 0.1, "min_p_mw": 0.02, "cost_b_usd_per_mwh": 60.0}
CHARGER = {
    "kind": "ev_charger",
    "max_p_mw": 0.011,
    "min_p_mw": 0.0014,
    "max_e_mwh": 0.05,
    "profile": "residential_p_pu",
}


@pytest.mark.parametrize(
    ("device", "band", "problem"),
    [
        (GENERATOR, (0.0, 0.02), ""),
        (
            GENERATOR,
            (0.0, 0.0199),
            "gateway.band.p_max_mw = 0.0199: nearer to 0 than min_p_mw = 0.02, the device can never run "
            "within it; expected 0.02 or more",
        ),
        (CHARGER, (-0.0014, 0.0), ""),
        (
            CHARGER,
            (-0.0013, 0.0),
            "gateway.band.p_min_mw = -0.0013: nearer to 0 than min_p_mw = 0.0014, the device can never run "
            "within it; expected -0.0014 or less",
        ),
    ],
)
def test_a_band_in_which_a_device_with_a_minimum_power_could_never_run_is_refused(
    device: dict[str, Any], band: tuple[float, float], problem: str
) -> None:
    """It would be sent setpoints that it cannot follow, or be run beyond the band by its own rule."""
    limited = {
        "authority": "limited",
        "gateway": {"band": dict(zip(("p_min_mw", "p_max_mw"), band, strict=True))},
    }
    changes = {"microgrids.MG1.devices.extra": {**device, **limited}}
    if problem:
        assert problem in one_problem(changes)
    else:
        scenario_from_dict(small(changes), "my.toml")


def test_a_gateway_is_told_which_kind_a_device_is_but_for_a_model_of_any_kind() -> None:
    tables = scenario_from_dict(small()).scenario.microgrids["MG1"].devices
    assert {name: table.settings("shadow").kind for name, table in tables.items()} == {
        name: table.spec.kind for name, table in tables.items()
    }
    modelled = next(iter(tables.values())).model_copy(update={"spec": fmus.spec()})
    assert modelled.settings("shadow").kind is None
