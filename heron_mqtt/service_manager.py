"""What a program of ours reports to systemd, or another supervisor with its protocol (sd_notify).

``READY=1`` when it works, ``STATUS=`` with its progress, ``STOPPING=1`` when it was asked to end.
``WATCHDOG=1`` is sent twice in each ``WATCHDOG_USEC`` while its event loop runs. Where ``NOTIFY_SOCKET`` is
not set, nothing happens. The variables are taken out of the environment: children are not the service.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["THE_SERVICE", "ServiceManager"]

STATUS_S = 1.0  # between two lines of status


class ServiceManager:
    """Sends datagrams to the socket that ``NOTIFY_SOCKET`` names, a path or ``@`` and an abstract name.

    A socket that is gone or full is no reason to fail: the supervisor then misses the watchdog, and acts.

    Args:
        environment: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read, and taken out.
        clock: Monotonic time, s.
    """

    def __init__(
        self, environment: MutableMapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._socket: socket.socket | None = None
        self._address: str | None = None
        self._watchdog_s: float | None = None
        self._is_ready = self._is_stopping = False
        self._status_at_s = -STATUS_S

    def forget(self) -> None:
        """In a process that was forked from the service: say nothing."""
        self._read()
        self._address = self._socket = self._watchdog_s = None

    @property
    def watchdog_s(self) -> float | None:
        """How long it may be silent, s; None = no watchdog, or that of another process."""
        self._read()
        return self._watchdog_s

    def tell_ready(self, status: str) -> None:
        """Say once that the program does its work from here on."""
        if not self._is_ready:
            self._is_ready = True
            self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def tell_status(self, status: str) -> None:
        """Say what it is doing; once a second at most, and not before it is ready."""
        now_s = self._clock()
        if self._is_ready and now_s >= self._status_at_s + STATUS_S:
            self._status_at_s = now_s
            self._send(f"STATUS={_one_line(status)}")

    def tell_stopping(self) -> None:
        """Say once that it ends."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1")

    @contextlib.contextmanager
    def heartbeat(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Say that the program lives for as long as ``loop`` turns; at the end that it stops."""
        watchdog_s = self.watchdog_s
        timer: asyncio.TimerHandle | None = None

        def beat() -> None:
            nonlocal timer
            self._send("WATCHDOG=1")
            assert watchdog_s is not None
            timer = loop.call_later(watchdog_s / 2.0, beat)

        if watchdog_s is not None:
            import faulthandler

            faulthandler.enable()  # a watchdog that bites sends SIGABRT: the journal has where we hung
            beat()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self.tell_stopping()

    def _read(self) -> None:
        take = self._environment.pop
        name, usec, pid = (take(key, "") for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        if not name:
            return
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        is_ours = not pid or pid == str(os.getpid())
        if is_ours and usec.isdecimal() and int(usec) > 0:
            self._watchdog_s = int(usec) / 1e6

    def _send(self, text: str) -> None:
        self._read()
        if self._address is None:
            return
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(text.encode(), self._address)


def _one_line(text: str) -> str:
    return " ".join(text.split())


THE_SERVICE = ServiceManager(os.environ)
"""The variables belong to a process, so there is one of these for all of it."""
