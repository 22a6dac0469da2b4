"""A mosquitto process on a free loopback port, that can be killed and started again on the same port."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path

from heron_mqtt.errors import NotReady

START_S = 5.0
# mosquitto's defaults lose QoS 1 messages when a reader stalls, and delay small packets
BASE = ("set_tcp_nodelay true", "max_queued_messages 0", "max_inflight_messages 0", "persistence false")


def executable() -> str | None:
    """Return where mosquitto is installed, or None."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """One mosquitto. ``start`` it, and ``stop`` or ``kill`` it in the end.

    Args:
        folder: For its configuration and log; it is there.
        lines: Configuration beside ``BASE``; without them everybody may connect.
    """

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder = folder
        self.lines = lines or ("allow_anonymous true",)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``mqtt://host:port``, once started."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> Mosquitto:
        """Start on a free port, or on the port that it had before.

        Raises:
            NotReady: It is not installed, or does not come up; with what it logged.
        """
        if executable() is None:
            raise NotReady("mosquitto is not installed (Debian: apt install mosquitto)")
        for _ in range(1 if self.port else 5):  # another process may take the free port first
            port = self.port or _free_port()
            if self._try(port):
                self.port = port
                return self
        log = (self.folder / "mosquitto.log").read_text(errors="replace")
        raise NotReady(f"mosquitto did not start: {log[-500:]}")

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
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def _try(self, port: int) -> bool:
        config = self.folder / "mosquitto.conf"
        # as root it would become the user mosquitto, who cannot read the test's files
        user = f"user {getpass.getuser()}"
        config.write_text("\n".join([f"listener {port} 127.0.0.1", user, *BASE, *self.lines, ""]))
        program = executable()
        assert program is not None
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [program, "-c", str(config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - ours
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.005)
            else:
                return self.process.poll() is None
        self.kill()
        return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
