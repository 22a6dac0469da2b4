"""CsvRecorder: where its file cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.record.csv_rows import CsvRecorder


def test_a_pipe_that_nobody_reads_is_an_error_at_once(tmp_path: Path) -> None:
    """Opening it would wait for a reader, and a signal would not end the wait."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError) as refused:
        CsvRecorder(tmp_path / "pipe", [])
    assert refused.value.errno == errno.ENXIO


def test_a_pipe_that_is_read_is_written_to_with_patience(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    recorder = CsvRecorder(tmp_path / "pipe", [])
    assert os.get_blocking(recorder._file.fileno())
    recorder.close()
    os.close(reader)


def test_a_file_is_begun_anew_and_a_record_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("episode,step,clock,agent\n0,0,12:00,MG1\n")
    CsvRecorder(path, []).close()
    assert path.read_text() == ""
    CsvRecorder(path, []).close()  # an empty file is nothing to keep
    path.write_bytes(b"SQLite format 3\0 and more")
    with pytest.raises(ConfigError, match="holds the record of a run, which is never overwritten"):
        CsvRecorder(path, [])
    assert path.read_bytes() == b"SQLite format 3\0 and more"


def test_rows_of_a_file_that_was_removed_are_lost(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = CsvRecorder(tmp_path / "rows.csv", [], said.append)
    recorder._rows = 3
    (tmp_path / "rows.csv").unlink()
    recorder.close()
    recorder.close()
    assert (recorder.lost, len(said)) == (3, 1)
