"""Where records go by default: a directory, a name, and how many are kept."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

VARIABLE = "HERON_MQTT_RECORD"
"""Environment variable: the directory for records, or ``off``."""
DIRECTORY = "runs"
KEPT = 50
SUFFIX = ".heron"

_NAME = re.compile(r"^\d{8}T\d{6}(\d{3})?Z-.*\.heron$")


def default_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the directory for records; None = they are switched off."""
    said = environment.get(VARIABLE, "").strip() or DIRECTORY
    return None if said.lower() == "off" else Path(said)


def new_file(directory: Path, scenario: str, now: datetime) -> Path:
    """Return a name in ``directory`` that is not in use: time, then scenario."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", scenario)[:64] or "run"
    stem = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{name}"
    path, n = directory / f"{stem}{SUFFIX}", 2
    while path.exists():
        path, n = directory / f"{stem}-{n}{SUFFIX}", n + 1
    return path


def prune(directory: Path, kept: int = KEPT) -> list[Path]:
    """Delete the oldest records in ``directory`` beyond ``kept``; only those named as ``new_file`` does.

    One that another run may be writing to (its log stands beside it) stays.

    Returns:
        What was deleted.
    """
    found = sorted(path for path in directory.glob(f"*{SUFFIX}") if _NAME.match(path.name))
    gone = []
    for path in found[: max(0, len(found) - kept)]:
        if path.with_name(path.name + "-wal").exists():
            continue
        with contextlib.suppress(OSError):  # in use, or not ours: it stays
            path.unlink()
            gone.append(path)
    return gone
