"""WriterProcess: the same rows as the writer in a thread, from another process, whichever of the two dies."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.locked_file import LockedFile
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.schema import EVENT
from heron_mqtt.record.verify.chains import check_chains
from heron_mqtt.record.writer import RecordLimits, RecordWriter
from heron_mqtt.record.writer_process import WriterProcess
from heron_mqtt.testing.faults.programs import descendants

META = {"agents": "[]", "step_s": "1.0", "role": "environment"}
SETPOINT = {"type": "setpoint", "p_mw": 0.1, "sender": "MG1", "boot": "b", "seq": 3, "episode": 1, "step": 2}


def process(path: Path, **options: Any) -> WriterProcess:
    return WriterProcess(path, META, {}, source="environment", **options)


def event(n: int, at_s: float = 0.5) -> tuple[Any, ...]:
    return (at_s, 1, n, "note", "größer ⚡", 'with "quotes" and \\', None)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def feed(sink: RecordWriter | WriterProcess) -> None:
    payload = json.dumps(SETPOINT).encode()
    sink.add(EVENT, event(1))
    sink.sent(0.1, "devices/MG1/ess/setpoint", SETPOINT, payload, False)
    sink.received(0.2, "devices/MG1/ess/setpoint", SETPOINT, payload, False, "new")
    sink.crossed(0.3, "out", "p2p/MG1/MG2", {**SETPOINT, "seq": 9}, "delayed", 0.25)
    sink.sent(0.3, "p2p/MG1/MG2", {**SETPOINT, "seq": 9}, None, False)
    sink.crossed(0.4, "in", "p2p/MG1/MG2", {**SETPOINT, "seq": 10}, "lost", 0.0)
    sink.sent(0.5, "run/state", {"type": "run_state", "clock": datetime(2026, 1, 1, tzinfo=UTC)}, None, True)


@pytest.mark.usefixtures("fresh_programs")
def test_it_writes_the_very_rows_that_a_thread_writes(tmp_path: Path) -> None:
    thread = RecordWriter(tmp_path / "thread.heron", META)
    other = process(tmp_path / "process.heron")
    for sink in (thread, other):
        feed(sink)
        sink.close(20.0)
    assert other.rows == thread.rows
    assert other.rows["message_row"] == 5
    assert other.head == thread.head
    assert other.losses.total == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["process.heron", "thread.heron"]


def test_numbers_come_through_as_the_same_floats(tmp_path: Path) -> None:
    rng = random.Random(7)
    values = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(2_000)]
    values = [value for value in values if not math.isnan(value)] + [0.1, 1e16, 1e-5, 5e-324]
    writer = process(tmp_path / "run.heron")
    for n, value in enumerate(values):
        writer.add(EVENT, event(n, value))
    writer.close(20.0)
    with RecordFile(tmp_path / "run.heron") as record:
        found = [row["at_s"] for row in record.query("SELECT at_s FROM event_row ORDER BY id")]
        assert check_chains(record, writer.head).verdict == "ok"
    assert [value.hex() for value in found] == [value.hex() for value in values]


def test_what_is_no_json_costs_its_row_alone(tmp_path: Path) -> None:
    writer = process(tmp_path / "run.heron")
    writer.add(EVENT, event(1))
    writer.sent(0.1, "a/b", {"value": object()}, None, False)
    writer.add(EVENT, event(2))
    writer.close(20.0)
    assert writer.rows["event_row"] == 2
    assert writer.losses.malformed == 1


def test_what_the_other_process_reports_is_heard(tmp_path: Path) -> None:
    told: list[str] = []
    writer = process(tmp_path / "run.heron", limits=RecordLimits(max_bytes=1), report=told.append)
    writer.add(EVENT, event(1))
    wait_until(lambda: len(told) == 2)
    writer.close(20.0)
    assert "nothing is recorded" in told[1]
    assert writer.losses.size == 1


def test_when_the_other_process_dies_that_is_said_once_and_rows_are_counted(tmp_path: Path) -> None:
    told: list[str] = []
    writer = process(tmp_path / "run.heron", report=told.append)
    writer.add(EVENT, event(0))
    time.sleep(0.5)
    os.kill(writer._process.pid, signal.SIGKILL)
    writer._process.wait()
    for n in range(10):
        writer.add(EVENT, event(n))
    wait_until(lambda: bool(told))
    for n in range(10):
        writer.add(EVENT, event(n))
    writer.close(5.0)
    assert len(told) == 1
    assert "without a record" in told[0]
    assert writer.losses.disk == 20


PARENT = """
import itertools, sys, time
from pathlib import Path
from heron_mqtt.record.schema import EVENT
from heron_mqtt.record.writer_process import WriterProcess
if __name__ == "__main__":
    meta = {"agents": "[]", "step_s": "1.0", "role": "environment"}
    writer = WriterProcess(Path(sys.argv[1]), meta, {}, source="environment")
    for n in itertools.count():
        at_s = time.time()
        writer.add(EVENT, (at_s, 1, n, "note", "s", "w", None))
        if n >= 100:
            print(at_s, flush=True)
        time.sleep(0.0005)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("moment_s", [0.02, 0.31])
def test_a_killed_run_leaves_one_sound_file_that_lacks_a_quarter_of_a_second_at_most(
    tmp_path: Path, moment_s: float
) -> None:
    path = tmp_path / "run.heron"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(moment_s)
        (writer,) = descendants(run.pid)
        os.kill(run.pid, signal.SIGKILL)
        added_at_s = [float(line) for line in run.stdout if line.endswith(b"\n")]
    wait_until(lambda: not writer.is_alive)  # who reads meanwhile may keep it from putting its file in order
    assert not path.with_name("run.heron-wal").exists()
    with RecordFile(path) as record:
        assert check_chains(record).failed == 0
        (last,) = record.query("SELECT max(at_s) AS at FROM event_row")
        assert last["at"] > added_at_s[-1] - 0.25


def test_rows_that_belong_together_are_counted_and_written_together(tmp_path: Path) -> None:
    writer = process(tmp_path / "run.heron")
    writer.add_together([(EVENT, event(n)) for n in range(3)])
    writer.close()
    assert writer.rows["event_row"] == 3
    full = process(tmp_path / "full.heron", max_waiting=0)
    full.add_together([(EVENT, event(n)) for n in range(3)])
    full.close()
    assert (full.rows["event_row"], full.losses.queue_full) == (0, 3)


def test_who_writes_to_a_record_is_alone_until_he_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "run.heron"
    path.touch()
    lock = LockedFile(path, is_inherited=True)
    other = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]
    )
    with pytest.raises(BlockingIOError):
        LockedFile(path, is_inherited=True)
    lock.close()
    with pytest.raises(BlockingIOError):  # the process that inherited it holds it
        LockedFile(path, is_inherited=True)
    other.kill()
    other.wait()
    LockedFile(path, is_inherited=True).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_that_ends_every_process_of_a_run_loses_no_row(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "run.heron"
    writer = process(path)
    writer.add(EVENT, event(1))
    with RecordFile(path) as record:
        wait_until(lambda: len(list(record.query("SELECT id FROM event_row"))) == 1)  # it has started
    os.kill(writer._process.pid, number)
    writer.add(EVENT, event(2))
    writer.close(20.0)
    assert (writer.rows["event_row"], writer.losses.total) == (2, 0)
    assert writer._process.returncode == 0
