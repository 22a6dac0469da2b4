"""Where programs keep what their next start has to know: a folder of the user's, and whole files in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from heron_mqtt.forced_files import make_folder


def state_directory() -> Path:
    """Return where counts and settings are kept that outlive a run."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "heron-mqtt"


def write_whole(file: Path, content: Any) -> list[Path]:
    """Write a file as JSON, so that it is there whole or as it was; its folder is made.

    Returns:
        What has to be forced to the disk, so that a power cut does not take it: see ``forced_files``.

    Raises:
        OSError: It cannot be written.
    """
    changed = make_folder(file.parent)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.replace(file)
    return [file, *changed]
