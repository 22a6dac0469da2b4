"""A mosquitto process on a free loopback port, that can be killed and started again on the same port."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path
from typing import ClassVar

from heron_mqtt.errors import NotReady
from heron_mqtt.testing.loopback_server import LoopbackServer

# mosquitto's defaults lose QoS 1 messages when a reader stalls, and delay small packets
BASE = ("set_tcp_nodelay true", "max_queued_messages 0", "max_inflight_messages 0", "persistence false")


def executable() -> str | None:
    """Return where mosquitto is installed, or None."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Mosquitto(LoopbackServer):
    """One mosquitto; see ``LoopbackServer``.

    Args:
        folder: For its configuration and log; it is there.
        lines: Configuration beside ``BASE``; without them every client may connect.
    """

    program: ClassVar[str] = "mosquitto"

    def __init__(self, folder: Path, *lines: str) -> None:
        super().__init__(folder)
        self.lines = lines or ("allow_anonymous true",)

    def command(self, port: int) -> list[str]:
        """Return what starts it on a port; writes its configuration."""
        program = executable()
        if program is None:
            raise NotReady("mosquitto is not installed (Debian: apt install mosquitto)")
        config = self.folder / "mosquitto.conf"
        # as root it would become the user mosquitto, who cannot read the test's files
        user = f"user {getpass.getuser()}"
        config.write_text("\n".join([f"listener {port} 127.0.0.1", user, *BASE, *self.lines, ""]))
        return [program, "-c", str(config)]
