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
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.sparkplug_node import SparkplugNode
from heron_mqtt.field.vendor.sparkplug_payload import (
    DATATYPES,
    Metric,
    _field,
    _read_varint,
    _varint,
    decode,
    encode,
    typed,
)
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint
from support.rows import each_row

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
    for now_s, asked in ((0.0, 1), (29.9, 1), (30.0, 2)):  # once in a while
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


def test_after_a_connection_was_lost_the_birth_of_a_node_is_asked_for() -> None:
    """Births are not retained, and nothing else says that a node is there which reports what changes."""
    table = {
        "name": "node",
        "telemetry": [
            {
                "topic": "spBv1.0/g/DDATA/n/d",
                "format": "sparkplug",
                "reports": "on_change",
                "fields": {"p_mw": {"metric": "P", "unit": "W"}},
            }
        ],
        "availability": [{"topic": "box/lwt", "online": ["on"], "offline": ["off"]}],
        "liveness": {"by": "availability"},
    }
    state = VendorState(load_mapping(table, agent="MG1", device="ess", source="test"), lambda: 0.0)

    def births(now_s: float, seq: int) -> None:
        state.take("spBv1.0/g/NBIRTH/n", payload([], seq), now_s)
        power = {"name": "P", "datatype": 3, "int_value": 1000}
        state.take("spBv1.0/g/DBIRTH/n/d", payload([power], seq + 1), now_s)

    state.reconnected(0.0)
    assert state.births_wanted == [], "of one that was never heard"
    births(0.0, 0)
    state.take("box/lwt", b"on", 0.0, retained=True)
    state.connected(100.0)
    assert state.age_s("p_mw", 100.0) == 0.0
    state.reconnected(101.0)
    state.take("box/lwt", b"on", 101.0, retained=True)
    assert state.births_wanted == ["spBv1.0/g/NCMD/n"]
    births(102.0, 0)
    state.connected(200.0)
    assert state.age_s("p_mw", 200.0) == 0.0


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


@each_row(
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


def test_a_node_counts_from_0_to_255_and_again() -> None:
    node = SparkplugNode("spBv1.0/g/NDATA/n")

    def needs_birth(seq: int | None, kind: str = "NDATA") -> bool:
        return node.take(f"spBv1.0/g/{kind}/n", payload([], seq)).needs_birth

    assert [needs_birth(seq) for seq in (254, 255, 0, 1, None, 2)] == [False] * 6
    assert [needs_birth(seq) for seq in (4, 5, 5, 6)] == [True, False, True, False]
    assert not needs_birth(0, "NBIRTH")
    assert not needs_birth(1)


def test_only_what_is_of_the_device_is_its_presence_and_its_values() -> None:
    node = SparkplugNode("spBv1.0/g/DDATA/n/d")
    metric = [{"name": "P", "datatype": 3, "int_value": 5}]

    def news(kind: str, device: str = "") -> tuple[Any, Any]:
        found = node.take(f"spBv1.0/g/{kind}/n{device}", payload(metric, None))
        return found.values, found.state

    assert news("NBIRTH") == news("NDATA") == news("DDATA", "/other") == (None, None)
    assert news("DBIRTH", "/other") == news("DDEATH", "/other") == (None, None)
    assert news("DBIRTH", "/d") == ({"P": 5}, "online")
    assert news("DDATA", "/d") == ({"P": 5}, None)
    assert news("DDEATH", "/d") == (None, "offline")
    assert news("NDEATH") == (None, "offline")
    own = SparkplugNode("spBv1.0/g/NDATA/n")
    born = own.take("spBv1.0/g/NBIRTH/n", payload(metric, None))
    assert (born.values, born.state) == ({"P": 5}, "online")
    assert (own.group, own.node, own.device, own.rebirth_topic) == ("g", "n", None, "spBv1.0/g/NCMD/n")


def test_a_metric_is_of_the_name_and_type_that_its_birth_gave_its_alias() -> None:
    node = SparkplugNode("spBv1.0/g/DDATA/n/d")
    topic = "spBv1.0/g/DDATA/n/d"
    named = node.take(topic, payload([{"name": "P", "alias": 9, "int_value": 200}], None))
    assert (named.values, named.needs_birth, named.problems) == ({"P": 200}, False, ())
    unknown = node.take(topic, payload([{"alias": 1, "int_value": 5}], None))
    wanted = "metrics by alias that no birth has named: a birth is asked for"
    assert (unknown.values, unknown.needs_birth, unknown.problems) == ({}, True, (wanted,))
    other = node.take("spBv1.0/g/DDATA/n/other", payload([{"alias": 1, "int_value": 5}], None))
    assert (other.needs_birth, other.problems) == (False, (wanted,))
    node.take(
        "spBv1.0/g/DBIRTH/n/d", payload([{"name": "P", "alias": 1, "datatype": 1, "int_value": 5}], None)
    )
    for metric in ({"alias": 1}, {"name": "P"}):
        assert node.take(topic, payload([{**metric, "int_value": 200}], None)).values == {"P": -56}
    typed_itself = [{"alias": 1, "datatype": 6, "int_value": 200}]
    assert node.take(topic, payload(typed_itself, None)).values == {"P": 200}


def test_a_death_of_an_earlier_session_is_ignored() -> None:
    def bd_seq(number: int) -> bytes:
        return payload(
            [{"name": "x", "int_value": 9}, {"name": "bdSeq", "datatype": 4, "long_value": number}], None
        )

    node = SparkplugNode("spBv1.0/g/NDATA/n")
    assert node.take("spBv1.0/g/NDEATH/n", bd_seq(7)).state == "offline", "no session is known"
    node.take("spBv1.0/g/NBIRTH/n", bd_seq(2))
    old = node.take("spBv1.0/g/NDEATH/n", bd_seq(1))
    assert (old.state, old.problems) == (None, ("a death of an earlier session (bdSeq 1) is ignored",))
    assert node.take("spBv1.0/g/NDEATH/n", payload([], None)).state == "offline", "of no session: of this one"
    assert node.take("spBv1.0/g/NDEATH/n", bd_seq(2)).state == "offline"
    node.take("spBv1.0/g/NDATA/n", payload([], 5))
    node.take("spBv1.0/g/NDEATH/n", bd_seq(2))
    assert not node.take("spBv1.0/g/NDATA/n", payload([], 9)).needs_birth, "it begins to count anew"


@each_row(
    ("held", "value"),
    [
        (b"\x50\x07", 7),
        (b"\x58\x08", 8),
        (b"\x65\x00\x00\xc0\x3f", 1.5),
        (b"\x69\x00\x00\x00\x00\x00\x00\x04\x40", 2.5),
        (b"\x70\x01", True),
        (b"\x7a\x02on", "on"),
        (b"", None),
        (b"\x50\x07\x38\x01", None),  # is_null
    ],
)
def test_a_payload_is_read_by_the_numbers_of_its_fields(held: bytes, value: Any) -> None:
    metric = b"\x0a\x01P\x10\x05\x18\x07\x20\x03" + held
    for flag, is_historical in ((b"", False), (b"\x28\x01", True)):
        whole = metric + flag
        found = decode(b"\x08\x11\x12" + bytes([len(whole)]) + whole + b"\x18\x04")
        assert found.metrics == (Metric("P", 5, 3, value, is_historical),)
        assert (found.timestamp_ms, found.seq, found.problems) == (17, 4, ())
    assert decode(b"\x12\x02\x50\x07").metrics == (Metric("", None, 0, 7),)
    assert (decode(b"").seq, decode(b"").timestamp_ms) == (None, None)


def test_what_is_damaged_is_said_and_the_rest_is_read() -> None:
    good = b"\x12\x05\x0a\x01P\x50\x07"
    found = decode(good + b"\x12\x06\x0a\x01Q\x50\x07\x00")
    assert [(m.name, m.value) for m in found.metrics] == [("P", 7), ("Q", 7)]
    assert found.problems == ("damaged: the last 1 bytes of a metric",)
    found = decode(good + b"\x12\x09\x0a")
    assert [(m.name, m.value) for m in found.metrics] == [("P", 7)]
    assert found.problems == ("damaged: the last 3 bytes of a payload",)
    with pytest.raises(MessageError, match=r"^not a Sparkplug B payload: no metric in it can be read$"):
        decode(b"\x12\x09\x0a")


@each_row(
    ("datatype", "fits", "sent_as"),
    [
        ("Int8", [-128, 127], [0xFFFF_FF80, 127]),
        ("UInt16", [0, (1 << 16) - 1], [0, 0xFFFF]),
        ("Int32", [-(1 << 31), (1 << 31) - 1], [1 << 31, 0x7FFF_FFFF]),
        ("Int64", [-1, 5], [(1 << 64) - 1, 5]),
        ("UInt64", [1 << 40], [1 << 40]),
        ("DateTime", [1_767_225_600_000], [1_767_225_600_000]),
        ("Float", [1.5], [1.5]),
        ("Double", [0.1], [0.1]),
        ("Boolean", [0, 1], [False, True]),
        ("String", [5], ["5"]),
        ("Text", ["x"], ["x"]),
    ],
)
def test_a_value_is_sent_as_its_datatype(datatype: str, fits: list[Any], sent_as: list[Any]) -> None:
    for value, wanted in zip(fits, sent_as, strict=True):
        found = decode(encode({"a": value}, {"a": datatype}, 17))
        [metric] = found.metrics
        assert (metric.name, metric.value, metric.datatype) == ("a", wanted, DATATYPES[datatype])
        assert type(metric.value) is type(wanted)
        assert (found.timestamp_ms, found.seq) == (17, None)


@pytest.mark.parametrize(
    ("datatype", "beyond"),
    [
        ("Int8", [-129, 128, 255]),
        ("Int16", [-(1 << 15) - 1, 1 << 15]),
        ("UInt32", [-1, 1 << 32]),
        ("UInt64", [-1, 1 << 64]),
        ("DateTime", [-1]),
    ],
)
def test_a_whole_number_beyond_its_bits_is_refused(datatype: str, beyond: list[int]) -> None:
    for value in beyond:
        with pytest.raises(MessageError, match=f"^metric a: {value} is no {datatype}: it does not fit into"):
            encode({"a": value}, {"a": datatype}, 0)


def test_a_number_is_no_truth_value() -> None:
    with pytest.raises(MessageError, match=r"^metric a: -1000 is no Boolean: expected true, false, 0 or 1$"):
        encode({"a": -1000}, {"a": "Boolean"}, 0)


def test_a_signed_number_is_what_its_bits_mean() -> None:
    cases = [(255, 1, -1), (127, 1, 127), (65_535, 2, -1), (0xFFFF_FFFE, 3, -2), ((1 << 64) - 4096, 4, -4096)]
    cases += [(255, 5, 255), (255, 0, 255), (255, None, 255), (True, 1, True), (1.5, 3, 1.5), ("x", 1, "x")]
    cases += [(0xFFFF_FFFF, 1, -1)]  # sent as 32 bits
    for value, datatype, wanted in cases:
        assert typed(value, datatype) == wanted


def test_datatypes_have_the_numbers_of_the_specification() -> None:
    integers = ["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"]
    others = ["Float", "Double", "Boolean", "String", "DateTime", "Text"]
    assert {name: number for number, name in enumerate([*integers, *others], start=1)} == DATATYPES
