"""Compiled grids: shipped with the package, or stored in the user's cache directory.

Building a network with pandapower and compiling it takes longer than a day's run. The result depends on the
network, on the places of microgrids and devices, and on the compiling code. A compiled grid is used only if
all of these are the same; the key of its file is a hash of them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import stat
import tempfile
import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Self

from powergrid.networks import find_source
from powergrid.networks.devices import table_of
from powergrid.scenario import LoadedScenario
from powergrid.simulation import grid_file
from powergrid.simulation.placed_grid import CompiledGrid, network_source

__all__ = ["OFF", "SHIPPED_GRIDS", "VARIABLE", "GridCache", "grid_key"]

logger = logging.getLogger(__name__)

VARIABLE = "HERON_MQTT_GRID_CACHE"
"""Environment variable: a directory to keep grids in, or ``OFF``."""
OFF = "off"
SHIPPED_GRIDS = Path(__file__).parent / "compiled_grids"
MAX_FILES = 100  # of some ten kB each; beyond that, the least recently used files are removed
MAX_BYTES = 64 * 2**20

_PACKAGE = Path(__file__).parent.parent
_COMPILING_CODE = (  # what decides the content of a file
    *("networks/builders.py", "networks/devices.py", "networks/diagram.py", "networks/json_file.py"),
    *("networks/library.py", "networks/loader.py", "networks/membership.py", "networks/sites.py"),
    *("powerflow/adapter.py", "powerflow/arrays.py", "powerflow/injections.py", "powerflow/taps.py"),
    *("powerflow/unsupported.py", "simulation/grid_file.py", "simulation/placed_grid.py"),
)
# What numpy, zipfile and we raise for a file that is not what was written.
_DAMAGED = (
    *(ValueError, KeyError, TypeError, OSError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


class GridCache:
    """Finds and keeps compiled grids.

    Args:
        directory: Where grids are kept; None = nowhere, only the shipped ones are found.
        shipped: Where grids are that came with the package; never written to.
    """

    def __init__(self, directory: Path | None, shipped: Path = SHIPPED_GRIDS) -> None:
        self._directory, self._shipped = directory, shipped

    @classmethod
    def of_this_user(cls) -> Self | None:
        """Return the cache of the user who runs this; None if it is switched off.

        It is ``$HERON_MQTT_GRID_CACHE``, or else ``heron-mqtt/grids`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
        """
        said = os.environ.get(VARIABLE)
        if said == OFF:
            return None
        if said:
            return cls(Path(said))
        try:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return cls(None)
        return cls(Path(home) / "heron-mqtt" / "grids")

    def key(self, loaded: LoadedScenario) -> str | None:
        """Return the key of a scenario's grid; see ``grid_key``."""
        return grid_key(loaded)

    def find(self, key: str) -> CompiledGrid | None:
        """Return the grid with this key; None if there is none."""
        if self._directory is not None:
            file = _file(self._directory, key)
            if _is_safe(file) and (known := _read(file)) is not None:
                with contextlib.suppress(OSError):  # a read-only directory: nothing is removed from it either
                    os.utime(file)
                return known
        return _read(_file(self._shipped, key))

    def keep(self, key: str, grid: CompiledGrid) -> None:
        """Store a grid with this key; a failure is logged and changes nothing else."""
        if self._directory is None:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_grid(_file(self._directory, key), grid)
            _remove_oldest(self._directory)
        except Exception as exc:  # of pandapower, which cannot compute the taps, or of the disk
            logger.info("%s: the compiled grid cannot be kept: %s", self._directory, exc)


def grid_key(loaded: LoadedScenario) -> str | None:
    """Return a hash of all that a compiled grid depends on; None if unknown, as for a plugin's network."""
    source = network_source(loaded)
    found = find_source(source)
    identity = None if found is None else found.identity(source)
    if identity is None:
        return None
    microgrids = {
        name: {
            "buses": table.buses,
            "devices": {
                device: [entry.spec.kind, table_of(entry.spec.kind), entry.bus]
                for device, entry in table.devices.items()
            },
        }
        for name, table in loaded.scenario.microgrids.items()
    }
    tolerance_mva = loaded.scenario.network.tolerance_mva
    told = json.dumps([identity, tolerance_mva, version("pandapower"), _code(), microgrids])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def write_grid(file: Path, grid: CompiledGrid) -> None:
    """Write a grid to a file atomically."""
    content = grid_file.grid_bytes(grid)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".grid-", delete=False) as stream:
        try:
            stream.write(content)
            stream.close()
            Path(stream.name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(stream.name).unlink()
            raise


@functools.cache
def _code() -> str:
    digest = hashlib.sha256()
    for name in _COMPILING_CODE:
        digest.update((_PACKAGE / name).read_bytes())
    return digest.hexdigest()


def _file(directory: Path, key: str) -> Path:
    return directory / f"{key}.npz"


def _read(file: Path) -> CompiledGrid | None:
    """Return the grid in a file; None if the file is missing or damaged."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        return grid_file.grid_from_bytes(content)
    except FileNotFoundError:
        return None
    except _DAMAGED as exc:
        logger.info("%s: not used, it will be made again: %s", file, exc)
        return None


def _is_safe(file: Path) -> bool:
    """Whether only root and this user can write a file: a wrong grid would clear wrong setpoints."""
    if not hasattr(os, "getuid"):
        return True
    for place in (file.parent, file):
        try:
            status = place.stat()
        except OSError:
            return False
        if status.st_uid not in {0, os.getuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            logger.warning("%s: not used: others may write to it; take that right from them", place)
            return False
    return True


def _remove_oldest(directory: Path) -> None:
    files = sorted(directory.glob("*.npz"), key=lambda file: file.stat().st_mtime)
    for file in files[: max(len(files) - MAX_FILES, 0)]:
        file.unlink(missing_ok=True)
