"""A record as OpenTelemetry traces, in OTLP's JSON: made after the run, so that the run is not slowed by it.

A trace is an episode. It contains a span for each step. Below a step there is one span for each of its
phases, and one for each setpoint until its device has acknowledged it. Events of the record are events of the
step in which they were. One request a line, as the Collector's ``otlpjsonfile`` receiver reads it, and as
``/v1/traces`` takes it.

Source: OpenTelemetry protocol 1.x, ``ExportTraceServiceRequest``, JSON mapping: identifiers in hexadecimal,
64-bit integers as text.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.json_object import Json
from heron_mqtt.record.reader import RecordFile

SPANS_A_LINE = 1_000
INTERNAL, CLIENT = 1, 3  # SpanKind
UNSET, ERROR = 0, 2  # StatusCode


def write_otlp(record: RecordFile, path: Path) -> None:
    """Write the traces of a record.

    Raises:
        ConfigError: It is the record of a proxy, which has no steps.
        OSError: The file cannot be written.
    """
    if record.meta.get("role", "environment") != "environment":
        raise ConfigError(
            f"export --format otlp: {record.path} is the record of {record.meta['role']}, which has no "
            "steps; export the environment's, or the merged one"
        )
    with path.open("w", encoding="utf-8") as stream:
        waiting: list[Json] = []
        for span in _Spans(record).all():
            waiting.append(span)
            if len(waiting) >= SPANS_A_LINE:
                stream.write(_request(record, waiting))
                waiting = []
        stream.write(_request(record, waiting))


def _request(record: RecordFile, spans: list[Json]) -> str:
    resource = {
        "service.name": "heron-mqtt",
        "service.namespace": record.meta.get("scenario", ""),
        "service.instance.id": record.meta.get("record_id", ""),
        "heron.mode": record.meta.get("mode", ""),
        "heron.seed": record.meta.get("seed", ""),
    }
    spans_of = [{"scope": {"name": "heron_mqtt.record"}, "spans": spans}]
    traces = [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": spans_of}]
    return json.dumps({"resourceSpans": traces}, separators=(",", ":"), ensure_ascii=False) + "\n"


class _Spans:
    """Makes the spans of a record; the same record gives the same identifiers."""

    def __init__(self, record: RecordFile) -> None:
        self._record = record
        self._begun_ns = round(datetime.fromisoformat(record.meta["begun_at"]).timestamp() * 1e9)
        self._name = record.meta.get("record_id") or record.head

    def all(self) -> Iterator[Json]:
        """Return episodes, steps, phases and setpoints."""
        for row in self._record.query(
            "SELECT episode, min(begun_at_s) AS begun, max(begun_at_s + took_s) AS ended, count(*) AS steps "
            "FROM step_row GROUP BY episode ORDER BY episode"
        ):
            said = {"heron.episode": row["episode"], "heron.steps": row["steps"]}
            yield self._span(
                row["episode"], "", f"episode {row['episode']}", row["begun"], row["ended"], said
            )
        events = self._events()
        for row in self._record.each("SELECT * FROM step_row ORDER BY id"):
            yield from self._step(row, events.get(row["id"], []))
        yield from self._setpoints()

    def _step(self, row: sqlite3.Row, events: list[Json]) -> Iterator[Json]:
        episode, step, begun_s = row["episode"], row["step"], row["begun_at_s"]
        said = {
            "heron.step": step,
            "heron.clock": row["clock"],
            "heron.price_usd_per_mwh": row["price_per_mwh"],
            "heron.deadlines_missed": row["missed"],
        }
        span = self._span(
            episode, f"step {step}", f"step {step}", begun_s, begun_s + row["took_s"], said, above=""
        )
        if row["diverged"] is not None:
            span["status"] = {"code": ERROR, "message": f"the power flow diverged: {row['diverged']}"}
        yield {**span, "events": events}
        at_s = begun_s
        for phase, took_s in json.loads(row["phases"] or "{}").items():
            key = f"step {step} {phase}"
            yield self._span(episode, key, phase, at_s, at_s + took_s, {}, above=f"step {step}")
            at_s += took_s

    def _setpoints(self) -> Iterator[Json]:
        for row in self._record.each(
            "SELECT episode, step, agent, device, sent_p_mw, sent_at_s, round_trip_s, acknowledged, fallback "
            "FROM device_row WHERE sent_at_s IS NOT NULL ORDER BY id"
        ):
            label, took_s = f"{row['agent']}/{row['device']}", row["round_trip_s"] or 0.0
            said = {
                "heron.device": label,
                "heron.p_mw": row["sent_p_mw"],
                "heron.acknowledged": bool(row["acknowledged"]),
            }
            key, above = f"step {row['step']} {label}", f"step {row['step']}"
            at_s = row["sent_at_s"]
            span = self._span(row["episode"], key, "setpoint", at_s, at_s + took_s, said, above=above)
            if row["fallback"] is not None:
                span["status"] = {"code": ERROR, "message": f"its model replaced it: {row['fallback']}"}
            yield {**span, "kind": CLIENT}

    def _events(self) -> dict[int, list[Json]]:
        """Return the events of each step, by the id of its row: those since the end of the one before."""
        found: dict[int, list[Json]] = defaultdict(list)
        for row in self._record.each(
            "SELECT e.at_s, e.kind, e.subject, e.what, (SELECT min(s.id) FROM step_row AS s "
            "WHERE s.begun_at_s + s.took_s >= e.at_s) AS step_id FROM event_row AS e "
            "WHERE e.kind <> 'summary' ORDER BY e.id"
        ):
            if row["step_id"] is not None:
                said = {"heron.subject": row["subject"], "heron.what": row["what"]}
                event = {"timeUnixNano": self._ns(row["at_s"]), "name": row["kind"]}
                found[row["step_id"]].append({**event, "attributes": _attributes(said)})
        return found

    def _span(
        self,
        episode: int,
        key: str,
        name: str,
        begun_s: float,
        ended_s: float,
        said: Mapping[str, Any],
        *,
        above: str | None = None,
    ) -> Json:
        span = {
            "traceId": self._id(16, episode, "trace"),
            "spanId": self._id(8, episode, key),
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": self._ns(begun_s),
            "endTimeUnixNano": self._ns(ended_s),
            "attributes": _attributes(said),
            "status": {"code": UNSET},
        }
        return span if above is None else {**span, "parentSpanId": self._id(8, episode, above)}

    def _ns(self, at_s: float) -> str:
        return str(self._begun_ns + round(at_s * 1e9))

    def _id(self, size: int, episode: int, key: str) -> str:
        return hashlib.sha256(f"{self._name} {episode} {key}".encode()).digest()[:size].hex()


def _attributes(said: Mapping[str, Any]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in said.items() if value is not None]


def _value(value: Any) -> Json:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
