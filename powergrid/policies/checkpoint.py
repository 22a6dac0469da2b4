"""Arrays in a ``.npz`` file of the user's: a checkpoint."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError

# What numpy and zipfile raise for a file that is not what was written.
_DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a checkpoint, by name; nothing in it is run.

    Raises:
        ConfigError: It is not there, is no ``.npz`` or is damaged.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise TypeError("it is a single array (.npy)")
        with opened as stored:
            return {name: stored[name] for name in stored.files}
    except OSError as exc:
        raise ConfigError(f"checkpoint {path}: cannot be read: {exc.strerror or exc}") from None
    except _DAMAGED as exc:
        what = " ".join(str(exc).split())[:200] or type(exc).__name__
        raise ConfigError(
            f"checkpoint {path}: cannot be read: expected a .npz file (numpy.savez) of plain arrays: {what}"
        ) from None


def numbers(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    """Return one of its arrays.

    Raises:
        ConfigError: There is none of this name, or it has no finite real numbers.
    """
    if name not in arrays:
        raise ConfigError(f"checkpoint {path}: expected {name}; it has {', '.join(arrays) or 'nothing'}")
    found = arrays[name]
    if found.dtype.kind not in "biuf":
        raise ConfigError(f"checkpoint {path}: {name}: expected numbers, got {found.dtype}")
    if not np.isfinite(found).all():
        raise ConfigError(f"checkpoint {path}: {name}: expected finite weights")
    return found.astype(float)
