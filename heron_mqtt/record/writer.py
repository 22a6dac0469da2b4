"""RecordWriter: rows in from any thread without waiting, out to SQLite in batches.

Why a thread: a commit may wait for the disk, and the code that hands rows in must not. Where that is a loop
that answers devices, the thread belongs into another process (``writer_process``): it would take the
interpreter from the loop for milliseconds.

A batch is committed every ``FLUSH_S``, so that a process that is killed loses no more than a quarter of a
second. The file is in WAL mode: committed rows survive the death of the process. A power cut may lose the
last batches, but never leaves a damaged file. If the disk is full or cannot be reached, this is reported
once. Rows wait, up to ``max_waiting``, until the disk works again; rows beyond that are counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeGuard

from heron_mqtt.record import chain, schema
from heron_mqtt.record.message_rows import Made, MessageRows, Row
from heron_mqtt.record.run_part import LOST
from heron_mqtt.record.schema import EVENT, MESSAGE, TABLES, RowTable
from heron_mqtt.record.sink import Losses

log = logging.getLogger("heron_mqtt.record")

FLUSH_S = 0.05
RETRY_S = 1.0  # after the disk refused a batch
MAX_WAITING = 100_000  # rows: some 60 MB, or half an hour of the shipped day at full speed
BATCH = 1_000
RESERVE_BYTES = 256 * 1024
"""What is kept of the disk for the end of the record: some pages of the log, with the summary."""

Maker = Callable[[], Made | None]
"""Makes a row, in the writer's thread."""


def log_trouble(text: str) -> None:
    """Say in the log what is wrong with a record, where no one else is told."""
    log.warning("%s", text)


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """What a record may take of the disk.

    Attributes:
        max_bytes: Beyond this no messages are recorded any more, beyond twice of it nothing.
    """

    max_bytes: int = 512 * 1024 * 1024


@dataclass(slots=True)
class _Head:
    table: RowTable
    rows: int
    value: bytes
    insert: str = field(init=False)
    reals: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.insert = self.table.insert()
        self.reals = [i for i, column in enumerate(self.table.columns) if column.kind == "REAL"]

    def as_stored(self, row: Row) -> list[Any]:
        """Return a row as SQLite gives it back: in a REAL column 1 is 1.0, -0.0 is 0.0, and NaN is NULL."""
        stored = list(row)
        for i in self.reals:
            if (value := stored[i]) is not None:
                stored[i] = None if math.isnan(value) else value + 0.0
        return stored


_TABLES = {table.name: table for table in TABLES}


def require_writable(path: Path) -> None:
    """Make sure that a record takes rows now: its disk has room, and it may be written to.

    Raises:
        OSError: The file is not there.
        sqlite3.Error: It does not.
    """
    if not path.is_file():  # sqlite would make it
        raise FileNotFoundError(f"{path} is not there")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")  # written, though it stays as it is


def create_record(path: Path, meta: Mapping[str, str], files: Mapping[str, tuple[str, bytes]]) -> None:
    """Make a record without rows, all of it or nothing.

    Raises:
        OSError: The file exists already, or its directory cannot be written to.
        sqlite3.Error: The file cannot be made.
    """
    path.open("xb").close()
    digests = {name: digest for name, (digest, _) in files.items()}
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN")
        schema.create(connection)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        connection.executemany(
            "INSERT INTO input_file VALUES (?, ?, ?)",
            [(name, digest, content) for name, (digest, content) in sorted(files.items())],
        )
        connection.executemany(
            "INSERT INTO chain VALUES (?, ?, 0, ?)",
            [
                (table.name, json.dumps(table.names), chain.seed(meta, digests, table.name).hex())
                for table in TABLES
            ],
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        path.unlink(missing_ok=True)
        raise
    connection.close()


class RecordWriter:
    """Appends rows to a record.

    Args:
        path: A file that does not exist yet, unless ``meta`` is None.
        meta: What is known of the run at its beginning, as text by key. None = the file exists already, made
            by ``create_record``, and the caller has locked it (``LockedFile``).
        files: Input files by name: SHA-256 (hex) and the content as it is stored.
        source: Whose side of the messages this is: ``environment`` or an agent.
        limits: Of the disk.
        report: Told, once a trouble, what is wrong; called in the writer's thread. None = the log.
        max_waiting: Rows that may wait.

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
        source: str = "environment",
        limits: RecordLimits | None = None,
        report: Callable[[str], None] | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.path = path
        self.losses = Losses()
        self._messages = MessageRows(source)
        self._limits = limits or RecordLimits()
        self._report = report or log_trouble
        self._reported: set[str] = set()
        self._max_waiting = max_waiting
        self._queue: deque[Made | Maker | list[Made]] = deque()
        self._batch: list[Made] = []
        self._stop = threading.Event()
        self._closed = False
        if meta is not None:
            create_record(path, meta, files or {})
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")  # one that was closed has none
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._heads = {
            name: _Head(_TABLES[name], rows, bytes.fromhex(head))
            for name, rows, head in self._connection.execute("SELECT table_name, rows, head FROM chain")
        }
        self._reserve = _reserved(path.parent)
        self._thread = threading.Thread(target=self._work, name="record writer", daemon=True)
        self._thread.start()

    # -- any thread --------------------------------------------------------------------------------

    def add(self, table: RowTable, row: Row) -> None:
        """Take a row: the columns of the table, without id and hash. Never waits, never raises."""
        self._put((table, row))

    def add_together(self, rows: Sequence[Made]) -> None:
        """Take rows that are committed together; see ``RecordSink``."""
        self._put(list(rows))

    def later(self, maker: Maker) -> None:
        """Take what makes a row when it is written, in the order of all rows. Never waits, never raises."""
        self._put(maker)

    def _put(self, entry: Made | Maker | list[Made]) -> None:
        if len(self._queue) >= self._max_waiting:
            self.losses.queue_full += _rows_in(entry)
            return
        self._queue.append(entry)

    def sent(
        self, at_s: float, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> None:
        """Take a message that was published; see ``RecordSink``."""
        self.later(partial(self._messages.sent, at_s, channel, message, payload, retain))

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
        self.later(partial(self._messages.received, at_s, channel, message, payload, retained, kind))

    def crossed(
        self, at_s: float, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> None:
        """Take what an impaired network does to a message; see ``RecordSink``."""
        self.later(partial(self._messages.crossed, at_s, stream, channel, message, what, delay_s))

    @property
    def lost_before(self) -> int:
        """See ``RecordSink``: the event ``lost`` reports lost rows."""
        return 0

    @property
    def rows(self) -> dict[str, int]:
        """Rows written so far, by table."""
        return {name: head.rows for name, head in self._heads.items()}

    @property
    def head(self) -> str:
        """One hash (hex) over all that was written; final after ``close``."""
        return chain.whole((name, head.rows, head.value.hex()) for name, head in self._heads.items())

    def close(self, within_s: float = 5.0) -> None:
        """Write the waiting rows, and leave one file, without a WAL file beside it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._tell("slow", f"{self.path}: the disk did not take the last rows within {within_s:g} s")
            return
        self._tell_of_losses()
        try:
            self._connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as exc:
            self._tell("close", f"{self.path}: {exc}; its log stays beside it, keep both")
        self._connection.close()

    def _tell_of_losses(self) -> None:
        """Write at the end how many rows are missing, where room was kept for it; the thread has ended.

        Without it a record that its disk did not take looks like that of a run that was killed.
        """
        waiting = [*self._batch, *self._queue]
        self._queue.clear()
        end = [one for one in waiting[-1:] if _is_summary(one)]
        self.losses.disk += sum(map(_rows_in, waiting)) - len(end)
        if self._reserve is not None:
            self._reserve.close()
        if not self.losses.total and not end:
            return
        what = f"{self.losses.total} rows are missing: they could not be written"
        data = json.dumps({"lost_rows": self.losses.total, **asdict(self.losses)})
        try:
            (last_s,) = self._connection.execute("SELECT max(at_s) FROM event_row").fetchone()
            at_s = end[0][1][0] if end else last_s or 0.0
            self._batch = [*end, (EVENT, (at_s, None, None, LOST, self.path.name, what, data))]
            self._commit(is_end=True)
        except (sqlite3.Error, UnicodeError) as exc:
            self._undo()
            self.losses.disk += len(end)
            self._tell("end", f"{self.path}: {exc}; it does not say that rows are missing")

    # -- the writer's thread -----------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stop.wait(FLUSH_S):
            if not self._flush():
                self._stop.wait(RETRY_S)
        self._flush()

    def _flush(self) -> bool:
        """Write all that waits; False if the disk does not take it."""
        while self._queue or self._batch:
            while self._queue and len(self._batch) < BATCH:
                self._take(self._queue.popleft())
            try:
                self._commit()
            except (OverflowError, UnicodeError):
                self._undo()
                self._drop_what_cannot_be_stored()
                continue
            except sqlite3.Error as exc:
                self._undo()
                what = f"{self.path}: {exc}; the run continues, what cannot be recorded is counted"
                self._tell("disk", what)
                return False
            self._batch.clear()
        return True

    def _take(self, waiting: Made | Maker | list[Made]) -> None:
        """Put a row, or several, into the batch; make it first, if that was left to us."""
        if isinstance(waiting, list):
            self._batch += waiting
            return
        if isinstance(waiting, tuple):
            self._batch.append(waiting)
            return
        try:
            made = waiting()
        except Exception:
            self.losses.malformed += 1
            if self.losses.malformed == 1:
                log.exception("%s: a row could not be made; the run continues, others are counted", self.path)
            return
        if made is not None:
            self._batch.append(made)

    def _commit(self, *, is_end: bool = False) -> None:
        """Append the batch and move the heads, together or not at all; the end has room in any file."""
        begun = time.monotonic()
        ready: dict[str, list[Row]] = {}
        heads = {name: (head.rows, head.value) for name, head in self._heads.items()}
        losses = Losses()
        keeps_messages, keeps_all = (True, True) if is_end else self._room()
        for table, row in self._batch:
            if not keeps_all or (table is MESSAGE and not keeps_messages):
                losses.size += 1
                continue
            n, value = heads[table.name]
            try:
                whole = (n + 1, *self._heads[table.name].as_stored(row))
                value = chain.link(value, whole)
            except (TypeError, ValueError):
                losses.malformed += 1
                continue
            heads[table.name] = (n + 1, value)
            ready.setdefault(table.name, []).append((*whole, value))
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        for name, rows in ready.items():
            connection.executemany(self._heads[name].insert, rows)
            n, value = heads[name]
            connection.execute(
                "UPDATE chain SET rows = ?, head = ? WHERE table_name = ?", (n, value.hex(), name)
            )
        connection.execute("COMMIT")
        for name in ready:
            self._heads[name].rows, self._heads[name].value = heads[name]
        self.losses.size += losses.size
        self.losses.malformed += losses.malformed
        if (took_s := time.monotonic() - begun) > RETRY_S:
            log.info("%s: a batch of %d rows took %.1f s", self.path, len(self._batch), took_s)

    def _drop_what_cannot_be_stored(self) -> None:
        """Count rows with numbers or texts that SQLite does not take: one of them must not stop the rest."""
        good = [(table, row) for table, row in self._batch if all(map(_storable, row))]
        if len(good) == len(self._batch):  # it is something that we do not know: give the batch up
            good = []
        self.losses.malformed += len(self._batch) - len(good)
        self._batch = good

    def _undo(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as exc:
            log.info("%s: rollback: %s", self.path, exc)

    def _room(self) -> tuple[bool, bool]:
        """Return whether messages, and whether anything at all, may still be written."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return True, True  # gone from its directory: SQLite says what is wrong, or writes on
        limit = self._limits.max_bytes
        if size >= limit:
            self._tell("size", f"{self.path}: has {size} bytes; from here on without messages")
        if size >= 2 * limit:
            self._tell("full", f"{self.path}: has {size} bytes; from here on nothing is recorded")
        return size < limit, size < 2 * limit

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._report(f"record {text}")


def _reserved(folder: Path) -> IO[bytes] | None:
    """Keep some room on the disk of a record, by a file without a name, which ends with this process."""
    file = None
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when the room is needed
        os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError:
        if file is not None:
            file.close()
        return None
    return file


def _is_summary(entry: object) -> TypeGuard[Made]:
    return isinstance(entry, tuple) and entry[0].name == EVENT.name and entry[1][3] == "summary"


def _rows_in(entry: object) -> int:
    """Return how many rows an entry of the queue stands for."""
    return len(entry) if isinstance(entry, list) else 1


def _storable(value: object) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)
