"""A program of ours as a fork of this process, so that it need not import the same modules again.

This is used only at the beginning of a program, before its event loop starts and while it has one thread.
Another thread could hold a lock that no thread in the fork would ever release.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from heron_mqtt.end_signals import END_SIGNALS, EXIT_INTERRUPTED, OF_THIS_PROGRAM
from heron_mqtt.program_folders import remove_program_folders
from heron_mqtt.service_manager import THE_SERVICE

if TYPE_CHECKING:
    import asyncio

__all__ = ["ForkedProgram", "be_a_program", "fork_program", "forked", "name_process"]


class ForkedProgram:
    """A forked process with pipes to its standard input and output; see ``fork_program``.

    Once it is ``open`` it is used as an ``asyncio.subprocess.Process``.

    Args:
        pid: Its process, the leader of a session and of a process group.
        pipes: Our ends of its standard input, output, and error (None = it has ours).
    """

    def __init__(self, pid: int, pipes: tuple[int, int, int | None]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """As ``subprocess`` has it; None = it has not ended, or that was not noticed yet."""
        self.stdin: asyncio.WriteTransport | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._pipes: tuple[int, int, int | None] | None = pipes
        self._watched = -1
        self._ended: asyncio.Event | None = None

    async def open(self, limit: int) -> None:
        """Take its pipes into the running event loop; ``limit``: of a line, bytes.

        Where that fails or is cancelled, our ends are closed, so that its input ends.
        """
        import asyncio

        assert self._pipes is not None, "it is opened once"
        (stdin, stdout, stderr), self._pipes = self._pipes, None
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            # a file closes itself once, also where a transport has closed it already
            its_input = undo.enter_context(os.fdopen(stdin, "wb", 0))
            its_output = undo.enter_context(os.fdopen(stdout, "rb", 0))
            its_error = None if stderr is None else undo.enter_context(os.fdopen(stderr, "rb", 0))
            self._ended = asyncio.Event()
            self._watched = os.pidfd_open(self.pid)
            undo.callback(self._watch_no_more)
            loop.add_reader(self._watched, self._reap)
            self.stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, its_input)
            undo.callback(self.stdin.abort)
            self.stdout, output = await _reader(its_output, limit)
            undo.callback(output.close)
            if its_error is not None:
                self.stderr, _ = await _reader(its_error, limit)
            undo.pop_all()

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        assert self._ended is not None, "open() comes first"
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it by force; raises ``ProcessLookupError`` if it is known to have ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill the program and all its child processes; without an event loop.

        One that ended by itself with exit code 0 has waited for what it started.
        """
        if self._pipes is not None:
            _close(self._pipes)
            self._pipes = None
        if self._watched >= 0:
            os.close(self._watched)
            self._watched = -1
        if self.returncode != 0:  # its group lives as long as one of its processes does
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # it may not have made its group yet
            self._note_end(0)

    def _reap(self) -> None:
        self._note_end(os.WNOHANG)
        if self.returncode is not None and self._ended is not None:
            self._watch_no_more()
            self._ended.set()

    def _watch_no_more(self) -> None:
        import asyncio

        if self._watched >= 0:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = -1

    def _note_end(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:  # its end was collected elsewhere
            self.returncode = 255
            return
        if pid == self.pid:
            self.returncode = os.waitstatus_to_exitcode(status)


def _close(pipes: tuple[int | None, ...]) -> None:
    for pipe in pipes:
        if pipe is not None:
            os.close(pipe)


async def _reader(pipe: IO[bytes], limit: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    import asyncio

    reader = asyncio.StreamReader(limit)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    return reader, transport


def fork_program(
    main: Callable[[], int], environment: Mapping[str, str], *, own_stderr: bool
) -> ForkedProgram | None:
    """Fork a process that runs ``main`` and ends with its exit code; return None where that is not possible.

    The fork has nothing of this process except its imported modules. It has no descriptor beside the three,
    no log and no signal handler. Its standard input ends when this process ends.

    Args:
        main: What it runs. It starts where this process is now.
        environment: Its environment.
        own_stderr: Whether its standard error is a pipe to us, too; else it is ours.
    """
    if not _may_fork():
        return None
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else it would be written twice
    its_input, our_input = os.pipe()
    our_output, its_output = os.pipe()
    our_error, its_error = os.pipe() if own_stderr else (None, None)
    its, ours = (its_input, its_output, its_error), (our_input, our_output, our_error)
    program: ForkedProgram | None = None
    try:
        with _end_signals_held_back() as heeds:
            pid = os.fork()
            if pid == 0:
                _become(main, environment, its, heeds)
            program = ForkedProgram(pid, ours)
    except OSError:  # too many processes, or too little memory
        _close(ours)
    except BaseException:  # asked to end meanwhile
        if program is None:
            _close(ours)
        else:
            program.abandon()
        raise
    finally:
        _close(its)
    return program


@contextlib.contextmanager
def _end_signals_held_back() -> Iterator[set[signal.Signals | int]]:
    """Have them wait inside, and yield the mask from before.

    One that reached a fork before it has forgotten our handlers would raise there, in the midst of our code.
    """
    heeds = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        yield heeds
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heeds)


def name_process(name: str) -> None:
    """Have ``ps`` and ``top`` call this process ``name`` (15 bytes), and not as what it was forked from."""
    with contextlib.suppress(OSError):  # where there is no /proc, all are called python
        Path("/proc/self/comm").write_text(name, encoding="utf-8")


@contextlib.contextmanager
def forked(
    main: Callable[[], int], environment: Mapping[str, str], *, own_stderr: bool
) -> Iterator[ForkedProgram | None]:
    """Fork a program that is gone at the end; see ``fork_program``."""
    program = fork_program(main, environment, own_stderr=own_stderr)
    try:
        yield program
    finally:
        if program is not None:
            program.abandon()


def _may_fork() -> bool:
    """Whether this is Linux, and this thread the only one, those of libraries included."""
    if not hasattr(os, "pidfd_open") or threading.current_thread() is not threading.main_thread():
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))  # a kernel may be too old for it, a sandbox may forbid it
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


def _become(
    main: Callable[[], int],
    environment: Mapping[str, str],
    pipes: tuple[int, int, int | None],
    heeds: set[signal.Signals | int],
) -> NoReturn:
    def run() -> int:
        OF_THIS_PROGRAM.forget()
        signal.pthread_sigmask(signal.SIG_SETMASK, heeds)
        os.setsid()
        for number, pipe in enumerate(pipes):
            if pipe is not None:
                os.dup2(pipe, number)
        for descriptor in list(Path("/proc/self/fd").iterdir()):
            if int(descriptor.name) > 2:
                with contextlib.suppress(OSError):  # the one that they were listed by
                    os.close(int(descriptor.name))
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
            for number in (1, 2)
        )
        logging.root.handlers.clear()
        logging.root.setLevel(logging.WARNING)
        its_own = dict(environment)  # it may be this process's
        os.environ.clear()
        os.environ.update(its_own)
        THE_SERVICE.forget()
        return main()

    be_a_program(run)


def be_a_program(run: Callable[[], int]) -> NoReturn:
    """Run in a process that was forked for it, and end it as a program ends: nothing of its parent's runs on.

    Args:
        run: Returns the exit code.
    """
    code: Any = 1
    try:
        code = run()
    except SystemExit as exc:
        code = exc.code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BaseException:  # a bug: its traceback, as at the end of any program
        traceback.print_exc()
    finally:
        remove_program_folders()
        os._exit(code if isinstance(code, int) else 1)  # the rest of the interpreter is the parent's
