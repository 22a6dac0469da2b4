"""``heron-mqtt merge``: the files of one run, each of one side, as one; no clock is trusted.

Messages are matched by (sender, boot, channel, seq). What one side sent and the other received bounds the
offset between their clocks: offset + delay one way, delay - offset the other. With the shortest delay in
each direction the offset is half the difference, and its error at most half the sum.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.schema import AGENT, DEVICE, EVENT, MESSAGE, STEP, TRADE, RowTable
from heron_mqtt.record.writer import RecordLimits, RecordWriter

NumberedMessage = tuple[str, str, str, int]  # sender, boot, channel, seq


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the clock of one record is ahead of that of the first, s.

    Attributes:
        seconds: Estimate.
        error_s: The true value is at most this far away; None = the messages went one way only, and the
            shortest delay is taken to be nothing.
        exchanged: Messages that it is estimated from.
    """

    seconds: float
    error_s: float | None
    exchanged: int


def merge(paths: Sequence[str | Path], to: str | Path) -> dict[str, Offset]:
    """Join the records of one run.

    Args:
        paths: The environment's record first, then those of proxies.
        to: The file to write; it must not exist.

    Returns:
        By side, the offset of its clock to the environment's.

    Raises:
        ConfigError: They are not of one run, or the file cannot be written.
        DataError: One is not a record.
    """
    records = [RecordFile(path) for path in paths]
    try:
        return _merge(records, Path(to))
    finally:
        for record in records:
            record.close()


def _merge(records: Sequence[RecordFile], to: Path) -> dict[str, Offset]:
    if len(records) < 2:
        raise ConfigError("merge: expected at least two records of one run")
    first, others = records[0], records[1:]
    if first.meta.get("role") != "environment":
        raise ConfigError(
            f"{first.path}: the record of {first.meta.get('role')}; name the environment's first"
        )
    roles = [record.meta.get("role", "") for record in records]
    if len(set(roles)) != len(roles):
        raise ConfigError(f"merge: two records of one side: {', '.join(roles)}")
    run = _run_of(first)
    offsets = {}
    for record in others:
        if run not in _runs_of(record):
            raise ConfigError(f"{record.path}: not of the run of {first.path} (run/state of boot {run})")
        offsets[record.meta["role"]] = _offset(first, record)
    meta = {
        **first.meta,
        "role": "environment",
        "merged": json.dumps(
            {role: [o.seconds, o.error_s, o.exchanged] for role, o in offsets.items()}, separators=(",", ":")
        ),
        "merged_from": json.dumps([[record.meta.get("record_id"), record.head] for record in records]),
    }
    files = {
        row["name"]: (row["sha256"], row["content"])
        for row in first.query("SELECT name, sha256, content FROM input_file")
    }
    try:
        writer = RecordWriter(to, meta, files, limits=RecordLimits(max_bytes=1 << 40), max_waiting=1 << 40)
    except FileExistsError:
        raise ConfigError(f"merge: {to}: exists already; a record is never overwritten") from None
    except OSError as exc:
        raise ConfigError(f"merge: {to}: cannot be written: {exc.strerror}") from None
    _copy(writer, records, offsets)
    writer.close(600.0)
    return offsets


def _run_of(record: RecordFile) -> str:
    """Return the boot of ``run/state`` that the environment of a record had."""
    found = record.query(
        "SELECT boot FROM message_row WHERE type = 'run_state' AND direction = 'out' AND boot IS NOT NULL "
        "ORDER BY id DESC LIMIT 1"
    )
    if not found:
        raise ConfigError(f"{record.path}: its messages were not recorded; it cannot be merged")
    return str(found[0]["boot"])


def _runs_of(record: RecordFile) -> set[str]:
    rows = record.query("SELECT DISTINCT boot FROM message_row WHERE type = 'run_state'")
    return {str(row["boot"]) for row in rows}


def _times(record: RecordFile, direction: str) -> dict[NumberedMessage, float]:
    found: dict[NumberedMessage, float] = {}
    for row in record.each(
        "SELECT at_s, sender, boot, channel, seq FROM message_row WHERE direction = ? AND seq IS NOT NULL "
        "AND sender IS NOT NULL AND boot IS NOT NULL AND (direction = 'out' OR retained = 0) "
        "AND coalesce(arrival, 'new') = 'new' ORDER BY id",
        direction,
    ):
        found.setdefault((row["sender"], row["boot"], row["channel"], row["seq"]), row["at_s"])
    return found


def _offset(first: RecordFile, other: RecordFile) -> Offset:
    """Estimate how far the other's clock is ahead.

    Raises:
        ConfigError: They have no message in common.
    """
    there = [at - sent for at, sent in _pairs(_times(first, "out"), _times(other, "in"))]
    back = [at - sent for at, sent in _pairs(_times(other, "out"), _times(first, "in"))]
    if not there and not back:
        raise ConfigError(f"{other.path}: it has no message in common with {first.path}")
    if there and back:
        return Offset((min(there) - min(back)) / 2.0, (min(there) + min(back)) / 2.0, len(there) + len(back))
    seconds = min(there) if there else -min(back)
    return Offset(seconds, None, len(there) + len(back))


def _pairs(
    sent: dict[NumberedMessage, float], arrived: dict[NumberedMessage, float]
) -> list[tuple[float, float]]:
    return [(arrived[key], at) for key, at in sent.items() if key in arrived]


def _copy(writer: RecordWriter, records: Sequence[RecordFile], offsets: dict[str, Offset]) -> None:
    first = records[0]
    for table in (STEP, AGENT, TRADE):
        for said in first.each(f"SELECT {', '.join(table.names)} FROM {table.name} ORDER BY id"):  # noqa: S608
            writer.add(table, tuple(said))
    _copy_devices(writer, records, offsets)
    for table in (MESSAGE, EVENT):
        rows: list[tuple[float, tuple[Any, ...]]] = []
        for record in records:
            role = record.meta["role"]
            shift = offsets[role].seconds if role in offsets else 0.0
            rows += [
                (at, row)
                for at, row in _shifted(table, record, shift)
                if not (
                    table is EVENT and row[table.names.index("kind")] == "summary" and record is not first
                )
            ]
        rows.sort(key=lambda pair: pair[0])
        sent = _payloads(row for _, row in rows) if table is MESSAGE else {}
        for _, row in rows:
            writer.add(table, _without_copy(row, sent) if table is MESSAGE else row)


def _without_copy(row: tuple[Any, ...], sent: dict[tuple[Any, ...], str | None]) -> tuple[Any, ...]:
    """Return a message without its payload, if that stands in the row of its publication already."""
    said = dict(zip(MESSAGE.names, row, strict=True))
    is_copy = said["direction"] == "in" and said["payload"] is not None
    if is_copy and said["seq"] is not None and sent.get(_key_of(said)) == said["payload"]:
        return (*row[:-1], None)
    return row


def _payloads(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str | None]:
    """Return the payload of each message in the row of its publication."""
    found = {}
    for row in rows:
        said = dict(zip(MESSAGE.names, row, strict=True))
        if said["direction"] == "out":
            found[_key_of(said)] = said["payload"]
    return found


def _key_of(said: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(said[name] for name in ("sender", "boot", "channel", "seq"))


def _shifted(table: RowTable, record: RecordFile, shift: float) -> list[tuple[float, tuple[Any, ...]]]:
    at = table.names.index("at_s")
    rows = []
    for row in record.each(f"SELECT {', '.join(table.names)} FROM {table.name} ORDER BY id"):  # noqa: S608
        values = list(row)
        values[at] = (values[at] or 0.0) - shift
        rows.append((values[at], tuple(values)))
    return rows


def _copy_devices(writer: RecordWriter, records: Sequence[RecordFile], offsets: dict[str, Offset]) -> None:
    """Fill what the environment does not know of remote agents' devices from the records of these."""
    known: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    for record in records[1:]:
        shift = offsets[record.meta["role"]].seconds
        for row in record.each("SELECT * FROM device_row ORDER BY id"):  # of the agents that it served
            said = dict(row)
            if said["sent_at_s"] is not None:
                said["sent_at_s"] -= shift
            known[row["episode"], row["step"], row["agent"], row["device"]] = said
    for row in records[0].each("SELECT * FROM device_row ORDER BY id"):
        said = dict(row)
        for name, value in known.get((row["episode"], row["step"], row["agent"], row["device"]), {}).items():
            if said.get(name) is None and name in DEVICE.names:
                said[name] = value
        writer.add(DEVICE, tuple(said[name] for name in DEVICE.names))


def merged_offsets(record: RecordFile) -> dict[str, Offset]:
    """Return the offsets that a merged record states; empty for one that was not merged.

    Raises:
        DataError: They cannot be read.
    """
    try:
        said = json.loads(record.meta.get("merged", "{}"))
        return {role: Offset(*values) for role, values in said.items()}
    except (TypeError, ValueError) as exc:
        raise DataError(f"{record.path}: its clock offsets cannot be read: {exc}") from None
