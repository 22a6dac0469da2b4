"""Folders of a program go with it, and those of its parent do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
from heron_mqtt.forked_program import be_a_program
from heron_mqtt.program_folders import program_folder

mine = program_folder("parents-")

def child():
    theirs = program_folder("childs-")
    print(theirs, theirs.is_dir(), flush=True)
    return 0

pid = os.fork()
if pid == 0:
    be_a_program(child)
os.waitpid(pid, 0)
print(mine, mine.is_dir(), flush=True)
be_a_program(lambda: 0)
"""


def test_a_program_that_does_not_end_by_the_interpreter_leaves_no_folder(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    (childs, was_there), (parents, still_there) = (line.split() for line in ran.stdout.splitlines())
    assert was_there == still_there == "True"  # the child's end has left its parent's
    assert Path(childs).name.startswith("childs-")
    assert Path(parents).name.startswith("parents-")
    assert not list(tmp_path.iterdir())
