"""Files that a power cut must not take: what was written is forced to the disk, with its folders."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["DiskThread", "force", "make_folder"]


def make_folder(folder: Path, mode: int = 0o777) -> list[Path]:
    """Make a folder, with those that it is in.

    Args:
        folder: May be there already.
        mode: Who may use it, as of ``Path.mkdir``.

    Returns:
        The folders that have a new entry once a file is made in it, to be forced with that file.

    Raises:
        OSError: It cannot be made.
    """
    changed = [folder]
    while not changed[-1].exists():
        changed.append(changed[-1].parent)
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    return changed


def force(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk as they are; a disk may take long for it.

    Raises:
        OSError: The disk says that they are not.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class DiskThread:
    """Forces what one user of it has written, in a thread, however long that takes.

    One thread at a time; what is written while it works is forced after that, in one.

    Args:
        name: Of the thread.
        report: Is told where something was not forced; called in that thread, or in that of the caller.
    """

    def __init__(self, name: str, report: Callable[[Exception], None]) -> None:
        self._name, self._report = name, report
        self._lock = threading.Lock()  # of the two below
        self._work: Callable[[], None] | None = None
        self._is_forcing = False

    def do(self, work: Callable[[], None]) -> bool:
        """Have something forced soon; return whether that has begun, or will.

        Args:
            work: Forces all that was written until now; raises an ``OSError`` if it cannot.
        """
        with self._lock:
            self._work = work
            if self._is_forcing:
                return True
            self._is_forcing = True
        try:
            threading.Thread(target=self._do_all, name=self._name, daemon=True).start()
        except RuntimeError as exc:  # the system has no room for one more
            with self._lock:
                self._is_forcing = False
            self._report(exc)
            return False
        return True

    def _do_all(self) -> None:
        while True:
            with self._lock:
                work, self._work = self._work, None
                self._is_forcing = work is not None
            if work is None:
                return
            try:
                work()
            except OSError as exc:
                self._report(exc)
