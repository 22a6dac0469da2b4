"""The code and files of people's own that a run has loaded, and whether they are still those of its record.

A policy is named by the scenario; what it imports is not, and decides just as much. Everything in
``sys.modules`` counts that is neither of this product nor of Python nor installed: such packages have
versions, or belong to the machine. So do files that a policy opens while it is made: see ``files_read``. What
it opens later, or asks another machine, cannot be seen here.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import heron_mqtt
import powergrid
from heron_mqtt.app.files_read import FilesRead
from heron_mqtt.errors import ConfigError
from heron_mqtt.record.facts import digest

MODULES = "modules"
"""Kind of the events of a record that name them."""

_INSTALLED = {"site-packages", "dist-packages"}  # folders
_PROGRAMS = {"__main__", "__mp_main__"}


class LoadedModules:
    """Notes modules once they are loaded.

    Args:
        known: Files that are noted elsewhere.
        recorded: What a record has of them, by module: the SHA-256, hex; empty where no run is resumed.
        event: Takes what is new: kind, subject, text and data of an event of a record; None = there is none.
        resumed: For messages: the record that is resumed.
        read: Files that were read while policies were made; None = not watched.
    """

    def __init__(
        self,
        known: Collection[Path],
        recorded: Mapping[str, str],
        event: Callable[[str, str, str, Mapping[str, Any]], None] | None,
        resumed: Path | None = None,
        read: FilesRead | None = None,
    ) -> None:
        self._known = {path.resolve() for path in known}
        self._recorded, self._event, self._resumed = recorded, event, resumed
        self._read = read
        self._seen: set[str] = set()
        self._count = -1

    def note(self) -> None:
        """Look what was loaded since the last time; costs next to nothing where that is nothing.

        Raises:
            ConfigError: A module is not the one that the record has.
        """
        if len(sys.modules) == self._count or self._event is None:
            return
        self._count = len(sys.modules)
        found = {}
        for name, module in list(sys.modules.items()):
            if name in self._seen:
                continue
            self._seen.add(name)
            path = own_file(name, module)
            if path is None or path in self._known:
                continue
            self._known.add(path)
            found[name] = self._told(name, f"module {name}", path)
        read, self._read = self._read, None
        for name, path in {} if read is None else read.found().items():
            if path not in self._known and not is_installed(path):
                found[name] = self._told(name, f"{name}, which a policy reads", path)
        new = {name: told for name, told in found.items() if name not in self._recorded}
        if new:
            self._event(MODULES, "", f"loaded: {', '.join(sorted(new))}", new)

    def _told(self, name: str, what: str, path: Path) -> dict[str, str]:
        """Return what a record keeps of a file.

        Raises:
            ConfigError: It is not the one that the record has.
        """
        told = {"name": path.name, "sha256": digest(path)}
        if self._recorded.get(name, told["sha256"]) != told["sha256"]:
            raise ConfigError(
                f"{what}: the file has changed ({path}) since the run of {self._resumed} began; put it back, "
                "or begin a new run"
            )
        return told


def is_installed(path: Path) -> bool:
    """Whether a file, resolved, is of Python, of this product or of an installed package."""
    return str(path).startswith(_ROOTS) or bool(_INSTALLED.intersection(path.parts))


def own_file(name: str, module: object) -> Path | None:
    """Return the file of a module of people's own, resolved; None = it is none, or has no file."""
    told = getattr(module, "__file__", None)
    if name in _PROGRAMS or not isinstance(told, str):
        return None
    if told.startswith(_ROOTS):  # nearly all: to look where links lead takes a while
        return None
    path = Path(told).resolve()
    if is_installed(path) or _INSTALLED.intersection(Path(told).parts):
        return None
    return path if path.is_file() else None


def _roots() -> tuple[str, ...]:
    """Return the folders of Python and of this product, as they are named and where they are."""
    places = sysconfig.get_paths()
    python = [places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    product = [package.__path__[0] for package in (heron_mqtt, powergrid)]
    named = [Path(place) for place in (*python, *product)]
    return tuple(sorted({f"{path}{os.sep}" for one in named for path in (one, one.resolve())}))


_ROOTS = _roots()
