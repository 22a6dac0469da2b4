"""Every file that a scenario names is known by its key: a record keeps a hash of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from heron_mqtt.app.named_files import named_files, policy_file
from heron_mqtt.app.recording import run_facts
from heron_mqtt.config import shipped_config
from powergrid.scenario import load_scenario, scenario_from_dict
from support.small_grid import scenario


def test_the_mapping_of_a_device_is_among_the_files(tmp_path: Path) -> None:
    profile = (shipped_config() / "device_profiles/sungrow_sh.toml").read_text()
    (tmp_path / "box.toml").write_text(profile)
    for mapping in (str(tmp_path / "box.toml"), {"profile": str(tmp_path / "box.toml"), "parameters": {}}):
        changes = {"microgrids.MG1.devices.ess.mapping": mapping}
        loaded = scenario_from_dict(scenario(changes))
        assert named_files(loaded)["microgrids.MG1.devices.ess.mapping"] == tmp_path / "box.toml"
        assert run_facts(loaded).files["microgrids.MG1.devices.ess.mapping"] == tmp_path / "box.toml"


def test_a_policy_is_found_by_file_and_by_module() -> None:
    assert policy_file("mine.py:Class", Path("here")) == Path("here/mine.py")
    found = policy_file("powergrid.agents.policy:AgentPolicy", Path())
    assert found is not None
    assert found.name == "policy.py"
    assert policy_file("no_such_module_here:Class", Path()) is None
    loaded = scenario_from_dict(scenario())
    assert named_files(loaded, "powergrid.agents.policy:X")["--policy"] == found


def test_where_a_module_is_is_found_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record comes from elsewhere, and verify looks for the policies that it names."""
    package = tmp_path / "unrun_package"
    package.mkdir()
    for name in ("__init__.py", "inside.py"):
        (package / name).write_text("raise SystemExit('run')\n")
    monkeypatch.chdir(tmp_path)
    assert policy_file("unrun_package.inside:Class", Path()) == package / "inside.py"
    assert policy_file("unrun_package.other:Class", Path()) is None
    assert policy_file("..:Class", Path()) is None
    assert policy_file(":Class", Path()) is None


def test_logins_and_certificates_are_not_among_the_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("word")
    loaded = scenario_from_dict(scenario({"broker": {"password_file": str(tmp_path / "secret")}}))
    assert tmp_path / "secret" not in named_files(loaded).values()


def test_a_shipped_network_is_found_by_its_name() -> None:
    loaded = scenario_from_dict(scenario({"impairment": "lte_poor"}))
    assert named_files(loaded)["impairment"] == shipped_config() / "networks/lte_poor.toml"
    assert set(named_files(load_scenario())) >= {"profiles.file", "profiles.price_file"}
