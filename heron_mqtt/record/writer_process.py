"""WriterProcess: rows in from a running loop, out to a ``RecordWriter`` in a process of its own.

Why a process: making, chaining and storing a row takes some 15 us of Python, with 50 rows a step. In a thread
of the loop's process, no device would be answered during this time. This process only encodes a batch as
JSON, and a thread writes it into a pipe: the pipe may be full, and the loop must not wait for it.

When this process dies, for any reason, the pipe ends. The other process then writes what it has and closes
the file. Only rows that waited here are lost, 0.05 s at most.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic_core import PydanticSerializationError, to_json

from heron_mqtt.own_program import module_command, module_environment
from heron_mqtt.record.schema import TABLES, RowTable
from heron_mqtt.record.sink import Losses, Row
from heron_mqtt.record.writer import FLUSH_S, MAX_WAITING, RecordLimits, create_record, require_writable

log = logging.getLogger("heron_mqtt.record")

_NUMBERS = {table.name: number for number, table in enumerate(TABLES)}

Entry = tuple[Any, ...]


class WriterProcess:
    """Appends rows to a record, in another process.

    Args:
        path: A file that does not exist yet, unless ``meta`` is None.
        meta: As ``RecordWriter`` takes it, like the following.
        files: Input files.
        source: Whose side of the messages this is.
        limits: Of the disk.
        report: Told, once a trouble, what is wrong; called in a thread of this.
        max_waiting: Rows that may wait here.
        keeps_open: Descriptors that the other process has open for as long as it lives.

    Raises:
        OSError: The file exists already, or its directory cannot be written to.
        sqlite3.Error: The file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        meta: Mapping[str, str] | None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        *,
        source: str,
        limits: RecordLimits | None = None,
        report: Callable[[str], None] | None = None,
        max_waiting: int = MAX_WAITING,
        keeps_open: Sequence[int] = (),
    ) -> None:
        if meta is not None:
            create_record(path, meta, files or {})
        else:
            require_writable(path)
        self.path = path
        self.losses = Losses()
        self._report = report or (lambda text: log.warning("%s", text))
        self._max_waiting = max_waiting
        self._queue: deque[Entry] = deque()
        self._stop = threading.Event()
        self._ended: dict[str, Any] = {}
        self._closed = False
        self._broken = False
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            module_command(
                "heron_mqtt.record.writer_main",
                str(path.resolve()),
                source,
                str((limits or RecordLimits()).max_bytes),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us
            pass_fds=tuple(keeps_open),
            env=module_environment(),
        )
        self._feeder = threading.Thread(target=self._feed, name="record pipe", daemon=True)
        # Why a second thread: the other process may have to say that its disk is full while we write to it.
        self._listener = threading.Thread(target=self._listen, name="record reports", daemon=True)
        self._feeder.start()
        self._listener.start()

    # -- any thread --------------------------------------------------------------------------------

    def add(self, table: RowTable, row: Row) -> None:
        """Take a row; see ``RecordSink``."""
        self._put(("a", _NUMBERS[table.name], row))

    def add_together(self, rows: Sequence[tuple[RowTable, Row]]) -> None:
        """Take rows that are committed together; see ``RecordSink``."""
        self._put(("t", [(_NUMBERS[table.name], row) for table, row in rows]))

    def sent(
        self, at_s: float, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> None:
        """Take a message that was published; see ``RecordSink``."""
        self._put(("s", at_s, channel, message if payload is None else None, payload, retain))

    def received(
        self,
        at_s: float,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes | None,
        retained: bool,
        kind: str,
    ) -> None:
        """Take a message that has arrived; see ``RecordSink``."""
        self._put(("r", at_s, channel, message if payload is None else None, payload, retained, kind))

    def crossed(
        self, at_s: float, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> None:
        """Take what an impaired network does to a message; see ``RecordSink``."""
        self._put(("c", at_s, stream, channel, message, what, delay_s))

    def _put(self, entry: Entry) -> None:
        if len(self._queue) >= self._max_waiting:
            self.losses.queue_full += _rows_in(entry)
            return
        self._queue.append(entry)

    @property
    def lost_before(self) -> int:
        """See ``RecordSink``; those of the other process are known after ``close``."""
        return self.losses.total

    @property
    def rows(self) -> dict[str, int]:
        """Rows written, by table; known after ``close``."""
        return dict(self._ended.get("rows", {}))

    @property
    def head(self) -> str:
        """One hash (hex) over all that was written; known after ``close``, empty if the process was lost."""
        return str(self._ended.get("head", ""))

    def close(self, within_s: float = 5.0) -> None:
        """Hand over what waits, and wait until it is written. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._feeder.join(within_s)
        self._listener.join(within_s)
        if not self._ended:
            self._tell_lost(f"{self.path}: its writer did not end within {within_s:g} s")
        for name, n in self._ended.get("losses", {}).items():
            setattr(self.losses, name, getattr(self.losses, name) + n)
        self.losses.disk += sum(map(_rows_in, self._queue))

    # -- threads of ours ---------------------------------------------------------------------------

    def _feed(self) -> None:
        """Write what waits into the pipe, again and again, and close it at the end."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while not self._stop.wait(FLUSH_S):
                self._write_batch(pipe)
            self._write_batch(pipe)
            pipe.close()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):  # or Python 3.13 complains of what the pipe still holds
                pipe.close()
            self._tell_lost(f"{self.path}: its writer has ended; the run continues without a record")

    def _write_batch(self, pipe: IO[bytes]) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), 1_000))]
            try:
                data = self._encoded(batch)
                pipe.write(len(data).to_bytes(4, "little") + data)
                pipe.flush()
            except OSError:
                self.losses.disk += sum(map(_rows_in, batch))
                raise

    def _encoded(self, batch: list[Entry]) -> bytes:
        try:
            return to_json(batch)
        except (PydanticSerializationError, TypeError, ValueError):
            good = [one for one in batch if _is_json(one)]
            self.losses.malformed += sum(map(_rows_in, batch)) - sum(map(_rows_in, good))
            return to_json(good)

    def _listen(self) -> None:
        """Hear what the other process says: troubles, and at the end what is in the file."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "report" in said:
                self._report(said["report"])
            else:
                self._ended = said
        self._process.wait()

    def _tell_lost(self, text: str) -> None:
        if not self._broken:
            self._broken = True
            self._report(f"record {text}")


def _rows_in(entry: Entry) -> int:
    """Return how many rows an entry stands for."""
    return len(entry[1]) if entry[0] == "t" else 1


def _is_json(entry: Entry) -> bool:
    try:
        to_json(entry)
    except (PydanticSerializationError, TypeError, ValueError):
        return False
    return True
