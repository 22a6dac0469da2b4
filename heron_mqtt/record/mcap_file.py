"""A record as MCAP, for viewers such as Lichtblick and PlotJuggler: JSON messages on their topics.

Chunks are small and written one after another, so that a file that was cut off can be read up to there.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.record.reader import RecordFile

if TYPE_CHECKING:
    from mcap.writer import Writer

CHUNK_BYTES = 64 * 1024

Timed = tuple[float, str, dict[str, Any]]  # s since the record began, topic, message

_TOPICS = {
    "steps": "SELECT *, begun_at_s + took_s AS at_s FROM steps ORDER BY id",
    "agents": "SELECT a.*, s.begun_at_s + s.took_s AS at_s FROM agents AS a "
    "LEFT JOIN steps AS s ON s.episode = a.episode AND s.step = a.step ORDER BY a.id",
    "devices": "SELECT d.*, s.begun_at_s + s.took_s AS at_s FROM devices AS d "
    "LEFT JOIN steps AS s ON s.episode = d.episode AND s.step = d.step ORDER BY d.id",
    "trades": "SELECT t.*, s.begun_at_s + s.took_s AS at_s FROM trades AS t "
    "LEFT JOIN steps AS s ON s.episode = t.episode AND s.step = t.step ORDER BY t.id",
    "events": "SELECT * FROM events ORDER BY id",
}


def write_mcap(record: RecordFile, path: Path) -> None:
    """Write steps, agents, devices, trades, events and messages, each on a topic of its own.

    Raises:
        ConfigError: The package mcap is not installed.
        OSError: The file cannot be written.
    """
    try:
        from mcap.writer import CompressionType, Writer
    except ImportError:
        raise ConfigError(
            "export --format mcap: the package mcap is not installed; pip install 'heron-mqtt[mcap]'"
        ) from None
    begun_ns = int(datetime.fromisoformat(record.meta["begun_at"]).timestamp() * 1e9)
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        writer.start(profile="", library="heron-mqtt")
        writer.add_metadata("run", dict(record.describe()))
        channels: dict[str, int] = {}
        parts = [_rows(record, view, sql) for view, sql in _TOPICS.items()]
        for at_s, topic, said in heapq.merge(*parts, _messages(record), key=itemgetter(0)):
            _write(writer, channels, topic, said, begun_ns, at_s)
        writer.finish()  # type: ignore[no-untyped-call]


def _topic(view: str, row: dict[str, Any]) -> str:
    where = [str(row[key]) for key in ("agent", "device") if key in row]
    return "/".join(["", view, *where])


def _rows(record: RecordFile, view: str, sql: str) -> Iterator[Timed]:
    for row in record.each(sql):
        said = {key: row[key] for key in row.keys() if row[key] is not None}  # noqa: SIM118 - a Row
        yield said.get("at_s", 0.0), _topic(view, said), said


def _messages(record: RecordFile) -> Iterator[Timed]:
    sql = "SELECT channel, at_s, payload FROM message_row WHERE payload IS NOT NULL ORDER BY id"
    for row in record.each(sql):
        yield row["at_s"], f"/mqtt/{row['channel']}", json.loads(row["payload"])


def _write(
    writer: Writer,
    channels: dict[str, int],
    topic: str,
    said: dict[str, Any],
    begun_ns: int,
    at_s: float,
) -> None:
    if topic not in channels:
        schema = writer.register_schema(topic, "jsonschema", json.dumps(_schema(said)).encode())
        channels[topic] = writer.register_channel(topic, "json", schema)
    at_ns = begun_ns + int(at_s * 1e9)
    writer.add_message(channels[topic], at_ns, json.dumps(said).encode(), at_ns)


def _schema(said: dict[str, Any]) -> dict[str, Any]:
    kinds = {int: "number", float: "number", str: "string", bool: "boolean"}
    fields = {key: {"type": kinds[type(value)]} for key, value in said.items() if type(value) in kinds}
    return {"type": "object", "properties": fields}
