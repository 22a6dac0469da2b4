"""Files of results, in whose place no record of a run may stand."""

from __future__ import annotations

from pathlib import Path

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file

_SQLITE = b"SQLite format 3\0"


def refuse_record(path: Path) -> None:
    """Refuse to write a result where a record is, which nothing brings back.

    Raises:
        ConfigError: There is a record, or another database.
    """
    if not is_file(path):
        return
    try:
        with path.open("rb") as stream:
            begin = stream.read(len(_SQLITE))
    except OSError:
        return  # writing says why it cannot be
    if begin == _SQLITE:
        raise ConfigError(f"{path}: holds the record of a run, which is never overwritten; name another file")


def write_result(path: Path, text: str) -> None:
    """Write a text; what stood there before is gone, unless it was a record.

    Raises:
        ConfigError: There is a record.
        OSError: It cannot be written.
    """
    refuse_record(path)
    path.write_text(text, encoding="utf-8")
