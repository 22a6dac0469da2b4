"""Folders that a program needs while it runs, removed at its end, also if that is not the interpreter's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

_made: list[tuple[int, TemporaryDirectory[str]]] = []


def program_folder(prefix: str) -> Path:
    """Return a new folder in the system's place for temporary ones, its name beginning with ``prefix``."""
    from tempfile import TemporaryDirectory  # few programs need one

    folder = TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    _made.append((os.getpid(), folder))
    return Path(folder.name)


def remove_program_folders() -> None:
    """Remove those of this process; a fork of it leaves them to it."""
    for pid, folder in _made:
        if pid == os.getpid():
            folder.cleanup()
