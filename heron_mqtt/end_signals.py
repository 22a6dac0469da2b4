"""How a program of ours is asked to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP do the same.

The first of them cancels the program's main task, which cleans up: leases are released, vendor's devices are
handed back, presences withdrawn. Further signals within ``GRACE_S`` change nothing. So a service manager that
sends two of them, or a key that is held down, does not interrupt the clean-up. Later signals do.

A signal that was ignored when the program started stays ignored. This is what ``nohup`` requests (SIGHUP),
and a shell that starts a background job in a script (SIGINT). The other two end the program all the same.

This module imports next to nothing: it is in force while all else is still being imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

END_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
GRACE_S = 5.0  # a clean-up takes 2 s at most
EXIT_INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended: 128 + SIGINT


class AskedToEnd(KeyboardInterrupt):
    """A signal asked this program to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def heeded() -> tuple[signal.Signals, ...]:
    """Return the signals that end this program: those that are not ignored."""
    return tuple(number for number in END_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


class EndSignals:
    """Takes the signals while inside; elsewhere than in the main thread it does nothing.

    Inside ``run`` the first signal cancels the main task; outside it raises ``AskedToEnd`` at once. While an
    event loop is made or closed it is noted, and heeded afterwards: a loop that is half made complains.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._before: dict[int, Any] = {}
        self._task: asyncio.Task[Any] | None = None
        self._asked: int | None = None
        self._asked_at = 0.0
        self._is_noting, self._noted = False, False
        self._terminals: list[int] = []

    def __enter__(self) -> Self:
        if self._depth == 0:
            self._asked = None
            self._install()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:  # what an outer one has taken stays taken
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()

    def forget(self) -> None:
        """In a process that was forked inside: have signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self._depth, self._task, self._asked, self._is_noting = 0, None, None, False

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._terminals = [fd for fd in (1, 2) if _is_terminal(fd)]
        for number in heeded():
            self._before[number] = signal.signal(number, self._on_signal)

    def run(
        self,
        main: Coroutine[Any, Any, T],
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> T:
        """Run a coroutine in an event loop of its own and return what it returns.

        Raises:
            AskedToEnd: A signal came, and the coroutine has cleaned up.
        """
        import asyncio

        from heron_mqtt.service_manager import THE_SERVICE

        if self._asked is not None:  # the error that said so got lost in code that was being imported
            main.close()
            raise AskedToEnd(self._asked)

        async def watched() -> T:
            self._task, self._is_noting = asyncio.current_task(), False
            if self._asked is not None:
                main.close()
                raise asyncio.CancelledError
            try:
                with THE_SERVICE.heartbeat(asyncio.get_running_loop()):
                    return await main
            finally:
                self._task, self._is_noting = None, True

        self._is_noting, self._noted = True, False
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                result = runner.run(watched())
        except asyncio.CancelledError:
            if self._asked is None:
                raise
            raise AskedToEnd(self._asked) from None
        finally:
            self._is_noting = False
        if self._noted and self._asked is not None:
            raise AskedToEnd(self._asked)
        return result

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._leave_terminals_that_are_gone()
        if self._asked is not None and time.monotonic() < self._asked_at + GRACE_S:
            return
        is_first, self._asked = self._asked is None, number
        self._asked_at = time.monotonic()
        task = self._task
        if is_first and self._is_noting:
            self._noted = True
            return
        if task is None or task.done() or not is_first:
            raise AskedToEnd(number)
        from heron_mqtt.service_manager import THE_SERVICE  # imported already: a task runs

        THE_SERVICE.tell_stopping()
        task.cancel()
        task.get_loop().call_soon_threadsafe(lambda: None)  # wake it where it waits for sockets

    def _leave_terminals_that_are_gone(self) -> None:
        """Write to nowhere what was for a terminal that has hung up: an error there is not ours."""
        for fd in self._terminals:
            if not _is_terminal(fd):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, fd)
                os.close(nowhere)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


OF_THIS_PROGRAM = EndSignals()
"""Signals belong to a process, so there is one of these for all of it."""


def run_until_told(
    main: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """Run a coroutine until it ends, or until a signal asks this program to end.

    Raises:
        AskedToEnd: A signal came, and the coroutine has cleaned up.
    """
    with OF_THIS_PROGRAM as signals:
        return signals.run(main, loop_factory)


def exit_code(asked: AskedToEnd) -> int:
    """Return the exit code of a program that serves: 0 for SIGTERM, its regular end, else 130."""
    return 0 if asked.number == signal.SIGTERM else EXIT_INTERRUPTED


async def until_input_ends(serving: asyncio.Task[None]) -> None:
    """Wait for a task, and cancel it when standard input ends: a supervisor holds the other end.

    Raises:
        CancelledError: The task that waits here was cancelled itself; ``serving`` is then, too.
    """
    import asyncio

    loop = asyncio.get_running_loop()

    def end() -> None:
        # it stays readable, and each further cancel would break off the clean-up
        loop.remove_reader(sys.stdin)
        serving.cancel()

    loop.add_reader(sys.stdin, end)  # readable means closed: it is never written to
    try:
        await serving
    except asyncio.CancelledError:
        waiting = asyncio.current_task()
        if waiting is not None and waiting.cancelling():
            raise
    finally:
        loop.remove_reader(sys.stdin)
