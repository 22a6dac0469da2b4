"""Where programs keep what their next start has to know: a folder of the user's, and whole files in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def state_directory() -> Path:
    """Return where counts and settings are kept that outlive a run."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "heron-mqtt"


def write_whole(file: Path, content: Any) -> None:
    """Write a file as JSON, so that it is there whole or as it was; its folder is made.

    Raises:
        OSError: It cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.replace(file)
