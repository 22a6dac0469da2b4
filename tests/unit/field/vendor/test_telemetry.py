"""What is read from the payloads of a topic, and what a topic says about whether the device is there."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor import telemetry
from heron_mqtt.field.vendor.inputs import MissingValue
from heron_mqtt.field.vendor.tables import AvailabilityTable, TelemetryTable
from heron_mqtt.field.vendor.telemetry import AvailabilityReader, TelemetryReader
from support.rows import each_row


def reader(said: list[str] | None = None, **table: Any) -> TelemetryReader:
    complaints = [] if said is None else said
    made = TelemetryReader(
        TelemetryTable.model_validate({"topic": "x", **table}),
        lambda key, text: complaints.append(f"{key}: {text}"),
    )
    assert said is not None or not complaints
    return made


FIELD = {"path": "p", "unit": "W"}
ACK = {"path": "id"}


@pytest.mark.parametrize(
    ("table", "is_answer"),
    [
        ({"fields": {"ack_seq": ACK}}, True),
        ({"fields": {"ack_seq": ACK, "p_mw": FIELD}}, False),
        ({"fields": {"ack_seq": ACK}, "inputs": {"a": {"path": "a"}}}, False),
        ({"fields": {"p_mw": FIELD}}, False),
        ({"inputs": {"a": {"path": "a"}}}, False),
    ],
)
def test_only_the_number_of_a_setpoint_is_an_answer_and_no_instance_of_the_device(
    table: dict[str, Any], is_answer: bool
) -> None:
    made = reader(**table)
    assert (made.is_answer, made.has_instances) == (is_answer, not is_answer)


def test_a_sparkplug_node_has_no_instances() -> None:
    made = reader(topic="spBv1.0/G/DDATA/N/D", format="sparkplug", inputs={"a": {"metric": "a"}})
    assert (made.node_topic, made.has_instances) == ("spBv1.0/G/DDATA/N/D", False)
    assert [p.filter for p in made.patterns] == ["spBv1.0/G/+/N", "spBv1.0/G/+/N/+"]
    assert made.inputs["a"].on_change


def test_what_cannot_be_read_harms_only_itself() -> None:
    made = reader(inputs={"a": {"path": "a"}, "b": {"path": "b"}, "c": {"path": "c", "on_change": True}})
    read = made.read(made.parse(b'{"a": "x", "b": 5}'))
    assert read.values == {"b": 5.0, "c": MissingValue(True, "c finds nothing")}
    assert read.problems == {"a": "a gave 'x', expected a number"}
    assert made.read({"a": 1, "b": 2}, names=["b"]).values == {"b": 2.0}
    assert made.read({"b": None}, names=["b"]).values == {"b": MissingValue(False, "b finds nothing")}
    nothing = made.nothing()
    assert nothing.values == dict.fromkeys("abc", MissingValue(False, "the payload is empty"))
    assert nothing.problems == {}


def test_what_reports_changes_only_keeps_all_that_it_said() -> None:
    made = reader(reports="on_change", fields={"p_mw": FIELD})
    assert made.read({}).values == {"p_mw": MissingValue(True, "p_mw: p finds nothing")}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            {
                "format": "text",
                "fields": {"p_mw": {"unit": "W", "pattern": "p(.)"}, "soc": {"unit": "percent"}},
            },
            "fields: a text payload holds one quantity; give each a pattern or a struct, or use json or csv",
        ),
        (
            {"format": "text", "fields": {"p_mw": {"unit": "W"}}, "inputs": {"a": {}}},
            "fields: a text payload holds one quantity; give each a pattern or a struct, or use json or csv",
        ),
        ({"fields": {"p_mw": {"unit": "W"}}}, "fields.p_mw.path: missing; format 'json' needs it"),
        ({"inputs": {"a": {}}}, "inputs.a.path: missing; format 'json' needs it"),
        (
            {"topic": "a/#", "inputs": {"a": {"path": "a"}}},
            "topic: # takes in everything below: say + for each level that varies",
        ),
        (
            {"topic": ["spBv1.0/G/NDATA/N", "y"], "format": "sparkplug", "inputs": {"a": {"metric": "a"}}},
            "topic: format 'sparkplug' reads one topic a table",
        ),
        (
            {"topic": "x/y", "format": "sparkplug", "inputs": {"a": {"metric": "a"}}},
            "topic: 'x/y': expected spBv1.0/GROUP/DDATA/NODE/DEVICE or spBv1.0/GROUP/NDATA/NODE",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key(table: dict[str, Any], problem: str) -> None:
    said: list[str] = []
    reader(said, **table)
    assert said == [problem]


@pytest.mark.parametrize(
    "fields",
    [
        {"p_mw": {"unit": "W"}},
        {"p_mw": {"unit": "W", "pattern": "p(.)"}, "soc": {"unit": "percent", "pattern": "s(.)"}},
        {
            "p_mw": {"unit": "W", "struct": "<f", "bytes": "hex"},
            "soc": {"unit": "percent", "struct": "<f", "at": 4, "bytes": "hex"},
        },
    ],
)
def test_a_text_may_hold_one_quantity_or_several_that_each_have_a_place(fields: dict[str, Any]) -> None:
    reader(format="text", fields=fields)


def test_without_protobuf_sparkplug_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ConfigError("install it")

    monkeypatch.setattr(telemetry, "require", missing)
    said: list[str] = []
    made = reader(said, topic="spBv1.0/G/DDATA/N/D", format="sparkplug", inputs={"a": {"metric": "a"}})
    assert (said, made.node_topic) == (["format: install it"], None)


# -- availability ------------------------------------------------------------------------------------


def availability(said: list[str] | None = None, **table: Any) -> AvailabilityReader:
    complaints = [] if said is None else said
    given = {"topic": "x", "online": ["on"], "offline": ["off", "null"], **table}
    made = AvailabilityReader(
        AvailabilityTable.model_validate(given), lambda key, text: complaints.append(f"{key}: {text}")
    )
    assert said is not None or not complaints
    return made


@each_row(
    ("table", "payload", "read"),
    [
        ({}, b"on", ("online", "on")),
        ({}, b" OFF ", ("offline", "OFF")),
        ({}, b"what", ("fault", "what")),
        ({"fault": ["bad"], "other": "online"}, b"bad", ("fault", "bad")),
        ({"fault": ["bad"], "other": "online"}, b"what", ("online", "what")),
        ({"path": "a.b"}, b'{"a": {"b": "on"}}', ("online", "on")),
        ({"path": "a"}, b'{"a": null}', ("offline", "null")),
        ({"path": "a", "offline": ["off"]}, b'{"a": null}', None),
        ({"path": "a", "online": ["1"]}, b'{"a": 1.0}', ("online", "1")),
        ({"path": "a"}, b'{"a": [1]}', ("fault", "[1]")),
        ({"path": "[0]"}, b'["off"]', ("offline", "off")),
        ({"path": "a"}, b"on", ("online", "on")),  # not JSON: the word itself
        ({"path": "a", "tolerant": True}, b"{'a': 'on'}", ("online", "on")),
        ({"pattern": "state (\\w+)"}, b"my state on now", ("online", "on")),
        ({"pattern": "o(?:n|ff)"}, b"it is off", ("offline", "off")),
        ({"pattern": "state (on)?", "online": [""]}, b"state off", ("online", "")),
        ({"pattern": "state (\\w+)"}, b"off", ("offline", "off")),
        ({"pattern": "x(.)"}, b"." * 4094 + b"xy", ("fault", "y")),
        ({"pattern": "x(.)", "online": ["*"]}, b"." * 4095 + b"xy", ("online", "." * 4095 + "xy")),
    ],
)
def test_a_word_of_presence_is_found(table: dict[str, Any], payload: bytes, read: Any) -> None:
    assert availability(**table).read(payload) == read


def test_a_word_that_is_to_be_ignored_is_named_with_those_that_are_known() -> None:
    with pytest.raises(MessageError) as refused:
        availability(other="ignore").read(b"what")
    assert str(refused.value) == "availability 'what': expected one of on, off, null"


def test_one_word_means_one_thing_and_there_must_be_one() -> None:
    said: list[str] = []
    availability(said, fault=["on"])
    assert said == ["fault: 'on' already means online"]
    said.clear()
    availability(said, online=[], offline=[])
    assert said == ["online: expected at least one word"]


def test_a_register_stands_where_a_topic_would() -> None:
    made = availability(topic=None, register="state", timeout_s=5.0)
    assert (made.topic, made.register, made.patterns, made.timeout_s) == ("register state", "state", (), 5.0)
    made = availability()
    assert (made.topic, made.register, made.timeout_s) == ("x", None, None)
