"""How the system schedules a process, and programs that may not have a real-time priority."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from heron_mqtt.scheduling import priority_problem

PRIORITY = 3  # low: what other tests do shall go on

FIFO, ORDINARY = (os.SCHED_FIFO, PRIORITY), (os.SCHED_OTHER, 0)


def require_rights() -> None:
    """Skip a test where not even root has such priorities, as in most containers."""
    if (why := priority_problem(PRIORITY)) is not None:
        pytest.skip(f"real-time priorities cannot be had here: {why}")


def without_rights(command: list[str]) -> list[str]:
    """Return a command that runs another one without the right to have a priority, whoever runs it."""
    if os.geteuid() == 0 and priority_problem(PRIORITY) is None:
        command = [_tool("setpriv"), "--bounding-set", "-sys_nice", *command]
    return without_limit(command)


def without_limit(command: list[str]) -> list[str]:
    """Return a command that runs another one with no priority for those who depend on the limit."""
    return [_tool("prlimit"), "--rtprio=0:0", *command]


def scheduling(process: int) -> set[tuple[int, int]]:
    """Return policy and priority of every thread of a process."""
    threads = [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]
    return {(os.sched_getscheduler(t), os.sched_getparam(t).sched_priority) for t in threads}


def _tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name}: expected util-linux"
    return found
