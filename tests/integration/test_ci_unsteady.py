"""The second try of an unsteady test: named, remembered, and given once only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / ".ci" / "unsteady.py"


def judge(folder: Path, *failed: str) -> subprocess.CompletedProcess[str]:
    """Return how a run ends in which these tests failed and then passed."""
    (folder / "failed.json").write_text(json.dumps(dict.fromkeys(failed, True)))
    command = [sys.executable, SCRIPT, folder / "failed.json", folder / "unsteady.txt"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_unsteady_test_is_named_and_the_second_time_it_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "unsteady.txt").write_text("# why\ntests/test_a.py::old\n")
    first = judge(tmp_path, "tests/test_a.py::new[x y]")
    assert (first.returncode, first.stdout.splitlines()[0].split(":")[0]) == (0, "UNSTEADY tests/test_a.py")
    again = judge(tmp_path, "tests/test_a.py::new[x y]")
    assert again.returncode == 1
    assert "UNSTEADY AGAIN tests/test_a.py::new[x y]" in again.stdout
    known = (tmp_path / "unsteady.txt").read_text().splitlines()
    assert known == ["# why", "tests/test_a.py::old", "tests/test_a.py::new[x y]"]


def test_a_new_one_beside_a_known_one_is_added_and_the_run_fails(tmp_path: Path) -> None:
    judge(tmp_path, "tests/test_a.py::known")
    assert judge(tmp_path, "tests/test_a.py::known", "tests/test_b.py::new").returncode == 1
    assert "tests/test_b.py::new" in (tmp_path / "unsteady.txt").read_text()
