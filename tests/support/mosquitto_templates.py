"""The shipped files of mosquitto's, for a mosquitto of a test."""

from __future__ import annotations

import re
from pathlib import Path

from heron_mqtt.config import shipped_config


def template(name: str, folder: Path, *, without: str = "") -> list[str]:
    """Return the lines of a shipped file of mosquitto's, with the paths of this test."""
    lines = (shipped_config() / "mosquitto" / name).read_text("utf-8").splitlines()
    used = [re.sub(r"/(etc|var/lib)/mosquitto/?", f"{folder}/", line) for line in lines]
    skipped = ("listener", "set_tcp_nodelay", "max_queued", "max_inflight", without or "#")
    return [line for line in used if line and not line.startswith(("#", *skipped))]
