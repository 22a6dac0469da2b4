"""``heron-mqtt`` as a user starts it: the command itself, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
from support.fork_server import ForkServer

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
    "until",
    "write_toml",
]

FORK_SERVER = ForkServer()
HERON = str(Path(sys.executable).with_name("heron-mqtt"))


class HeronProgram(Program):
    """A program; where it is ``heron-mqtt``, its modules are imported already.

    ``HERON_FRESH_PROCESSES`` starts that one, too, from nothing.
    """

    def _started(self, arguments: list[str], cwd: Path | None, environment: dict[str, str]) -> Started:
        if arguments[0] != HERON or environment.get("HERON_FRESH_PROCESSES"):
            return super()._started(arguments, cwd, environment)
        return FORK_SERVER.start(arguments[1:], cwd, environment)


def heron(*arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Program:
    """Start ``heron-mqtt``; its modules are imported already, unless ``HERON_FRESH_PROCESSES`` is set."""
    return HeronProgram([HERON, *arguments], cwd=cwd, environment=environment)


def run_heron(*arguments: str, cwd: Path | None = None, within_s: float = START_S) -> Ended:
    """Run ``heron-mqtt`` to its end."""
    with heron(*arguments, cwd=cwd) as program:
        return program.wait(within_s)
