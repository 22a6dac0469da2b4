"""What workers of pytest-xdist do not tell is nothing that a run would show."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import worker_events
from support.worker_events import is_worth_telling

ALL = ["logstart", "testreport", "ready"]
CONFTEST = """
from support.worker_events import tell_less

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        tell_less(config)
"""
TESTS = """
import time

import pytest

@pytest.fixture
def slow():
    time.sleep(0.02)
    yield
    time.sleep(0.02)

@pytest.fixture
def broken():
    raise ValueError("at its start")

@pytest.fixture
def leaves():
    yield
    raise ValueError("at its end")

@pytest.fixture
def talks():
    print("said in the setup")

def test_passes(): pass
def test_waits(slow): pass
def test_begins(broken): pass
def test_ends(leaves): pass
def test_fails(talks): assert False
def test_is_skipped(): pytest.skip("for a reason")
@pytest.mark.skip(reason="before it begins")
def test_never_begins(): pass
@pytest.mark.xfail
def test_is_expected_to_fail(): assert False
@pytest.mark.xfail
def test_passes_unexpectedly(): pass
"""


def _report(**other: Any) -> dict[str, Any]:
    passed = {"when": "setup", "outcome": "passed", "duration": 0.0, "sections": [], "user_properties": []}
    return {"data": passed | other}


@pytest.mark.parametrize(
    "other",
    [
        {"when": "call"},
        {"outcome": "failed"},
        {"outcome": "skipped", "when": "teardown"},
        {"duration": 0.005},
        {"sections": [["Captured stdout setup", "it"]]},
        {"user_properties": [["it", 1]]},
    ],
)
def test_of_setup_and_teardown_all_is_told_but_that_they_passed(other: dict[str, Any]) -> None:
    assert is_worth_telling("testreport", _report(**other), 0.005)


def test_what_the_controller_counts_on_is_told() -> None:
    for name in ("collectionfinish", "runtest_protocol_complete", "warning_recorded", "workerfinished"):
        assert is_worth_telling(name, {}, 0.005)
    assert not is_worth_telling("testreport", _report(), 0.005)
    assert not is_worth_telling("logstart", {}, 0.005)


@pytest.mark.parametrize(
    ("verbosity", "xml", "sent"),
    [(0, None, ["ready"]), (-1, None, ["ready"]), (0, "a.xml", ALL), (1, None, ALL)],
)
def test_all_is_told_where_each_test_is_shown_or_written(
    verbosity: int, xml: str | None, sent: list[str]
) -> None:
    told: list[str] = []
    interactor = SimpleNamespace(sendevent=lambda name, **_of_it: told.append(name))
    config: Any = SimpleNamespace(
        get_verbosity=lambda: verbosity,
        getoption=lambda name, default: xml if name == "xmlpath" else default,
        pluginmanager=SimpleNamespace(get_plugins=lambda: [object(), interactor]),
    )
    worker_events.tell_less(config)
    interactor.sendevent("logstart", nodeid="a")
    interactor.sendevent("testreport", **_report())
    interactor.sendevent("ready")
    assert told == sent


@pytest.mark.slow
@pytest.mark.parametrize("told", [[], ["-v"], ["--junitxml=it.xml"], ["--durations=0", "--durations-min=0"]])
def test_a_run_shows_the_same_without_it(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "support").mkdir()
    shutil.copy(worker_events.__file__, tmp_path / "support")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    all_of_it = _shown(tmp_path, told)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    assert _shown(tmp_path, told) == all_of_it
    assert any("2 errors" in line for line in all_of_it) or "--junitxml=it.xml" in told


def _shown(folder: Path, told: list[str]) -> list[str]:
    """Return what a run prints, and writes, without its times, in alphabetical order."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-ra",
        "-n",
        "1",
        "--durations=8",
        "-p",
        "no:cacheprovider",
        *told,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    xml = folder / "it.xml"
    text = done.stdout + (xml.read_text("utf-8").replace("<", "\n<") if xml.exists() else "")
    return sorted(re.sub(r"=+|\d+\.\d+s?|timestamp=\S+", "", text).splitlines())
