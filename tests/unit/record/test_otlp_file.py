"""Traces of a record: what OpenTelemetry's own protocol reads, complete, and the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from heron_mqtt.errors import ConfigError
from heron_mqtt.record.export import export
from heron_mqtt.record.otlp_file import write_otlp
from heron_mqtt.record.reader import RecordFile
from support.recorded_runs import STEPS, record_run


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("day") / "day.heron"
    record_run(path, emulated=True, faults={"MG1/ess": "silence@2:2"})
    return path


def spans(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text("utf-8").splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                yield from scope["spans"]


@pytest.fixture(scope="module")
def found(day: Path) -> list[dict[str, Any]]:
    (file,) = export(day, "otlp")
    assert file == day.with_suffix("") / "day.otlp.jsonl"
    return list(spans(file))


def test_it_is_the_protocol_of_opentelemetry(day: Path, found: list[dict[str, Any]]) -> None:
    (file,) = export(day, "otlp")
    for line in file.read_text("utf-8").splitlines():
        request = json.loads(line)
        for one in [
            span for part in request["resourceSpans"] for s in part["scopeSpans"] for span in s["spans"]
        ]:
            for name in ("traceId", "spanId", "parentSpanId"):  # OTLP's JSON has them in hexadecimal
                if name in one:
                    assert len(bytes.fromhex(one[name])) == (16 if name == "traceId" else 8)
                    one[name] = ""
        ParseDict(request, ExportTraceServiceRequest())


def test_every_step_phase_and_setpoint_is_a_span_of_its_parent(
    day: Path, found: list[dict[str, Any]]
) -> None:
    by_id = {span["spanId"]: span for span in found}
    assert len(by_id) == len(found)
    assert len({span["traceId"] for span in found}) == 1
    roots = [span for span in found if "parentSpanId" not in span]
    assert [span["name"] for span in roots] == ["episode 1"]
    steps = [span for span in found if span["name"].startswith("step ")]
    assert len(steps) == STEPS
    assert {span["parentSpanId"] for span in steps} == {roots[0]["spanId"]}
    with RecordFile(day) as record:
        sent = record.query("SELECT count(*) AS n FROM devices WHERE sent_at_s IS NOT NULL")[0]["n"]
        phases = sum(len(json.loads(row["phases"])) for row in record.query("SELECT phases FROM step_row"))
    assert len([span for span in found if span["name"] == "setpoint"]) == sent
    assert len(found) == 1 + STEPS + phases + sent
    for span in found:
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert span.get("parentSpanId", roots[0]["spanId"]) in by_id


def test_a_model_that_stood_in_is_an_error_and_an_event(found: list[dict[str, Any]]) -> None:
    failed = [span for span in found if span["status"]["code"] == 2]
    assert failed
    assert all("its model replaced it" in span["status"]["message"] for span in failed)
    events = [event["name"] for span in found for event in span.get("events", ())]
    assert "fallback" in events


def test_the_same_record_gives_the_same_file(day: Path, tmp_path: Path) -> None:
    with RecordFile(day) as record:
        write_otlp(record, tmp_path / "a")
        write_otlp(record, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_record_without_steps_is_refused(day: Path, tmp_path: Path) -> None:
    with RecordFile(day) as record:
        record.meta["role"] = "MG1"
        with pytest.raises(ConfigError, match="is the record of MG1, which has no steps"):
            write_otlp(record, tmp_path / "a")
