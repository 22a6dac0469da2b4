"""Lines that processes run are written as they end, forks alike, and ``.ci/lines.py`` adds them up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.doc_pages import ROOT

pytest.importorskip("slipcover", reason="pip install slipcover")

PROGRAM = """
import os, sys
sys.path.insert(0, "tests")
from support.line_coverage import measure_from_here

measure_from_here()
from heron_mqtt.registry import Registry

kinds = Registry("kind", "no.group", str)
if os.fork() == 0:
    kinds.add("one")
    os._exit(0)
os.wait()
os._exit(3)
"""
MODULE = "heron_mqtt/registry.py"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process and its fork have written."""
    file = tmp_path_factory.mktemp("lines") / "lines"
    file.touch()
    environment = {**os.environ, "HERON_TEST_LINES": str(file)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 3
    return file


@pytest.mark.slow
def test_a_fork_writes_what_it_has_run_and_not_what_was_run_before_it(file: Path) -> None:
    of_the_fork, of_the_process = (set(json.loads(text)[MODULE]) for text in file.read_text().splitlines())
    assert of_the_fork
    assert not of_the_fork & of_the_process
    text = (ROOT / MODULE).read_text().splitlines()
    assert any("import" in text[line - 1] for line in of_the_process)


@pytest.mark.slow  # it reads all sources; .ci/run does, too
def test_they_are_added_up_and_compared_with_the_least_part(file: Path) -> None:
    with file.open("a") as more:
        more.write('{"heron_mqtt/errors.py": [')  # of one that was killed as it wrote
    script = [sys.executable, ".ci/lines.py", str(file), "--at-least"]
    done = subprocess.run([*script, "99.5"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    told = done.stdout.splitlines()[-1]
    assert told.endswith("lines were run; expected 99.5 % at least")
    assert 0.0 < float(told.split()[0]) < 10.0
