"""A record that goes on, on a disk that is full: nothing begins that could not be recorded."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from heron_mqtt.record.schema import EVENT
from heron_mqtt.record.writer import RecordWriter, create_record, require_writable
from heron_mqtt.record.writer_process import WriterProcess

ROW = (0.0, None, None, "note", "", "hello", None)


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_record_is_not_resumed_on_a_disk_that_is_full_and_is_when_there_is_room(small_disk: Path) -> None:
    path = small_disk / "run.heron"
    create_record(path, {}, {})
    first = RecordWriter(path, None)
    first.add(EVENT, ROW)
    first.close()
    fill(small_disk)
    with pytest.raises(sqlite3.Error, match="full"):
        WriterProcess(path, None, source="environment")
    (small_disk / "filling").unlink()
    head = first.head
    require_writable(path)
    again = WriterProcess(path, None, source="environment")
    again.add(EVENT, ROW)
    again.close()
    assert again.rows[EVENT.name] == 2
    assert again.losses.total == 0
    assert again.head != head


def test_a_record_that_is_not_there_is_not_made_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        require_writable(tmp_path / "none.heron")
    assert not list(tmp_path.iterdir())
