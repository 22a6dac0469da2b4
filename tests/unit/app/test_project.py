"""A new project is valid by construction, and overwrites nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandapower as pp
import pytest

from heron_mqtt.app.project.write import make_project
from heron_mqtt.app.scenario_check import describe
from heron_mqtt.errors import ConfigError
from powergrid.envs import MultiAgentMicrogrids
from powergrid.networks import load_network
from powergrid.networks.layout import MAX_RISE_PU, SMALLEST_MW, VM_MAX_PU, laid_out
from powergrid.scenario import load_scenario
from support.doc_pages import blocks
from support.heron_command import run_script


def test_the_scenario_is_valid(tmp_path: Path) -> None:
    files = make_project(tmp_path / "My Site", "create_cigre_network_lv", None, 0)
    assert {path.name for path in files} >= {"scenario.toml", "device.py", "agent.py", "README.md"}
    lines = list(describe(load_scenario(tmp_path / "My Site" / "scenario.toml")))
    assert any(line.startswith("scenario    my_site: 96 steps") for line in lines)


@pytest.mark.slow  # a name with a space and capitals: above
@pytest.mark.parametrize("folder", ["d" * 255, "Größe-🔋 x", "a\"b'c\\d", "42"])
def test_a_folder_of_any_name_holds_a_valid_scenario(folder: str, tmp_path: Path) -> None:
    make_project(tmp_path / folder, "create_cigre_network_lv", 1, 0)
    assert load_scenario(tmp_path / folder / "scenario.toml").scenario.steps == 96


def test_the_policy_of_its_readme_decides_where_the_scenario_names_it(tmp_path: Path) -> None:
    make_project(tmp_path, "create_cigre_network_lv", 2, 0)
    (code,) = blocks(tmp_path / "README.md", "python")
    (tmp_path / "policy.py").write_text(code.text)
    path = tmp_path / "scenario.toml"
    text, usual = path.read_text(), re.compile(r"^policy = .*$", re.MULTILINE)
    path.write_text(usual.sub('policy = "policy.py:MyPolicy"', text, count=1))
    env = MultiAgentMicrogrids({"scenario": load_scenario(path)})
    env.reset(seed=0)
    told = []
    for _ in range(5):
        _, _, _, _, infos = env.step({})
        told.append((infos["MG1"]["price"] < 41.0, infos["MG1"]["p_mw"]["ess"]))
    env.close()
    assert all((p_mw < 0.0) is cheap for cheap, p_mw in told), told
    assert any(cheap for cheap, _ in told)


@pytest.mark.slow_but("create_cigre_network_lv")
@pytest.mark.parametrize(("network", "has_one"), [("mv_oberrhein", True), ("create_cigre_network_lv", False)])
def test_a_network_whose_own_voltages_leave_the_band_gets_another_supply_voltage(
    network: str, has_one: bool, tmp_path: Path
) -> None:
    make_project(tmp_path, network, 2, 0)
    loaded = load_scenario(tmp_path / "scenario.toml")
    assert (loaded.scenario.network.vm_pu is not None) is has_one
    assert not [line for line in describe(loaded) if line.startswith("SURPRISE")]
    env = MultiAgentMicrogrids({"scenario": loaded})
    env.reset(seed=0)
    for _ in range(36):  # batteries charge in the night, solar power comes in the morning
        _, _, _, _, infos = env.step({})
        assert max(max(info["vm_pu"].values()) for info in infos.values()) < VM_MAX_PU
    env.close()


@pytest.mark.slow
def test_its_own_tests_pass(tmp_path: Path) -> None:
    make_project(tmp_path / "My Site", "create_cigre_network_lv", None, 0)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "My Site",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.mark.slow
def test_its_tests_still_pass_with_a_real_device_and_one_more(tmp_path: Path) -> None:
    make_project(tmp_path, "create_cigre_network_lv", 2, 0)
    path = tmp_path / "scenario.toml"
    real = (
        'external = true\nauthority = "limited"\ngateway = { band = { p_min_mw = -0.01, p_max_mw = 0.01 } }\n'
    )
    text = path.read_text().replace(
        "[microgrids.MG1.devices.ess]\n", f"[microgrids.MG1.devices.ess]\n{real}", 1
    )
    more = '\n[microgrids.MG1.devices.spare]\nkind = "battery"\nmax_e_mwh = 0.1\n'
    path.write_text(
        f"{text}{more}max_p_charge_mw = 0.01\nmax_p_discharge_mw = 0.01\nbus = 2\nexternal = true\n"
    )
    assert "a real device" in "".join(describe(load_scenario(path)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_its_device_says_in_one_line_that_there_is_no_broker(tmp_path: Path) -> None:
    make_project(tmp_path, "create_cigre_network_lv", 2, 0)
    done = run_script(tmp_path / "device.py", "mqtt://127.0.0.1:1")
    assert done.code == 1
    assert done.err.startswith("device.py: no answer at mqtt://127.0.0.1:1")
    assert len(done.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("count", "horizontal"), [(10, "p2p"), (11, "order_book")])
def test_many_trade_over_an_order_book(tmp_path: Path, count: int, horizontal: str) -> None:
    make_project(tmp_path, "create_kerber_landnetz_freileitung_1", count, 0)
    assert load_scenario(tmp_path / "scenario.toml").scenario.protocol.horizontal == horizontal


@pytest.mark.slow
def test_thirty_microgrids_on_a_library_network_share_its_load_and_overload_nothing(tmp_path: Path) -> None:
    make_project(tmp_path, "mv_oberrhein", 30, 7)
    scenario = load_scenario(tmp_path / "scenario.toml").scenario
    assert len(scenario.microgrids) == 30
    net = load_network("mv_oberrhein")
    found = laid_out(net, 30, 7)
    assert found == laid_out(net, 30, 7)
    assert found != laid_out(net, 30, 8)
    buses = [bus for m in found for bus in m.buses]
    assert len(buses) == len(set(buses))
    assert sum(m.load_mw for m in found) == pytest.approx(net.load.p_mw.sum())
    net.load["scaling"] = 0.2
    pp.runpp(net, numba=False)
    highest = (net.res_bus.vm_pu + MAX_RISE_PU).clip(lower=VM_MAX_PU)
    assert min(m.pv_mw for m in found) > SMALLEST_MW
    for m in found:
        pp.create_sgen(net, m.device_bus, m.pv_mw + m.ess_mw + m.gen_mw)
    pp.runpp(net, numba=False)
    assert (net.res_bus.vm_pu <= highest + 1e-6).all()
    assert net.res_line.loading_percent.max() <= 100.0


@pytest.mark.slow
def test_power_plants_follow_the_load_with_which_devices_are_sized() -> None:
    # With its generators at full power and a fifth of its load this network has no solution.
    assert all(m.pv_mw > 100 * SMALLEST_MW for m in laid_out(load_network("iceland"), 4, 0))


@pytest.mark.slow
def test_the_file_of_a_network_is_found_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pp.to_json(load_network("case5"), "mine.json")
    make_project(Path("sub/site"), "mine.json", 2, 0)
    monkeypatch.chdir("/")
    described = list(describe(load_scenario(tmp_path / "sub/site/scenario.toml")))
    assert any("5 buses" in line for line in described)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"agent\.py: exists already"):
        make_project(tmp_path, "create_cigre_network_lv", None, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.py"]


@pytest.mark.parametrize(
    ("network", "count", "seed", "told"),
    [
        ("nope", None, 0, "--network 'nope': no such network"),
        ("case5", 9, 0, "--microgrids 9: the network has 2 buses with loads"),
        ("case5", 0, 0, "--microgrids 0: expected 1 to 1000"),
        ("case5", 1, -1, "--seed -1: expected a number of at least 0"),
        pytest.param(
            *(
                "case39",
                2,
                0,
                "--network cannot be used: network: no power-flow solution with the loads of row 0",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("case145", 2, 0, "--network: has no power-flow solution at 20% of its load"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(
                "example_multivoltage",
                3,
                0,
                "--network cannot be used: microgrids.MG2.buses: microgrid 'MG2'",
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_made_is_refused(
    tmp_path: Path, network: str, count: int, seed: int, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        make_project(tmp_path / "x", network, count, seed)
    assert told in str(refused.value)
    assert not (tmp_path / "x").exists()
