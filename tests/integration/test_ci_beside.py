"""What ``.ci/run`` does beside other things: told, ended with what failed, and tried once more alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.heron_command import until

CI = Path(__file__).parents[2] / ".ci"
BEGIN = f"""
source "$(dirname "$0")/common.sh"
mkdir -p "$work/venv/bin"
ln -s '{sys.executable}' "$work/venv/bin/python"
types() {{ echo "error: types"; false; }}
waits() {{ sleep 60 & echo $! >"$root/waits"; wait; }}
fails() {{ sleep 60 & echo $! >"$root/fails"; echo "it failed"; false; echo "went on"; }}
busy() {{ [ -e "$work/again" ] || {{ touch "$work/again"; echo "too late"; return 3; }}; echo "in time"; }}
begun() {{ until [ -s "$root/$1" ]; do sleep 0.02; done; }}
"""


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / ".ci").mkdir(exist_ok=True)
    for name in ("common.sh", "unsteady.py"):
        shutil.copy(CI / name, folder / ".ci")
    (folder / ".ci" / "run").write_text(BEGIN + script + '\necho "came to its end"\n')
    command = ["bash", str(folder / ".ci" / "run")]
    return subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)


def is_gone(pid_file: Path) -> bool:
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_where_a_step_fails_what_has_finished_is_told_and_the_rest_is_ended(tmp_path: Path) -> None:
    done = run(tmp_path, "beside types types; beside waits waits; begun waits; sleep 0.1; exit 5")
    assert done.returncode == 5, done.stderr
    assert "error: types\ntypes: ended with exit code 1\n" in done.stdout
    until(lambda: is_gone(tmp_path / "waits"), "what still went on has ended")


def test_what_a_failed_part_left_running_is_ended(tmp_path: Path) -> None:
    done = run(tmp_path, "beside fails fails; joined fails")
    assert (done.returncode, done.stdout) == (1, "it failed\nfails: ended with exit code 1\n"), done.stderr
    until(lambda: is_gone(tmp_path / "fails"), "what it had started has ended")


def test_what_was_late_beside_the_tests_is_tried_alone_named_and_the_next_time_a_failure(
    tmp_path: Path,
) -> None:
    script = "beside busy busy; joined_or_alone busy busy"
    first = run(tmp_path, script)
    assert first.returncode == 0, first.stderr
    assert "too late\nbusy: ended with exit code 3\n" in first.stdout
    assert "in time\nUNSTEADY .ci/run busy: failed, then passed alone" in first.stdout
    assert (tmp_path / ".ci" / "unsteady.txt").read_text() == ".ci/run busy\n"
    again = run(tmp_path, script)
    assert again.returncode == 1
    assert "UNSTEADY AGAIN .ci/run busy" in again.stdout


@pytest.mark.parametrize("how", ["joined fails", "joined_or_alone fails fails"])
def test_what_fails_also_alone_ends_it(tmp_path: Path, how: str) -> None:
    done = run(tmp_path, f"beside fails fails; {how}")
    assert done.returncode == 1
    assert "went on" not in done.stdout
    assert "came to its end" not in done.stdout
    until(lambda: is_gone(tmp_path / "fails"), "what it had started has ended")


def test_what_comes_after_another_begins_when_that_has_ended_also_badly(tmp_path: Path) -> None:
    script = """
later() { echo "begun"; [ ! -e "$work/order" ] || cat "$work/order"; }
early() { begun go; echo "early first" >"$work/order"; false; }
beside early early; beside later after early later
sleep 0.3; [ ! -s "$work/later.log" ]; echo go >"$root/go"
joined later; ended early || true
"""
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "begun\nearly first\nearly: ended with exit code 1\ncame to its end\n"
