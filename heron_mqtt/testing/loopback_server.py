"""A server process on a free loopback port, that can be killed and started again on the same port."""

from __future__ import annotations

import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from heron_mqtt.errors import NotReady

__all__ = ["LoopbackServer", "free_port"]


class LoopbackServer(ABC):
    """One server. ``start`` it, and ``stop`` or ``kill`` it in the end.

    Args:
        folder: For its configuration and log; it is there.

    Attributes:
        program: Its name; names its log, too.
        start_s, stop_s: How long it may take until it listens, and until it has ended, s.
        scheme: Of ``url``.
    """

    program: ClassVar[str]
    start_s: ClassVar[float] = 5.0
    stop_s: ClassVar[float] = 2.0
    scheme: str = "mqtt"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """Return what starts it on a port; writes its configuration.

        Raises:
            NotReady: It is not installed.
        """

    @property
    def url(self) -> str:
        """``scheme://host:port``, once started."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still, all of its threads, as after SIGSTOP."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] in {"T", "t"} for task in tasks)

    def log(self) -> str:
        """Return what it logged."""
        file = self._log_file
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def _log_file(self) -> Path:
        return self.folder / f"{self.program}.log"

    def start(self) -> Self:
        """Start on a free port, or on the port that it had before.

        Raises:
            NotReady: It is not installed, or does not start; the text has its log.
        """
        for _ in range(1 if self.port else 5):  # another process may take the free port first
            port = self.port or free_port()
            if self._try(port):
                self.port = port
                return self
        raise NotReady(f"{self.program} did not start: {self.log()[-500:]}")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(self.stop_s)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def _try(self, port: int) -> bool:
        command = self.command(port)
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - ours
        end = time.monotonic() + self.start_s
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.005)
            else:
                return self.process.poll() is None
        self.kill()
        return False


def free_port() -> int:
    """Return a port that no program listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
