"""The file of an outbox: one SQLite table, written in groups.

WAL, with a sync at each commit: what was committed outlives a power cut. The file is locked for as long as
it is open, so that two processes never send the same messages. It holds topics and payloads, no login.

Used by one thread at a time; nothing here knows of event loops.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.errors import ConfigError

APPLICATION_ID = 0x48524F42  # "HROB": tells an outbox from any other SQLite file
VERSION = 1
ROW_BYTES = 100  # that a message takes beside topic and payload
SCHEMA = """
CREATE TABLE message (
  id INTEGER PRIMARY KEY,
  stop INTEGER NOT NULL,
  topic TEXT NOT NULL,
  payload BLOB NOT NULL,
  qos INTEGER NOT NULL,
  retain INTEGER NOT NULL,
  published_at REAL NOT NULL
);
CREATE INDEX stops ON message (id) WHERE stop = 1;
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
DELETE_DAMAGED = (
    "DELETE FROM message WHERE NOT (typeof(topic) = 'text' AND typeof(payload) = 'blob' "
    "AND typeof(published_at) = 'real' AND abs(published_at) < 1e11 AND qos IN (0, 1, 2) "
    "AND stop IN (0, 1) AND retain IN (0, 1))"
)
COLUMNS = "id, stop, topic, payload, qos, retain, published_at"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One row.

    Attributes:
        id: Rises in the order of publication, over restarts.
        stop: Whether it is an emergency stop: it goes first, and is given up last.
        topic: On the wire.
        payload: As published.
        qos: 1 or 2.
        retain: Whether it is published to be kept.
        published_at: s since the epoch, by this machine's clock.
    """

    id: int
    stop: bool
    topic: str
    payload: bytes
    qos: int
    retain: bool
    published_at: float

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return len(self.payload) + len(self.topic) + ROW_BYTES


class OutboxStore:
    """The file; ``open`` it before anything else.

    Args:
        path: Made, with its mode 0600, where there is none; its folder must be there.
        env_id: Whose messages it holds; a file of another environment is refused.
    """

    def __init__(self, path: Path, env_id: str) -> None:
        self.path = path
        self._env_id = env_id
        self._database: sqlite3.Connection | None = None
        self.damaged = 0
        """Rows that were removed when it was opened, because they are no messages."""

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._database is not None

    def open(self) -> None:
        """Open, lock and check the file.

        Raises:
            ConfigError: It is another process's, not an outbox, newer than this program, or of another
                environment; or there is no such folder.
            OSError, sqlite3.Error: The disk does not do its part (full, read-only, broken).
        """
        if not self.path.parent.is_dir():
            raise ConfigError(f"outbox {self.path}: there is no folder {self.path.parent}; make it first")
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"outbox {self.path}: not a file; expected the name of one")
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            self.path.chmod(0o600)  # no other user may read messages
        database = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        self._database = database

    def _prepare(self, database: sqlite3.Connection) -> None:
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # in force for a file that is made now
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")  # locks it, until it is closed
            self._check(database)
            database.execute("COMMIT")
            database.execute("PRAGMA journal_size_limit = 1048576")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise ConfigError(
                    f"outbox {self.path}: in use by another process or connection; give each its own file"
                ) from None
            raise
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
                raise ConfigError(
                    f"outbox {self.path}: not an outbox, or damaged ({exc}); move it away"
                ) from None
            raise

    def _check(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables and not application:
            for statement in filter(str.strip, SCHEMA.split(";")):
                database.execute(statement)
            database.execute("INSERT INTO about VALUES ('env_id', ?)", (self._env_id,))
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {VERSION}")
            return
        if application != APPLICATION_ID:
            raise ConfigError(f"outbox {self.path}: an SQLite file, but no outbox; name another file")
        if version != VERSION:
            raise ConfigError(
                f"outbox {self.path}: of version {version}, this program knows {VERSION}; "
                "send it with the program that wrote it, or name another file"
            )
        (env_id,) = database.execute("SELECT value FROM about WHERE key = 'env_id'").fetchone()
        if env_id != self._env_id:
            raise ConfigError(
                f"outbox {self.path}: holds messages of environment {env_id!r}, not of {self._env_id!r}; "
                "name another file"
            )
        self.damaged += database.execute(DELETE_DAMAGED).rowcount

    # -- rows --------------------------------------------------------------------------------------

    def _open_one(self) -> sqlite3.Connection:
        if self._database is None:
            self.open()
        assert self._database is not None
        return self._database

    def write(self, added: Iterable[StoredMessage], removed: Iterable[int]) -> None:
        """Add and remove messages, all or none, and wait until the disk has them.

        Raises:
            OSError, sqlite3.Error, ConfigError: Nothing was written.
        """
        database = self._open_one()
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany("DELETE FROM message WHERE id = ?", ((i,) for i in removed))
            database.executemany(
                "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (m.id, int(m.stop), m.topic, m.payload, m.qos, int(m.retain), m.published_at)
                    for m in added
                ),
            )
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def stops(self) -> list[StoredMessage]:
        """Return the emergency stops in it, in order."""
        return self._select("WHERE stop = 1 ORDER BY id", ())

    def next(self, after: int, limit: int) -> list[StoredMessage]:
        """Return the oldest messages beyond an id, stops left out, in order."""
        return self._select("WHERE stop = 0 AND id > ? ORDER BY id LIMIT ?", (after, limit))

    def totals(self) -> tuple[dict[str, tuple[int, int]], int]:
        """Return number and bytes of the messages in it by topic, and the largest id."""
        database = self._open_one()
        rows = database.execute(
            "SELECT topic, count(*), sum(length(payload) + length(topic)) FROM message GROUP BY topic"
        )
        found = {topic: (int(count), int(size) + int(count) * ROW_BYTES) for topic, count, size in rows}
        (newest,) = database.execute("SELECT coalesce(max(id), 0) FROM message").fetchone()
        return found, int(newest)

    def _select(self, where: str, values: tuple[int, ...]) -> list[StoredMessage]:
        rows = self._open_one().execute(f"SELECT {COLUMNS} FROM message {where}", values)  # noqa: S608
        return [StoredMessage(i, bool(s), t, p, q, bool(r), at) for i, s, t, p, q, r, at in rows]

    def shrink(self) -> None:
        """Give the pages of removed messages back to the file system."""
        self._open_one().execute("PRAGMA incremental_vacuum").fetchall()

    def close(self) -> None:
        """Close and unlock the file. Idempotent."""
        database, self._database = self._database, None
        if database is not None:
            database.close()
