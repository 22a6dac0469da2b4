"""Sparkplug B: births name aliases, deaths of this session count, what is damaged harms only itself."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.outgoing import MessageContext
from heron_mqtt.field.vendor.sparkplug_node import REBIRTH_S, SparkplugNode
from heron_mqtt.field.vendor.sparkplug_payload import _field, _read_varint, _varint, decode, encode, typed
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint

TABLE: dict[str, Any] = {
    "setpoint": {
        "values": {"p": {"quantity": "p_mw", "unit": "W", "decimals": 0}},
        "messages": [
            {
                "topic": "spBv1.0/g/DCMD/n/d",
                "payload": {"SP": "{p}", "On": True},
                "metrics": {"SP": "Int32", "On": "Boolean"},
            }
        ],
    },
    "telemetry": [
        {
            "topic": "spBv1.0/g/DDATA/n/d",
            "format": "sparkplug",
            "fields": {"p_mw": {"metric": "P", "unit": "W"}},
        }
    ],
}


@given(
    value=st.integers(-(1 << 31), (1 << 31) - 1), real=st.floats(width=32, allow_nan=False), on=st.booleans()
)
def test_what_is_written_is_read_back(value: int, real: float, on: bool) -> None:
    payload = encode(
        {"a": value, "b": real, "c": on, "d": "x"},
        {"a": "Int32", "b": "Float", "c": "Boolean", "d": "String"},
        7,
    )
    found = {m.name: typed(m.value, m.datatype) for m in decode(payload).metrics}
    assert found == {"a": value, "b": real, "c": on, "d": "x"}


@given(payload=st.binary(max_size=80))
def test_no_bytes_raise_anything_but_a_message_error(payload: bytes) -> None:
    try:
        decode(payload)
    except MessageError:
        return


@given(cut=st.integers(0, 200))
def test_a_payload_that_is_cut_off_gives_the_metrics_before_the_cut(cut: int) -> None:
    whole = encode({f"m{i}": i for i in range(5)}, {f"m{i}": "Int32" for i in range(5)}, 7)
    part = whole[: cut % len(whole)]
    try:
        found = decode(part)
    except MessageError:
        return
    assert all(m.value == i for i, m in enumerate(found.metrics) if m.value is not None)


@pytest.mark.parametrize(
    ("values", "datatype"), [({"a": 70000}, "Int16"), ({"a": "x"}, "Float"), ({"a": None}, "Int8")]
)
def test_a_value_that_does_not_fit_is_never_sent(values: dict[str, Any], datatype: str) -> None:
    with pytest.raises(MessageError, match=f"metric a: .* is no {datatype}"):
        encode(values, {"a": datatype}, 0)


def payload(metrics: list[dict[str, Any]], seq: int | None) -> bytes:
    from heron_mqtt.field.vendor.sparkplug_payload import _payload_class

    message = _payload_class()()
    for given_metric in metrics:
        metric = message.metrics.add()
        for key, value in given_metric.items():
            setattr(metric, key, value)
    if seq is not None:
        message.seq = seq
    return bytes(message.SerializeToString())


def test_a_node_is_followed_from_birth_to_death() -> None:
    node = SparkplugNode("spBv1.0/g/DDATA/n/d")
    assert node.filters == ("spBv1.0/g/+/n", "spBv1.0/g/+/n/+")

    def take(kind: str, metrics: list[dict[str, Any]], seq: int | None) -> Any:
        topic = f"spBv1.0/g/{kind}/n" + ("/d" if kind.startswith("D") else "")
        return node.take(topic, payload(metrics, seq))

    first = take("DDATA", [{"alias": 1, "int_value": 5}], 9)
    assert (first.values, first.needs_birth) == ({}, True)
    take("NBIRTH", [{"name": "bdSeq", "datatype": 4, "long_value": 2}], 0)
    born = take("DBIRTH", [{"name": "P", "alias": 1, "datatype": 2, "int_value": 7}], 1)
    assert (born.values, born.state) == ({"P": 7}, "online")
    news = take("DDATA", [{"alias": 1, "int_value": (1 << 32) - 3}], 2)
    assert (news.values, news.needs_birth) == ({"P": -3}, False)
    assert take("DDATA", [{"alias": 1, "int_value": 1, "is_historical": True}], 3).values == {}
    lost = take("DDATA", [{"alias": 1, "int_value": 4}], 5)
    assert (lost.values, lost.needs_birth) == ({"P": 4}, True)
    assert "seq is 5 instead of 4" in lost.problems[0]
    old = take("NDEATH", [{"name": "bdSeq", "datatype": 4, "long_value": 1}], None)
    assert (old.state, len(old.problems)) == (None, 1)
    assert take("NDEATH", [{"name": "bdSeq", "datatype": 4, "long_value": 2}], None).state == "offline"
    assert take("DDEATH", [], 7).state == "offline"
    assert node.take("spBv1.0/g/DCMD/n/d", b"anything").values is None


def test_what_a_node_says_is_the_devices_power_presence_and_a_question_for_its_birth() -> None:
    state = VendorState(load_mapping(TABLE, agent="MG1", device="ess", source="test"))

    def take(kind: str, metrics: list[dict[str, Any]], seq: int | None, now_s: float) -> Any:
        topic = f"spBv1.0/g/{kind}/n" + ("/d" if kind.startswith("D") else "")
        return state.take(topic, payload(metrics, seq), now_s, retained=False)

    power = {"name": "P", "alias": 1, "datatype": 3}
    for now_s, asked in ((0.0, 1), (REBIRTH_S - 1.0, 1), (REBIRTH_S, 2)):  # once in a while
        assert take("DDATA", [{"alias": 1, "int_value": 5}], 9, now_s).fields == {}
        assert state.births_wanted == ["spBv1.0/g/NCMD/n"] * asked
    take("NBIRTH", [{"name": "bdSeq", "datatype": 4, "long_value": 2}], 0, 100.0)
    born = take("DBIRTH", [{**power, "int_value": 7}], 1, 100.0)
    assert born.fields == {"p_mw": 7e-6}
    status = state.status(100.0)
    assert status is not None
    assert (status.state, status.reason) == ("online", None)
    told = take("DDATA", [{"alias": 1, "int_value": 9}], 2, 101.0)
    assert told.fields == {"p_mw": 9e-6}
    assert state.take("spBv1.0/g/DDATA/n/d", b"\xff", 102.0, retained=False).problems
    assert take("DDEATH", [], 3, 103.0).fields == {}
    status = state.status(103.0)
    assert status is not None
    assert (status.state, status.reason) == ("offline", "spBv1.0/g/DDEATH/n/d: it has died")


def test_a_command_is_a_payload_of_metrics() -> None:
    mapping = load_mapping(TABLE, agent="MG1", device="ess", source="test")
    [message] = mapping.encode(Setpoint(p_mw=-0.002, lease_s=1.0), MessageContext(BuiltIns(lambda: 17.0)))
    found = decode(message.payload)
    assert {m.name: typed(m.value, m.datatype) for m in found.metrics} == {"SP": -2000, "On": True}
    assert found.timestamp_ms == 17_000


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"topic": "spBv1.0/g/DDATA/n"}, "expected spBv1.0/GROUP/DDATA/NODE/DEVICE"),
        ({"topic": "spBv1.0/g/+/n/d"}, "expected spBv1.0/GROUP/DDATA/NODE/DEVICE"),
        ({"topic": ["spBv1.0/g/DDATA/n/d", "spBv1.0/g/DDATA/n/e"]}, "one topic a table"),
        ({"fields": {"p_mw": {"path": "P", "unit": "W"}}}, "format 'sparkplug' has none"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], problem: str) -> None:
    table = {**TABLE, "telemetry": [{**TABLE["telemetry"][0], **change}]}
    with pytest.raises(ConfigError, match="telemetry") as caught:
        load_mapping(table, agent="MG1", device="ess", source="test")
    assert problem in str(caught.value)


def test_without_the_extra_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(ConfigError) as caught:
        load_mapping(TABLE, agent="MG1", device="ess", source="test")
    told = "format 'sparkplug' needs the extra of that name: pip install 'heron-mqtt[sparkplug]'"
    assert f"test: telemetry[0].format: {told}" in caught.value.problems


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (16_383, b"\xff\x7f"),
        (2**64 - 1, b"\xff" * 9 + b"\x01"),
    ],
)
def test_a_whole_number_is_written_and_read_as_protobuf_says(value: int, data: bytes) -> None:
    assert _varint(value) == data
    assert _read_varint(b"x" + data + b"y", 1) == (value, 1 + len(data))
    assert _read_varint(data[:-1], 0) is None


def test_a_number_without_end_is_none() -> None:
    assert _read_varint(b"\xff" * 20, 0) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x08\x96\x01rest", (1, 1, 3)),
        (b"\x12\x03abcrest", (2, 2, 5)),
        (b"\x12\x00", (2, 2, 2)),
        (b"\x19" + bytes(8), (3, 1, 9)),
        (b"\x25" + bytes(4), (4, 1, 5)),
        (b"\x12\x03ab", None),
        (b"\x19" + bytes(7), None),
        (b"\x25" + bytes(3), None),
        (b"\x08", None),
        (b"\x12", None),
        (b"\x00\x01", None),
        (b"\x0b", None),
        (b"", None),
    ],
)
def test_a_field_is_found_with_its_number_and_bounds(data: bytes, found: tuple[int, int, int] | None) -> None:
    assert _field(data, 0) == found
