"""Devices that are forked beside a run: their scenario is loaded once, and wrong ones are told of as ever."""

from __future__ import annotations

import pytest

from powergrid.devices import Battery
from powergrid.emulators import script
from powergrid.emulators.__main__ import _scenarios

ARGUMENTS = ["--name=ess", "--broker=mqtt://127.0.0.1:1", "--supervised"]


def run(scenario: str) -> int:
    return script.main(Battery, "battery", [*ARGUMENTS, "--agent=nobody", f"--scenario={scenario}"])


def test_the_scenarios_of_devices_are_found_each_once() -> None:
    first, other = ["--agent=-1", "--scenario=a b.toml"], ["--scenario=c.toml", "--agent=--scenario"]
    devices = [{"arguments": arguments} for arguments in (first, other, first)]
    assert _scenarios(devices) == ["a b.toml", "c.toml"]


def test_a_scenario_that_is_known_is_not_loaded_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "_known", {})
    script.know_scenario("three_microgrids")
    monkeypatch.delattr(script, "load_scenario")
    assert run("three_microgrids") == 2
    assert "--agent nobody: not in " in capsys.readouterr().err


def test_what_is_wrong_with_a_scenario_each_device_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "_known", {})
    script.know_scenario("no_such_scenario")
    assert capsys.readouterr().err == ""
    assert run("no_such_scenario") == 2
    assert "no_such_scenario: no such scenario file" in capsys.readouterr().err
