"""Files of results, in whose place nothing else may stand than an earlier result of their kind."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file

CSV_ROWS = "episode,step,"
FAULT_TABLE = "| kind of fault |"
FITTED = ", fitted to "
JUNIT = "<testsuites"
PAGE = "<!doctype html>"

_SQLITE = b"SQLite format 3\0"
_BEGIN = 400  # bytes in which a result says of what kind it is


def refuse_other_files(path: Path, kind: str) -> None:
    """Refuse to write a result where something else is, which nothing brings back: a scenario, a record.

    Args:
        path: Where the result goes; what is no file (a pipe, ``/dev/stdout``) is not looked at.
        kind: Of the result: what stands in the beginning of each.

    Raises:
        ConfigError: There is a file that is neither empty nor an earlier result of this kind.
    """
    if str(path) == "-":
        raise ConfigError("-: would be a file of this name; standard output is /dev/stdout")
    if not is_file(path):
        return
    try:
        with path.open("rb") as stream:
            begin = stream.read(_BEGIN)
    except OSError:
        return  # writing says why it cannot be
    if begin.startswith(_SQLITE):
        raise ConfigError(f"{path}: holds the record of a run, which is never overwritten; name another file")
    if begin.strip() and kind.encode() not in begin:
        raise ConfigError(
            f"{path}: holds something else than an earlier result of this kind, and is not overwritten; "
            "name another file"
        )


def require_places(results: Iterable[tuple[str, Path | None, str]]) -> None:
    """See, before work that takes minutes, that its results can be written where they are to go.

    Args:
        results: Option, file (None = not wanted) and kind of each, see ``refuse_other_files``.

    Raises:
        ConfigError: One of them cannot be.
    """
    for option, path, kind in results:
        if path is None:
            continue
        refuse_other_files(path, kind)
        if path.is_dir():
            raise ConfigError(f"{option} {path}: a folder; expected a file")
        if not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ConfigError(f"{option} {path}: cannot be written: permission denied")


def write_result(path: Path, text: str, kind: str) -> None:
    """Write a text; an earlier result that stood there is gone.

    Args:
        path: Where to.
        text: The result.
        kind: See ``refuse_other_files``.

    Raises:
        ConfigError: There is a file that is no earlier result.
        OSError: It cannot be written.
    """
    refuse_other_files(path, kind)
    path.write_text(text, encoding="utf-8")
