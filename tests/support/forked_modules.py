"""A program that is a module of ours, forked from the process that starts it: what is imported is not again.

A record's writer, an embedded broker and the emulated devices of a run are processes of their own, started by
``python -P -m``. To import what they need takes them 0.1, 0.2 and 0.5 s of the processor, some hundred times
in a run of the tests. Here they are forks: still children with streams, folder, environment and signals of
their own, but the modules are as this process has them. With ``HERON_FRESH_PROCESSES=1``, as in ``.ci/slow``,
and in tests with the fixture ``fresh_programs`` Python starts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.end_signals import OF_THIS_PROGRAM
from heron_mqtt.forked_program import be_a_program, name_process
from heron_mqtt.service_manager import THE_SERVICE
from support import quick_lookups

__all__ = ["fork_modules", "import_programs", "starting_afresh"]

_COMMAND = [sys.executable, "-P", "-m"]
_PACKAGES = {"heron_mqtt", "powergrid"}
_IMPORTED_BY = {
    "heron_mqtt.record.writer_process": ("heron_mqtt.record.writer_main",),
    "heron_mqtt.messaging.embedded.process.supervisor": ("heron_mqtt.messaging.embedded.server.server",),
    "heron_mqtt.app.emulator_processes": ("powergrid.emulators.__main__", "powergrid.emulators.script"),
}
"""What a program imports, by the module that starts it."""
_WAITING = {
    ("threading.py", "wait"),
    ("threading.py", "_wait_for_tstate_lock"),
    ("selectors.py", "select"),
    ("socket.py", "accept"),
    ("programs.py", "_read"),  # what a program says
    ("device_process.py", "_read"),
    ("unix_events.py", "_do_waitpid"),
    ("selector_events.py", "_write_to_self"),  # has woken the loop that starts the program
    ("thread.py", "_worker"),  # of a pool, without work
    ("gateway_base.py", "read"),  # of pytest-xdist, from its controller
    ("<string>", "read"),  # the same, in a worker that has it from there
}
"""Where a thread waits, or is about to, and holds nothing that a fork might need: file and function."""


def fork_modules() -> None:
    """Have programs that are modules of ours forked from now on, wherever ``subprocess`` starts them.

    Raises:
        LookupError: This Python names what starts a process otherwise.
    """
    if not hasattr(subprocess, "_fork_exec"):
        raise LookupError("tests/support/forked_modules.py: subprocess of this Python has no _fork_exec")
    if not hasattr(subprocess._fork_exec, "real"):
        subprocess._fork_exec = _forked_or(subprocess._fork_exec)


@contextlib.contextmanager
def starting_afresh() -> Iterator[None]:
    """Have all programs started by Python meanwhile."""
    ours = subprocess._fork_exec
    subprocess._fork_exec = getattr(ours, "real", ours)
    try:
        yield
    finally:
        subprocess._fork_exec = ours


def import_programs() -> None:
    """Import what the programs do that modules imported here may start."""
    for starter, modules in _IMPORTED_BY.items():
        if starter in sys.modules:
            for module in modules:
                __import__(module)


def _forked_or(real: Callable[..., int]) -> Callable[..., int]:
    """Return what takes the arguments of ``_posixsubprocess.fork_exec``, in their order."""

    def fork_exec(
        args: Sequence[Any],
        executables: Any,
        close_fds: bool,
        kept: tuple[int, ...],
        cwd: Any,
        environment: list[bytes] | None,
        *rest: Any,
    ) -> int:
        words = [os.fsdecode(word) for word in args]
        its_input, _, _, its_output, _, its_error, _, error_pipe, _, session, group, *others = rest
        # No user, no group, no mask and no function before the program.
        is_plain = close_fds and others[:5] == [None, None, None, -1, None]
        if not (is_plain and _is_ours(words) and _others_wait()):
            return real(args, executables, close_fds, kept, cwd, environment, *rest)
        # Signals wait until the fork has forgotten our handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = _fork()
            if pid == 0:
                streams = (its_input, its_output, its_error)
                kept_open = sorted(set(kept) - {0, 1, 2, error_pipe})
                program = _Program(words[3:], streams, kept_open, cwd, environment, session, group, before)
                be_a_program(program.run)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    fork_exec.real = real
    return fork_exec


def _is_ours(words: list[str]) -> bool:
    return words[:3] == _COMMAND and len(words) > 3 and words[3].partition(".")[0] in _PACKAGES


def _others_wait() -> bool:
    """Whether no thread beside this one is in the midst of something: a lock that it held would stay held."""
    for thread, frame in sys._current_frames().items():
        place = (Path(frame.f_code.co_filename).name, frame.f_code.co_name)
        if thread != threading.get_ident() and place not in _WAITING:
            return False
    return True


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are other threads; they wait
        return os.fork()


@dataclass(frozen=True)
class _Program:
    """What a fork is to be."""

    words: Sequence[str]
    streams: Sequence[int]
    kept: Sequence[int]
    cwd: Any
    environment: Sequence[bytes] | None
    session: bool
    group: int
    heeds: set[signal.Signals | int]

    def run(self) -> int:
        """Be it; return the exit code."""
        # Garbage of the test may hold descriptors, and would close those that have their numbers.
        quick_lookups.freeze()
        _forget_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.heeds)
        if self.session:
            os.setsid()
        if self.group >= 0:
            os.setpgid(0, self.group)
        self._take_descriptors()
        if self.cwd is not None:
            os.chdir(self.cwd)
        if self.environment is not None:
            os.environ.clear()
            os.environb.update(entry.split(b"=", 1) for entry in self.environment)
            time.tzset()
        _forget_tests()
        name_process(Path(sys.executable).name)
        return _run_module(self.words)

    def _take_descriptors(self) -> None:
        for number, stream in enumerate(self.streams):
            if stream >= 0:
                os.dup2(stream, number)
        first = 3
        for descriptor in self.kept:
            os.closerange(first, descriptor)
            first = descriptor + 1
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _forget_signals() -> None:
    OF_THIS_PROGRAM.forget()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def _forget_tests() -> None:
    """Drop what pytest, a test and an event loop have put into this process."""
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
        2, "w", 1, errors="backslashreplace", closefd=False
    )
    sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("_pytest")]
    threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__
    warnings.simplefilter("ignore")
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    THE_SERVICE.forget()
    asyncio._set_running_loop(None)


def _run_module(words: Sequence[str]) -> int:
    module, sys.argv = words[0], list(words)
    for name in (module, f"{module}.__main__"):
        if not hasattr(sys.modules.get(name), "__path__"):
            sys.modules.pop(name, None)  # else runpy warns
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        if exc.code is not None:
            raise
    finally:
        threading._shutdown()
        sys.stdout.flush()
    return 0
