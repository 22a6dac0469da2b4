"""``heron-mqtt suite`` as CI and a person at a terminal use it."""

from __future__ import annotations

import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from support.heron_command import descendants, heron, run_heron, until

SUITE = """
name = "mine"
steps = 2
scenarios = ["three_microgrids"]
networks = ["none", "lan"]
parallel = 2

[[budgets]]
fallbacks = 0
vm_min_pu = 0.5

[[budgets]]
networks = ["lan"]
vm_min_pu = 1.5
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.mark.slow
def test_what_is_over_budget_is_named_in_every_report_and_the_exit_code(suite: Path, tmp_path: Path) -> None:
    files = ["--junit", "s.xml", "--html", "s.html", "--keep", "records"]
    done = run_heron("suite", str(suite), *files, cwd=tmp_path, within_s=110.0)
    assert done.code == 1, done.err
    why = "vm_min_pu is 1."
    assert "PASS     three_microgrids / none / none / seed 0" in done.out
    assert f"three_microgrids / lan / none / seed 0: {why}" in done.out
    assert "mine: FAILED: 1 passed, 1 over budget" in done.out
    root = ET.parse(tmp_path / "s.xml").getroot()
    assert (root.attrib["tests"], root.attrib["failures"]) == ("2", "1")
    assert why in (tmp_path / "s.html").read_text()
    for name in ("0000", "0001"):
        assert run_heron("verify", f"records/{name}.heron", cwd=tmp_path).code == 0
    part = run_heron("suite", str(suite), "--only", "/ none / none", "--json", cwd=tmp_path, within_s=110.0)
    assert part.code == 0
    assert [one["verdict"] for one in part.result["cases"]] == ["pass"]


@pytest.mark.slow_but("1")
@pytest.mark.parametrize("runs", [1, 2])
def test_ctrl_c_ends_the_runs_and_what_they_have_started(runs: int, suite: Path, tmp_path: Path) -> None:
    text = SUITE.partition("[[budgets]]")[0].replace("steps = 2", 'steps = 100000\nbroker = "embedded"')
    suite.write_text(text if runs == 2 else text.replace(', "lan"', ""), encoding="utf-8")
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current directory')\n")
    with heron("suite", str(suite), "--junit", "s.xml", cwd=tmp_path) as program:
        until(lambda: len(descendants(program.pid)) > 3 * runs, "runs with their devices", 60.0)
        started = descendants(program.pid)
        program.signal(signal.SIGINT)
        assert program.wait().code == 130
        until(lambda: not [p for p in started if p.is_alive], "the end of everything that was started")
    assert ET.parse(tmp_path / "s.xml").getroot().attrib["errors"] == str(runs)


@pytest.mark.slow
def test_a_suite_that_is_killed_takes_its_runs_along(suite: Path) -> None:
    suite.write_text(SUITE.replace("steps = 2", "steps = 100000"), encoding="utf-8")
    with heron("suite", str(suite)) as program:
        until(lambda: len(descendants(program.pid)) >= 2, "the runs", 60.0)
        started = descendants(program.pid)
        program.process.kill()
        until(lambda: not [p for p in started if p.is_alive], "the end of the runs", 30.0)


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_ended_and_fails(suite: Path) -> None:
    text = SUITE.replace("steps = 2", "steps = 100000\ntimeout_s = 0.5").replace(', "lan"', "")
    suite.write_text(text.partition("[[budgets]]")[0], encoding="utf-8")
    done = run_heron("suite", str(suite), "--json")
    assert done.code == 1
    assert done.result["cases"][0]["why"] == ["it was ended after 0.5 s (timeout_s)"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--only", "seed 7"], "--only 'seed 7': no run has this name"),
        (["--parallel", "0"], "--parallel 0: expected a number from 1 to 64"),
    ],
)
def test_wrong_arguments_are_one_line(more: list[str], complaint: str, suite: Path) -> None:
    done = run_heron("suite", str(suite), *more)
    assert done.code == 2
    assert complaint in done.err
    assert run_heron("suite", "nowhere.toml").code == 2
