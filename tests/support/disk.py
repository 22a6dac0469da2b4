"""The disk as a test wants it: what is forced to it, and how long it takes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def soon(condition: Callable[[], bool], what: str) -> None:
    """Wait for a thread; the clock of the devices stands still."""
    ends = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.002)


class Disk:
    """Notes what is forced to the disk, and takes as long for it as the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forced: list[Path] = []
        self.works = threading.Event()
        self.works.set()
        soon(
            lambda: not any(thread.name.startswith("disk ") for thread in threading.enumerate()),
            "the disk to have what earlier tests wrote",
        )
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        self.forced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        assert self.works.wait(30.0)

    @property
    def files(self) -> int:
        """How often a file was forced."""
        return sum(path.suffix == ".json" for path in self.forced)
