"""Versions of installed packages, found quickly."""

from __future__ import annotations

import contextlib
import os
import re
import sys

__all__ = ["installed_version", "own_version"]

_ENDING = ".dist-info"


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed.

    It stands in the name of the folder that an installation leaves. ``importlib.metadata``, which also knows
    what was installed otherwise, takes 20 ms to be imported and to read a file, so it is asked last.
    """
    wanted = _normalized(package)
    for folder in sys.path:
        found = []
        with contextlib.suppress(OSError):  # no folder: a zip file, or nothing
            for entry in (each.name for each in os.scandir(folder or ".")):
                if entry.endswith(_ENDING):
                    name, _, version = entry.removesuffix(_ENDING).partition("-")
                    if version and _normalized(name) == wanted:
                        found.append(version)
                elif entry.endswith((".egg-info", ".egg-link")) and _normalized(entry).startswith(wanted):
                    return _asked_last(package)
        if len(found) == 1 and "_" not in found[0]:  # as it is written in the file
            return found[0]
        if found:
            break
    return _asked_last(package)


def own_version() -> str:
    """Return the version of this package."""
    return installed_version("heron-mqtt") or "0+unknown"  # from a source tree that was never installed


def _asked_last(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
