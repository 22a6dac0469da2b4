"""LockedFile: a file that one process at a time has; the system keeps the lock, so no death leaves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from heron_mqtt.forced_files import force, make_folder
from heron_mqtt.forked_processes import close_when_forked

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["CAN_LOCK", "LockedFile", "is_in_place"]

CAN_LOCK = fcntl is not None
"""Whether this system locks files so that a lock proves that its process lives; else nothing is locked."""


class LockedFile:
    """A file, open and locked from its making until it is closed or its process has ended.

    A lock of the whole file (``flock``), of which SQLite's own locks (of ranges, ``fcntl``) know nothing.
    It proves that a process has not ended, also where that stands still (SIGSTOP, a hanging disk).

    Args:
        path: The file.
        makes: Make it for this user alone, with its folder, and refuse a link in its place. Else it is there.
        is_inherited: Child processes that inherit the file also hold its lock, until each has closed it or
            ended. Else those that are forked do not.

    Raises:
        BlockingIOError: Another one has it.
        OSError: It cannot be opened for writing, or locked.
    """

    def __init__(self, path: Path, *, makes: bool = False, is_inherited: bool = False) -> None:
        self.path = path
        self.descriptor = -1
        """Of the open file; -1 = it is closed."""
        self._to_force = [path]
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        if makes:
            flags |= os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            self._to_force += make_folder(path.parent, 0o700)
        if not is_inherited:
            close_when_forked(self)
        self.descriptor = os.open(path, flags, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it is open here; a process that was just forked has closed what its parent has."""
        return self.descriptor >= 0

    @property
    def is_in_place(self) -> bool:
        """Whether its path still leads to it: no one has removed it, or put another file there."""
        return is_in_place(self.path, self.descriptor)

    def read(self, most_bytes: int) -> bytes:
        """Return what stands in it, at most so many bytes."""
        return os.pread(self.descriptor, most_bytes, 0)

    def rewrite(self, content: bytes, size: int) -> None:
        """Replace what stands in it, in place: another file would have another lock.

        Args:
            content: Of at most ``size`` bytes; filled up with spaces.
            size: Always the same, bytes: what is written in one piece is there whole, or as it was.

        Raises:
            OSError: It cannot be written, or is longer; then what stood in it does still.
        """
        if len(content) > size:  # else a part of it would stand there, and what was there be lost
            raise OSError(f"{len(content)} bytes; expected at most {size}")
        written = os.pwrite(self.descriptor, content.ljust(size), 0)
        if written != size:
            raise OSError(f"{written} of {size} bytes")
        os.ftruncate(self.descriptor, size)

    def force(self) -> None:
        """Wait until what was written is on the disk, so that a power cut takes none of it.

        A disk may take long for it. It may be called in another thread, also after ``close``.

        Raises:
            OSError: The disk says that it is not.
        """
        force(self._to_force)

    def close(self) -> None:
        """Let another one have it, as far as this process is concerned. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def is_in_place(path: Path, descriptor: int) -> bool:
    """Whether a path leads to an open file; where the system does not say, it does."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
