"""``benchmarks/env_peers.py``: what is missing is said, and ratios are to ours of the same round."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.script_module import load_script

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "env_peers.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(SCRIPT)


def run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, times: dict[str, list[float]], *more: str
) -> None:
    """Run it with rows that take these times, us, round by round; NaN = the row fails."""
    left = {name: iter(of) for name, of in times.items()}

    def measured(python: str, name: str) -> dict[str, object]:
        took_us = next(left[name])
        if math.isnan(took_us):
            raise RuntimeError("it broke")
        return {"us": took_us, "version": "1.0"}

    monkeypatch.setattr(script, "homes", lambda pythons: dict.fromkeys(times, pythons[0]))
    monkeypatch.setattr(script, "measured_by", measured)
    monkeypatch.setattr(sys, "argv", ["env_peers.py", "--rounds", "3", *more])
    script.main()


def test_ratios_are_of_one_round_and_what_is_missing_is_said(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer, broken = "CityLearn, 3 buildings", "pandapower, runpp"
    times = {script.OURS: [100.0, 200.0, 400.0], peer: [300.0, 800.0, 2000.0], broken: [1.0, float("nan")]}
    run(script, monkeypatch, times)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(script.ROWS)
    of = {name: next(line for line in lines if line.startswith(name)) for name in script.ROWS}
    assert "800 us  4.00 (3.00 .. 5.00)" in of[peer]
    assert "failed" in of[broken]
    missing = [name for name in script.ROWS if "not installed" in of[name]]
    assert missing == [name for name in script.ROWS if name not in times]


def test_only_measures_ours_and_what_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = "CityLearn, 3 buildings"
    run(script, monkeypatch, {script.OURS: [1.0] * 3, peer: [2.0] * 3}, "--only", "City")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [script.OURS, peer]


def test_a_run_without_ours_is_refused(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="heron-mqtt is not installed here"):
        run(script, monkeypatch, {"CityLearn, 3 buildings": []})
