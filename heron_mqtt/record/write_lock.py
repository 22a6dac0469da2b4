"""WriteLock: one process at a time writes to a record; the system keeps it, so that no death leaves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: there a second writer is not refused
    fcntl = None

__all__ = ["WriteLock"]


class WriteLock:
    """Held from its making until every process that inherited it has closed it or ended.

    A lock of the whole file (``flock``), of which SQLite's own locks (of ranges, ``fcntl``) know nothing.

    Args:
        path: A record.

    Raises:
        BlockingIOError: Another one holds it.
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            if fcntl is not None:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back, as far as this process is concerned. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
