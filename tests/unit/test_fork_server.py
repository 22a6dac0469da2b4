"""A script that is forked ends as one that is not: its exit code, its last words, its threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.heron_command import script

LAST_WORDS = """
import atexit, sys, threading, time
atexit.register(lambda: print("at its end"))
threading.Thread(target=lambda: (time.sleep(0.2), print("its thread"))).start()
sys.stdout.write("its script, ")
"""


@pytest.mark.parametrize(
    "text",
    [
        "pass",
        "raise SystemExit(3)",
        "raise SystemExit(-1)",
        "raise SystemExit('no port')",
        "print('before'); raise ValueError('a bug')",
        LAST_WORDS,
    ],
    ids=["nothing", "code", "below 0", "text", "bug", "last words"],
)
def test_a_script_ends_as_a_new_process_does(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a_script.py"
    file.write_text(text, "utf-8")
    with script(file) as program:
        ended = program.wait()
    new = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert (ended.code, ended.out) == (new.returncode, new.stdout)
    assert ended.err.splitlines()[-1:] == new.stderr.splitlines()[-1:]
