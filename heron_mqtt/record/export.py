"""A record in other formats: CSV and Parquet, a file a view, MCAP for log viewers, OpenTelemetry traces."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.record.mcap_file import write_mcap
from heron_mqtt.record.otlp_file import write_otlp
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.schema import VIEWS

ROWS = 10_000  # in memory at a time

WHOLE = frozenset({"settled"})
"""Computed columns that are whole numbers; the others are REAL."""


def columns(record: RecordFile, view: str) -> list[tuple[str, str]]:
    """Return the columns of a view: name, and INTEGER, REAL or TEXT."""
    found = []
    for row in record.query("SELECT name, type FROM pragma_table_info(?)", view):
        kind = row["type"] or ("INTEGER" if row["name"] in WHOLE else "REAL")
        found.append((str(row["name"]), str(kind)))
    return found


def write_csv(record: RecordFile, folder: Path) -> list[Path]:
    """Write a CSV file a view; what is not known is an empty field.

    Raises:
        OSError: A file cannot be written.
    """
    written = []
    for view in VIEWS:
        path = folder / f"{view}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([name for name, _ in columns(record, view)])
            writer.writerows(tuple(row) for row in record.each(f"SELECT * FROM {view} ORDER BY id"))  # noqa: S608
        written.append(path)
    return written


def write_parquet(record: RecordFile, folder: Path) -> list[Path]:
    """Write a Parquet file a view, with the types of its columns.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError: A file cannot be written.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            "export --format parquet: pyarrow is not installed; pip install 'heron-mqtt[parquet]'"
        ) from None
    kinds = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    written = []
    for view in VIEWS:
        path = folder / f"{view}.parquet"
        schema = pa.schema([(name, kinds[kind]) for name, kind in columns(record, view)])
        with parquet.ParquetWriter(path, schema) as writer:
            for rows in _batches(record, view):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        written.append(path)
    return written


def _batches(record: RecordFile, view: str) -> Iterator[list[dict[str, Any]]]:
    each = record.each(f"SELECT * FROM {view} ORDER BY id")  # noqa: S608 - our own names
    while rows := [dict(row) for row in islice(each, ROWS)]:
        yield rows


def _write_mcap(record: RecordFile, folder: Path) -> list[Path]:
    path = folder / f"{record.path.stem}.mcap"
    write_mcap(record, path)
    return [path]


def _write_otlp(record: RecordFile, folder: Path) -> list[Path]:
    path = folder / f"{record.path.stem}.otlp.jsonl"
    write_otlp(record, path)
    return [path]


FORMATS: dict[str, Callable[[RecordFile, Path], list[Path]]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "mcap": _write_mcap,
    "otlp": _write_otlp,
}


def export(path: str | Path, kind: str, folder: str | Path | None = None) -> list[Path]:
    """Write a record in another format.

    Args:
        path: The record.
        kind: One of ``FORMATS``.
        folder: Where to; None = a directory beside the record, named after it.

    Returns:
        The files written.

    Raises:
        ConfigError: An unknown format, a package that is missing, or a place that cannot be written to.
        DataError: It is not a record.
    """
    if kind not in FORMATS:
        raise ConfigError(f"export --format {kind}: expected one of {', '.join(FORMATS)}")
    with RecordFile(path) as record:
        target = Path(folder) if folder is not None else record.path.with_suffix("")
        try:
            target.mkdir(parents=True, exist_ok=True)
            return FORMATS[kind](record, target)
        except OSError as exc:
            raise ConfigError(f"export to {target}: cannot be written: {exc.strerror or exc}") from None
