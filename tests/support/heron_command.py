"""``heron-mqtt`` as a user starts it: the command itself, in a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from heron_mqtt.testing.faults.programs import (
    START_S,
    Ended,
    Process,
    Program,
    Started,
    descendants,
    until,
    write_toml,
)
from support.fork_server import ForkedProcess, ForkServer, is_forked

__all__ = [
    "HERON",
    "START_S",
    "Ended",
    "HeronProgram",
    "Process",
    "Program",
    "descendants",
    "heron",
    "run_heron",
    "run_heron_into",
    "script",
    "until",
    "write_toml",
]

FORK_SERVER = ForkServer()
HERON = str(Path(sys.executable).with_name("heron-mqtt"))


class HeronProgram(Program):
    """A program; where it is ``heron-mqtt`` or a script, what it imports is imported already.

    ``HERON_FRESH_PROCESSES`` starts that one, too, from nothing.

    Args:
        ignored: Signals that it is started with as ignored: INT, as ``&`` in a script does, or HUP, as nohup.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        ignored: Sequence[signal.Signals] = (),
    ) -> None:
        self._ignored = ignored
        super().__init__(arguments, cwd=cwd, environment=environment)

    def _started(self, arguments: list[str], cwd: Path | None, environment: dict[str, str]) -> Started:
        if is_forked(arguments, environment):
            return FORK_SERVER.start(arguments, cwd, environment, self._ignored)
        if self._ignored:
            names = " ".join(number.name.removeprefix("SIG") for number in self._ignored)
            arguments = ["sh", "-c", f"trap '' {names}; exec {shlex.join(arguments)}"]
        return super()._started(arguments, cwd, environment)


def heron(
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    ignored: Sequence[signal.Signals] = (),
) -> Program:
    """Start ``heron-mqtt``; its modules are imported already, unless ``HERON_FRESH_PROCESSES`` is set."""
    return HeronProgram([HERON, *arguments], cwd=cwd, environment=environment, ignored=ignored)


def script(
    path: Path, *arguments: str, cwd: Path | None = None, ignored: Sequence[signal.Signals] = ()
) -> Program:
    """Start a script of ours by this Python; forked as ``heron`` is."""
    return HeronProgram([sys.executable, str(path), *arguments], cwd=cwd, ignored=ignored)


def run_script(path: Path, *arguments: str, within_s: float = START_S) -> Ended:
    """Run a script of ours to its end."""
    with script(path, *arguments) as program:
        return program.wait(within_s)


def run_heron_into(stdout: int, *arguments: str) -> Ended:
    """Run ``heron-mqtt`` to its end with this descriptor as its standard output."""
    with Path(os.devnull).open("rb") as nothing, tempfile.TemporaryFile("w+") as err:
        command, streams = [HERON, *arguments], (nothing.fileno(), stdout, err.fileno())
        if is_forked(command, os.environ):
            answers = FORK_SERVER.ask(command, None, os.environ, streams)
            code = ForkedProcess(answers, (nothing, nothing, err)).wait(START_S)
        else:
            code = subprocess.run(
                command, stdin=nothing, stdout=stdout, stderr=err, timeout=START_S, check=False
            ).returncode
        err.seek(0)
        return Ended(code, "", err.read())


def run_heron(*arguments: str, cwd: Path | None = None, within_s: float = START_S) -> Ended:
    """Run ``heron-mqtt`` to its end."""
    with heron(*arguments, cwd=cwd) as program:
        return program.wait(within_s)
