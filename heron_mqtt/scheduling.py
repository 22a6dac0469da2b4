"""Real-time scheduling (SCHED_FIFO of Linux) of a program that must answer in time.

A thread with a real-time priority runs as soon as it can, before every thread without one, until it waits. So
it must be a program that waits, for a clock or for messages. A program that computes without end would leave
only 5 % of the machine to others, which Linux keeps for them (``sched_rt_runtime_us``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from heron_mqtt.errors import ConfigError

__all__ = [
    "MAX_PRIORITY",
    "MIN_PRIORITY",
    "PRIORITY_MEANS",
    "SUGGESTED_PRIORITY",
    "add_priority_option",
    "is_possible_here",
    "ordinary_scheduling",
    "priority_problem",
    "real_time_priority",
    "require_priority",
]

MIN_PRIORITY, MAX_PRIORITY = 1, 99  # of SCHED_FIFO on Linux
SUGGESTED_PRIORITY = 40
"""Above what else has one, and below the threads of interrupts (50) of a kernel with PREEMPT_RT."""
PRIORITY_MEANS = "Real-time priority, 1 to 99 (Linux, SCHED_FIFO): before all programs without one."

_OPTION = "--priority"
_TASKS = Path("/proc/self/task")


def is_possible_here() -> bool:
    """Whether this system has such priorities, with or without the right to use them."""
    return hasattr(os, "SCHED_FIFO") and _TASKS.is_dir()


def priority_problem(priority: int) -> str | None:
    """Return why this process cannot have a priority, as one line that begins with the option; None = it can.

    It is tried: limits and capabilities say less than the system does.
    """
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        return f"{_OPTION} {priority}: expected {MIN_PRIORITY} to {MAX_PRIORITY}"
    if not is_possible_here():
        return f"{_OPTION} {priority}: only Linux has it, with /proc; leave it out"
    before = _of_this_thread()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return _no_right(priority)
    with contextlib.suppress(PermissionError):  # it had a higher one, which it may give up but not take
        os.sched_setscheduler(0, *before)
    return None


def require_priority(priority: int | None) -> None:
    """See that this process can have a priority; None = none is wanted.

    Raises:
        ConfigError: It cannot; the text names the missing right.
    """
    if priority is not None and (problem := priority_problem(priority)) is not None:
        raise ConfigError(problem)


@contextlib.contextmanager
def real_time_priority(priority: int | None, groups: Collection[int] = ()) -> Iterator[None]:
    """Give this process a priority, and every process of some process groups; take it away at the end.

    All threads have it, those of libraries too: they share the interpreter's lock, and one without a priority
    would have to be waited for while it holds that. Threads and processes that start meanwhile inherit it, so
    what computes for long is started before, or calls ``ordinary_scheduling``.

    Args:
        priority: 1 to 99; None = nothing changes.
        groups: Ids of process groups, of programs that this one waits for.

    Raises:
        ConfigError: The system does not allow it; the text names the missing right.
    """
    if priority is None:
        yield
        return
    require_priority(priority)
    before = _of_this_thread()
    try:
        try:
            _schedule(groups, os.SCHED_FIFO, os.sched_param(priority))
        except PermissionError:
            raise ConfigError(_no_right(priority)) from None
        yield
    finally:
        with contextlib.suppress(PermissionError):  # see priority_problem
            _schedule(groups, *before)


def ordinary_scheduling() -> None:
    """Have this thread, and what it starts from here on, no priority, whatever it has inherited.

    For what computes or writes to a disk beside a program that must answer in time.
    """
    if not is_possible_here():
        return
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in {os.SCHED_FIFO, os.SCHED_RR}:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def add_priority_option(parser: argparse.ArgumentParser) -> None:
    """Give a program that serves the option ``--priority``; it is checked where it is used."""
    parser.add_argument(_OPTION, type=int, metavar="N", help=PRIORITY_MEANS)


def _of_this_thread() -> tuple[int, os.sched_param]:
    return os.sched_getscheduler(0), os.sched_getparam(0)


def _schedule(groups: Collection[int], policy: int, parameters: os.sched_param) -> None:
    done: set[int] = set()
    while new := set(_tasks(groups)) - done:  # one may have started another before it had the priority
        for task in new:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setscheduler(task, policy, parameters)
        done |= new


def _tasks(groups: Collection[int]) -> Iterator[int]:
    """Return every thread of this process and of the processes of some groups."""
    yield from _numbers(_TASKS)
    for process in _numbers(Path("/proc")) if groups else ():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process) in groups:
                yield from _numbers(Path(f"/proc/{process}/task"))


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    except (FileNotFoundError, ProcessLookupError):  # of a process that has ended meanwhile
        return []


def _no_right(priority: int) -> str:
    import resource  # where there is SCHED_FIFO, there are limits

    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if limit == resource.RLIM_INFINITY or limit >= priority or os.geteuid() == 0:
        return (
            f"{_OPTION} {priority}: not allowed here: this container, sandbox or control group gives no "
            "real-time scheduling; allow CAP_SYS_NICE (--cap-add SYS_NICE), or leave it out"
        )
    return (
        f"{_OPTION} {priority}: not allowed to this user, whose limit is {limit}: needs root, CAP_SYS_NICE, "
        f"or a limit of {priority}: LimitRTPRIO={priority} in a systemd unit, rtprio in "
        "/etc/security/limits.conf (ulimit -r shows it)"
    )
