"""The process of a ``WriterProcess``: batches in on standard input, a record out.

python -m heron_mqtt.record.writer_main FILE SOURCE MAX_BYTES
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from heron_mqtt.errors import MessageError
from heron_mqtt.messaging.codec import decode
from heron_mqtt.record.schema import TABLES
from heron_mqtt.record.writer import RecordLimits, RecordWriter
from heron_mqtt.scheduling import ordinary_scheduling

CLOSE_S = 60.0  # for a slow disk to take what waits; no other process waits for it


def main() -> int:
    """Write what comes until the pipe ends; then say what is in the file.

    Only that ends it in order: ending every process of a run (by a service manager, a shell) must not lose
    what the run still hands over. The pipe ends with the run, however that ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ordinary_scheduling()  # a run with a real-time priority waits for no record
    path, source, max_bytes = sys.argv[1:]

    def report(text: str) -> None:
        _say({"report": text})

    limits = RecordLimits(max_bytes=int(max_bytes))
    try:
        writer = RecordWriter(Path(path), None, source=source, limits=limits, report=report)
    except (OSError, sqlite3.Error) as exc:  # since the run has looked, too
        report(f"record {path}: cannot be written: {exc}")
        return 1
    for batch in _batches(sys.stdin.buffer):
        for entry in batch:
            _take(writer, entry)
    writer.close(CLOSE_S)
    _say({"rows": writer.rows, "head": writer.head, "losses": asdict(writer.losses)})
    return 0


def _batches(pipe: IO[bytes]) -> Any:
    """Return the batches until the pipe ends; one that is cut off, because its writer died, is left out."""
    while len(size := pipe.read(4)) == 4:
        data = pipe.read(n := int.from_bytes(size, "little"))
        if len(data) < n:
            return
        yield json.loads(data)


def _take(writer: RecordWriter, entry: list[Any]) -> None:
    kind, *rest = entry
    if kind == "a":
        writer.add(TABLES[rest[0]], tuple(rest[1]))
    elif kind == "t":
        writer.add_together([(TABLES[number], tuple(row)) for number, row in rest[0]])
    elif kind == "c":
        writer.crossed(*rest)
    else:
        at_s, channel, message, payload, *more = rest
        data = None if payload is None else payload.encode()
        if data is not None:
            try:
                message = decode(data) if data else {}
            except MessageError:
                message = {}
        (writer.sent if kind == "s" else writer.received)(at_s, channel, message, data, *more)


def _say(what: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()
    except OSError:  # no reader any more: the record is what counts
        pass


if __name__ == "__main__":
    sys.exit(main())
