"""RecordWriter: rows arrive whole, chained, in order; the disk's troubles end no run."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import DataError
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.recorder import FORMAT
from heron_mqtt.record.schema import EVENT, MESSAGE
from heron_mqtt.record.verify.chains import check_chains
from heron_mqtt.record.writer import RESERVE_BYTES, RecordLimits, RecordWriter

META = {"format": FORMAT, "agents": "[]", "step_s": "1.0", "role": "environment"}


def event(n: int, what: str = "it happened") -> tuple[Any, ...]:
    return (0.001 * n, 1, n, "note", "subject", what, None)


def message(n: int) -> tuple[Any, ...]:
    return (
        "environment",
        0.1,
        "out",
        "a/b",
        "me",
        "boot",
        n,
        1,
        n,
        "price",
        9,
        None,
        0,
        None,
        None,
        None,
        "{}",
    )


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_rows_are_kept_in_order_and_their_chain_holds(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run.heron", META, {})
    for n in range(2_500):  # more than a batch
        writer.add(EVENT, event(n))
    writer.close()
    with RecordFile(tmp_path / "run.heron") as record:
        assert [row["step"] for row in record.query("SELECT step FROM events")] == list(range(2_500))
        assert check_chains(record, writer.head).verdict == "ok"


def test_numbers_come_back_as_the_same_floats(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 0.0, 2.0**53 + 2.0, math.pi * 1e-12]
    writer = RecordWriter(tmp_path / "run.heron", META, {})
    for value in values:
        writer.add(EVENT, (value, None, None, "note", "", "", None))
    writer.close()
    with RecordFile(tmp_path / "run.heron") as record:
        assert [row["at_s"].hex() for row in record.query("SELECT at_s FROM events")] == [
            v.hex() for v in values
        ]


@pytest.mark.parametrize("value", [-0.0, 50, 2**60, math.inf])
def test_what_sqlite_gives_back_otherwise_is_hashed_as_it_comes_back(tmp_path: Path, value: float) -> None:
    writer = RecordWriter(tmp_path / "run.heron", META, {})
    writer.add(EVENT, (value, None, None, "note", "", "", None))
    writer.close()
    with RecordFile(tmp_path / "run.heron") as record:
        assert check_chains(record).verdict == "ok"
        assert record.query("SELECT at_s FROM events")[0]["at_s"] == value


def test_the_documented_hash_is_what_anyone_can_compute(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run.heron", META, {})
    writer.add(EVENT, event(1, "größer"))
    writer.close()
    connection = sqlite3.connect(tmp_path / "run.heron")
    (row,) = connection.execute("SELECT * FROM event_row").fetchall()
    encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
    seed = hashlib.sha256(encode(["event_row", sorted(META.items()), []]).encode()).digest()
    assert row[-1] == hashlib.sha256(seed + encode(row[:-1]).encode()).digest()


def test_one_file_is_left_when_it_is_closed(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run.heron", META, {})
    writer.add(EVENT, event(1))
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.heron"]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.heron").write_text("precious")
    with pytest.raises(FileExistsError):
        RecordWriter(tmp_path / "run.heron", META, {})
    assert (tmp_path / "run.heron").read_text() == "precious"


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run.heron", META, {}, max_waiting=100)
    lock = sqlite3.connect(tmp_path / "run.heron")
    lock.execute("BEGIN EXCLUSIVE")  # the writer cannot get on meanwhile
    wait_until(lambda: not writer.add(EVENT, event(0)) and len(writer._queue) >= 100)
    begun = time.perf_counter()
    for n in range(1_000):
        writer.add(EVENT, event(n))
    assert time.perf_counter() - begun < 0.5
    assert writer.losses.queue_full >= 1_000
    lock.rollback()
    writer.close(30.0)


def test_a_disk_that_refuses_is_reported_once_and_nothing_is_lost_when_it_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.record.writer.RETRY_S", 0.02)
    told: list[str] = []
    writer = RecordWriter(tmp_path / "run.heron", META, {}, report=told.append)
    real, refusals = writer._commit, iter(range(5))

    def commit() -> None:
        if next(refusals, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        real()

    monkeypatch.setattr(writer, "_commit", commit)
    for n in range(50):
        writer.add(EVENT, event(n))
    wait_until(lambda: writer.rows["event_row"] == 50)
    writer.close()
    assert len(told) == 1
    assert "disk is full" in told[0]
    assert writer.losses.total == 0
    with RecordFile(tmp_path / "run.heron") as record:
        assert check_chains(record).verdict == "ok"


def test_a_disk_that_stays_full_loses_counted_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.record.writer.RETRY_S", 0.02)
    told: list[str] = []
    writer = RecordWriter(tmp_path / "run.heron", META, {}, report=told.append)
    writer.add(EVENT, event(0))
    wait_until(lambda: writer.rows["event_row"] == 1)
    limit = writer._connection.execute("PRAGMA page_count").fetchone()[0]
    writer._connection.execute(f"PRAGMA max_page_count = {limit}")  # SQLite's own "disk is full"
    for n in range(5_000):
        writer.add(EVENT, event(n, "x" * 200))
    wait_until(lambda: bool(told))
    writer.close()
    assert len(told) == 1
    assert writer.losses.disk > 0
    with RecordFile(tmp_path / "run.heron") as record:
        assert check_chains(record).verdict == "ok"


def test_beyond_its_size_a_record_goes_on_without_messages_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    size = RecordLimits(max_bytes=1)  # the empty file is larger; twice of it as well
    writer = RecordWriter(tmp_path / "run.heron", META, {}, limits=size, report=told.append)
    writer.add(MESSAGE, message(1))
    writer.add(EVENT, event(1))
    writer.close()
    assert writer.losses.size == 2
    assert any("without messages" in line for line in told)
    assert any("nothing is recorded" in line for line in told)


@pytest.mark.parametrize("bad", [2**63, -(2**63) - 1, "\ud800", object(), b"\x00"])
def test_a_value_that_sqlite_or_the_chain_does_not_take_costs_its_row_alone(
    tmp_path: Path, bad: object
) -> None:
    writer = RecordWriter(tmp_path / "run.heron", META, {})
    writer.add(EVENT, event(1))
    writer.add(EVENT, (0.0, 1, 1, "note", "", bad, None))
    writer.add(EVENT, event(2))
    writer.close()
    assert writer.losses.malformed == 1
    with RecordFile(tmp_path / "run.heron") as record:
        assert check_chains(record).verdict == "ok"
        assert [row["step"] for row in record.query("SELECT step FROM events WHERE kind = 'note'")] == [1, 2]
        assert record.lost_rows() == 1


def test_a_disk_that_is_full_to_the_end_takes_the_number_of_missing_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is kept for it, and is given back to the disk for the last rows alone."""
    writer = RecordWriter(tmp_path / "run.heron", META, {}, report=lambda text: None)
    commit, reserve = writer._commit, writer._reserve
    assert reserve is not None
    assert os.fstat(reserve.fileno()).st_blocks * 512 >= RESERVE_BYTES

    def full(**how: bool) -> None:
        if not reserve.closed:
            raise sqlite3.OperationalError("database or disk is full")
        commit(**how)

    monkeypatch.setattr(writer, "_commit", full)
    for n in range(20):
        writer.add(EVENT, event(n))
    writer.add_together([(EVENT, event(20)), (EVENT, event(21))])
    writer.add(EVENT, (9.0, None, None, "summary", "small", "the end", '{"lost_rows": 3, "steps": 5}'))
    writer.close()
    assert writer.losses.disk == 22
    with RecordFile(tmp_path / "run.heron") as record:
        assert check_chains(record).verdict == "ok"
        kinds = [row["kind"] for row in record.query("SELECT kind FROM events ORDER BY id")]
        assert kinds == ["summary", "lost"]
        assert record.lost_rows() == 25
        (part,) = record.parts()
        assert part.lost_rows == 22
    assert [path.name for path in tmp_path.iterdir()] == ["run.heron"]


KILLED = """
import sys, time, itertools
from pathlib import Path
from heron_mqtt.record.schema import EVENT
from heron_mqtt.record.writer import RecordWriter
writer = RecordWriter(Path(sys.argv[1]), {"agents": "[]", "step_s": "1.0", "role": "environment"}, {})
for n in itertools.count():
    writer.add(EVENT, (time.time(), 1, n, "note", "s", "w", None))
    if n % 100 == 0:
        print(n, flush=True)
    time.sleep(0.0005)
"""


@pytest.mark.slow_but("0.11", "0.4")
@pytest.mark.parametrize("moment_s", [0.05, 0.11, 0.23, 0.4])
def test_a_killed_process_loses_a_quarter_of_a_second_at_most(tmp_path: Path, moment_s: float) -> None:
    path = tmp_path / "run.heron"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment_s)
        killed_at = time.time()
        os.kill(process.pid, signal.SIGKILL)
    with RecordFile(path) as record:
        assert check_chains(record).failed == 0
        (last,) = record.query("SELECT max(at_s) AS at FROM event_row")
        assert (last["at"] or killed_at) > killed_at - 0.25


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough for a header" * 40])
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.heron").write_bytes(content)
    with pytest.raises(DataError, match="not a record of a run") as caught:
        RecordFile(tmp_path / "x.heron")
    assert len(caught.value.problems) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        RecordFile(tmp_path / "nothing.heron")


def test_a_record_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    RecordWriter(tmp_path / "run.heron", META, {}).close()
    connection = sqlite3.connect(tmp_path / "run.heron")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="version 99"):
        RecordFile(tmp_path / "run.heron")
