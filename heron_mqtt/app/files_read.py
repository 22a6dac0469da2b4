"""The files that the code of a policy opens by itself while it is made: weights, tables, code loaded by path.

No key of the scenario names them, and no module stands for them. Python reports each file that is opened (an
audit event), whoever opens it. Only files that are read, and that are beside the scenario or in the working
directory, count. Other files (caches, settings of libraries) belong to the machine and may change at any
time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_CACHED = (".pyc", ".pyo")


class FilesRead:
    """Notes which files are read, in one thread at a time, while it watches.

    Args:
        folders: What counts lies below one of them, and in no hidden folder; the first one names a file.
    """

    def __init__(self, *folders: Path) -> None:
        resolved = (folder.resolve() for folder in folders)
        self._folders = [folder for folder in resolved if folder != folder.parent]  # a service works in "/"
        self._opened: dict[str, bool] = {}  # path: whether it was written, too

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note what this thread opens meanwhile."""
        _install()
        thread = threading.get_ident()
        _watching[thread] = self
        try:
            yield
        finally:
            _watching.pop(thread, None)

    def note_opened(self, path: str, *, is_written: bool) -> None:
        """Take note of a file that is opened; it need not be there."""
        path = os.path.abspath(path)  # noqa: PTH100 - as text: looked at where all have been opened
        self._opened[path] = self._opened.get(path, False) or is_written

    def found(self) -> dict[str, Path]:
        """Return the files that were only read, resolved, by what names them in a record."""
        found = {}
        for opened, is_written in tuple(self._opened.items()):
            path = Path(opened)
            if path.suffix in _CACHED:  # what counts is what it was made of, where that is there
                with contextlib.suppress(ValueError):
                    source = Path(importlib.util.source_from_cache(opened))
                    path = source if source.is_file() else path
            if is_written or not path.is_file():
                continue
            path = path.resolve()
            name = self._name(path)
            if name is not None:
                found[name] = path
        return found

    def _name(self, path: Path) -> str | None:
        for folder in self._folders:
            if path.is_relative_to(folder):
                inner = path.relative_to(folder)
                return (
                    None if any(part.startswith(".") for part in inner.parts) else f"file {inner.as_posix()}"
                )
        return None


_watching: dict[int, FilesRead] = {}
_installed = threading.Event()


def _install() -> None:
    """Let Python report each event; this cannot be undone, and costs nothing while it is not used."""
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event != "open":
        return
    watcher = _watching.get(threading.get_ident())
    if watcher is None:
        return
    path, mode, flags = arguments
    if isinstance(path, int) or path is None:
        return
    is_written = bool(flags & _WRITES) if mode is None else not set(mode).isdisjoint("wax+")
    with contextlib.suppress(TypeError, ValueError, OSError):
        watcher.note_opened(os.fsdecode(path), is_written=is_written)
