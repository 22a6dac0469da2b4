"""RecordFile: a record opened to be read; never written to.

A file of an older version is read as a copy in memory that is brought to this version. One whose run was
killed has its log (``-wal``) beside it: SQLite reads both.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from heron_mqtt.errors import DataError
from heron_mqtt.input_files import is_file, why_no_file
from heron_mqtt.record import chain, schema
from heron_mqtt.record.facts import NamedFile
from heron_mqtt.record.run_part import LOST, RESUMED, RunPart, is_abandoned

MAX_INPUT_BYTES = 256 * 1024 * 1024  # of an input file unpacked: a record comes from elsewhere


class RecordFile:
    """One record.

    Args:
        path: The file.

    Attributes:
        path: The file.
        meta: What was said of the run at its beginning, as text by key.
        version: Of the file's layout.

    Raises:
        DataError: It is not there, not a record, damaged, or newer than this program.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.connection = _open(self.path)
        try:
            self.version = self._check_kind()
            self.meta: dict[str, str] = dict(self.connection.execute("SELECT key, value FROM meta"))
            if self.version < schema.SCHEMA_VERSION:
                self.connection = _upgraded(self.connection, self.version)
        except sqlite3.Error as exc:
            self.connection.close()
            raise DataError(f"{self.path}: damaged: {exc}") from None
        except BaseException:
            self.connection.close()
            raise
        self.connection.row_factory = sqlite3.Row

    def _check_kind(self) -> int:
        try:
            (kind,) = self.connection.execute("PRAGMA application_id").fetchone()
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as exc:
            raise DataError(f"{self.path}: not a record of a run: {exc}") from None
        if kind != schema.APPLICATION_ID:
            what = "an SQLite file of something else" if self.path.stat().st_size else "it is empty"
            raise DataError(f"{self.path}: not a record of a run ({what})")
        if version > schema.SCHEMA_VERSION:
            raise DataError(
                f"{self.path}: its layout is version {version}, this program reads up to "
                f"{schema.SCHEMA_VERSION}; use a newer heron-mqtt"
            )
        if version != schema.SCHEMA_VERSION and version not in schema.MIGRATIONS:
            raise DataError(
                f"{self.path}: damaged: its layout is said to be version {version}, which no heron-mqtt has "
                "written"
            )
        return int(version)

    def __enter__(self) -> Self:
        """Return the record."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.connection.close()

    # -- what is in it -----------------------------------------------------------------------------

    def query(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """Return the rows of a query; columns by name or position.

        Raises:
            DataError: The file is damaged.
        """
        try:
            return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as exc:
            raise DataError(f"{self.path}: damaged: {exc}") from None

    def each(self, sql: str, *parameters: Any) -> Iterator[sqlite3.Row]:
        """Return the rows of a query one by one, for those that may be many; raises as ``query``."""
        try:
            yield from self.connection.execute(sql, parameters)
        except sqlite3.DatabaseError as exc:
            raise DataError(f"{self.path}: damaged: {exc}") from None

    @property
    def agents(self) -> list[str]:
        """Names of the microgrids, in the scenario's order."""
        return list(map(str, json.loads(self.meta.get("agents", "[]"))))

    @property
    def step_s(self) -> float:
        """Length of a step, s."""
        return float(self.meta["step_s"])

    @property
    def options(self) -> dict[str, Any]:
        """Options of the run."""
        return dict(json.loads(self.meta.get("options", "{}")))

    @property
    def scenario(self) -> dict[str, Any]:
        """The whole scenario."""
        return dict(json.loads(self.meta["scenario_json"]))

    def files(self) -> dict[str, NamedFile] | None:
        """Return the files that the scenario names, by key; None = an older version kept no hashes of them.

        Raises:
            DataError: They cannot be read.
        """
        if (told := self.meta.get("files")) is None:
            return None
        try:
            return {
                str(key): NamedFile(str(f["name"]), str(f["sha256"])) for key, f in json.loads(told).items()
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{self.path}: its table of files cannot be read") from None

    def summary(self) -> dict[str, Any] | None:
        """Return what the run said of itself at its end; None where it was killed before, or continues.

        Of a run that was resumed it is what the last part said; ``lost_rows`` are those of all parts.

        Raises:
            DataError: It cannot be read.
        """
        last = self.parts()[-1].summary
        return None if last is None else {**last, "lost_rows": self.lost_rows()}

    def lost_rows(self) -> int:
        """Return how many rows are missing, as far as parts of the run have told."""
        told = self.query("SELECT id, data FROM event_row WHERE kind IN ('summary', ?)", LOST)
        try:
            return sum(int(json.loads(row["data"] or "{}").get("lost_rows", 0)) for row in told)
        except (ValueError, TypeError, AttributeError):
            raise DataError(f"{self.path}: how many rows it lacks cannot be read") from None

    def parts(self) -> list[RunPart]:
        """Return the parts of the run: one, unless it was interrupted and resumed.

        Raises:
            DataError: What was said of a resumption cannot be read.
        """
        found: list[RunPart] = [RunPart()]
        for row in self.query(
            "SELECT id, at_s, episode, step, kind, data FROM event_row WHERE kind IN (?, ?, 'summary') "
            "ORDER BY id",
            RESUMED,
            LOST,
        ):
            try:
                data = json.loads(row["data"] or "{}")
                if row["kind"] == "summary":
                    found[-1] = replace(found[-1], summary=data)
                    continue
                if row["kind"] == LOST:
                    found[-1] = replace(found[-1], lost_rows=int(data["lost_rows"]))
                    continue
                rows = {str(name): int(count) for name, count in data["rows"].items()}
                first = int(row["episode"]), int(row["step"])
                found.append(RunPart(first, rows, str(data["head"]), float(row["at_s"])))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(f"{self.path}: event {row['id']}: its data cannot be read") from None
        return found

    def late_devices(self) -> dict[tuple[int, int, str, str], dict[str, Any]]:
        """Return what gateways did in steps that the environment had ended without them.

        What was done in a step that was not finished, and was done again after an interruption, is left out.

        Returns:
            By episode, step, agent and device: what stands in ``device_row`` elsewhere.

        Raises:
            DataError: It cannot be read.
        """
        found: dict[tuple[int, int, str, str], dict[str, Any]] = {}
        parts = self.parts()
        for row in self.query(
            "SELECT id, at_s, episode, step, subject, data FROM event_row WHERE kind = 'late' ORDER BY id"
        ):
            if is_abandoned(parts, row["at_s"], (row["episode"], row["step"])):
                continue
            try:
                devices = json.loads(row["data"] or "{}").get("devices", {})
                for name, columns in devices.items():
                    found[row["episode"], row["step"], row["subject"], name] = dict(columns)
            except (ValueError, TypeError, AttributeError):
                raise DataError(f"{self.path}: event {row['id']}: its data cannot be read") from None
        return found

    def inputs(self) -> dict[str, bytes]:
        """Return the input files by the key of the scenario that names them.

        Raises:
            DataError: One is damaged.
        """
        files = {}
        for row in self.query("SELECT name, content FROM input_file"):
            unpack = zlib.decompressobj()
            try:
                files[str(row["name"])] = unpack.decompress(row["content"], MAX_INPUT_BYTES)
            except (zlib.error, TypeError) as exc:
                raise DataError(f"{self.path}: input file {row['name']}: damaged: {exc}") from None
            if unpack.unconsumed_tail:
                raise DataError(f"{self.path}: input file {row['name']}: more than {MAX_INPUT_BYTES} bytes")
        return files

    def heads(self) -> dict[str, tuple[int, str]]:
        """Return rows and head (hex) of each table, as the file states them."""
        found = self.query("SELECT table_name, rows, head FROM chain")
        return {str(row["table_name"]): (int(row["rows"]), str(row["head"])) for row in found}

    @property
    def head(self) -> str:
        """One hash (hex) over everything, as the file states it."""
        return chain.whole((name, rows, head) for name, (rows, head) in self.heads().items())

    def describe(self) -> Mapping[str, str]:
        """Return the short facts of the run, for people."""
        names = ("scenario", "mode", "broker", "seed", "role", "begun_at")
        return {name: self.meta.get(name, "") for name in names}


def _open(path: Path) -> sqlite3.Connection:
    if not is_file(path):
        raise DataError(f"{path}: {why_no_file(path)}")
    where = f"file:{quote(str(path.resolve()))}"
    for options in ("mode=ro", "mode=ro&immutable=1"):  # the second: its directory cannot be written to
        try:
            connection = sqlite3.connect(f"{where}?{options}", uri=True, isolation_level=None)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as exc:
            connection.close()
            problem = str(exc)
        except sqlite3.DatabaseError as exc:
            connection.close()
            raise DataError(f"{path}: not a record of a run: {exc}") from None
        else:
            return connection
    raise DataError(f"{path}: cannot be read: {problem}")


def _upgraded(older: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Return a copy in memory, of this program's version."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    older.backup(copy)
    older.close()
    schema.upgrade(copy, version, schema.MIGRATIONS, schema.SCHEMA_VERSION)
    return copy
