"""The tables of a mapping: what fits together, and what is said where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from heron_mqtt.field.vendor.cleaning_keys import CleaningKeys
from heron_mqtt.field.vendor.register_tables import ModbusTable, RegisterTable
from heron_mqtt.field.vendor.tables import (
    AvailabilityTable,
    InputTable,
    KeepaliveTable,
    LivenessTable,
    MappingTable,
    MessageTable,
    PayloadKeys,
    QuantityTable,
    SetpointTable,
    TelemetryTable,
    ValueTable,
)
from support.rows import each_row

TELEMETRY = [{"topic": "x", "inputs": {"a": {"path": "a"}}}]
REGISTERS = {"w": {"address": 1}}
POINTS = [[0.0, 0.0], [1.0, 5.0], [2.0, 5.0]]
TEN, FULL = [0.0, 10.0], {"word": "full", "from": 5.0}
RISING = "must rise from point to point"
PACKED = {"topic": "x", "payload": ["{a}", 1]}
IN_JSON = {"pack": ["{a}", 1], "struct": ">hB", "bytes": "hex"}
METRICS = {"topic": "x", "payload": {"a": "{a}"}}


@each_row(
    ("model", "table"),
    [
        (ValueTable, {"quantity": "p_mw", "table": POINTS, "min": 5.0, "max": 5.0, "scale": -1.0}),
        (ValueTable, {"formula": "1", "decimals": 0, "wrap": 16, "rounding": "toward_zero"}),
        (ValueTable, {"quantity": "p_mw", "words": [{"word": "off"}, {"word": "on", "from": 0.0}, FULL]}),
        (CleaningKeys, {"table": POINTS, "clamp": TEN, "clamp_tolerance": 0.0, "scale": -1.0}),
        (CleaningKeys, {"words": {"a": 1}, "other": 0}),
        (QuantityTable, {"formula": "a", "clamp": TEN, "clamp_tolerance": 1.0}),
        (InputTable, {"struct": "<f", "at": 4, "swap_words": True, "bytes": "hex"}),
        (InputTable, {"struct": ">4s"}),
        (InputTable, {"thousands": ",", "decimal": "."}),
        (PayloadKeys, {"encoding": "cp1252", "format": "csv", "separator": ";", "line": 1}),
        (PayloadKeys, {"format": "key_value", "separator": ";", "assign": ":", "encoding": "utf-16"}),
        (PayloadKeys, {"tolerant": True, "line": 0}),
        (MessageTable, {"topic": "x", "payload": "on"}),
        (MessageTable, {**PACKED, "struct": "<hB"}),
        (MessageTable, {**METRICS, "metrics": {"a": "Int32"}}),
        (MessageTable, {"registers": {"w": 1}, "function": "single", "read_back": True, "pause_s": 1.0}),
        (AvailabilityTable, {"topic": "x", "path": "a", "encoding": "latin-1"}),
        (AvailabilityTable, {"register": "w", "pattern": "a"}),
        (KeepaliveTable, {"topic": "x", "period_s": 0.1, "first_payload": "a"}),
        (KeepaliveTable, {"registers": {"w": 1}, "period_s": 1.0}),
        (LivenessTable, {"by": "heartbeat", "topic": "x"}),
        (LivenessTable, {"by": "poll", "topic": ["x", "y"]}),
        (LivenessTable, {"by": "poll"}),
        (LivenessTable, {"by": "availability"}),
        (MappingTable, {"telemetry": TELEMETRY}),
        (MappingTable, {"registers": REGISTERS, "modbus": {"max_registers": 4}}),
        (RegisterTable, {"address": 0, "area": "coil", "type": "bool"}),
        (RegisterTable, {"address": 0, "area": "discrete", "swap_words": False}),
        (RegisterTable, {"address": 0, "type": "string", "length": 2, "swap_words": True}),
        (RegisterTable, {"address": 0, "type": "int32", "swap_words": True, "swap_bytes": True}),
        (RegisterTable, {"address": 0, "swap_bytes": True, "swap_words": False}),
    ],
)
def test_what_fits_together_is_taken(model: type[BaseModel], table: dict[str, Any]) -> None:
    assert model.model_validate(table)


@each_row(
    ("model", "table", "why"),
    [
        (ValueTable, {}, "give one of quantity, formula and pack"),
        (ValueTable, {"quantity": "p_mw", "formula": "a"}, "give one of quantity, formula and pack"),
        (ValueTable, {"formula": "a", "scale": 0.0}, "scale must not be 0"),
        (ValueTable, {"formula": "a", "min": 5.5, "max": 5.0}, "min must not be above max, got 5.5 and 5"),
        (ValueTable, {"formula": "a", "rounding": "toward_zero"}, "rounding needs decimals"),
        (ValueTable, {"formula": "a", "wrap": 16}, "wrap needs decimals = 0"),
        (ValueTable, {"formula": "a", "wrap": 16, "decimals": 1}, "wrap needs decimals = 0"),
        (ValueTable, {"formula": "a", "table": [[1.0, 0.0], [1.0, 5.0]]}, f"table: what is meant {RISING}"),
        (ValueTable, {"formula": "a", "table": [[2.0, 0.0], [1.0, 5.0]]}, f"table: what is meant {RISING}"),
        (
            ValueTable,
            {"formula": "a", "words": [{"word": "a"}, FULL, FULL]},
            "words: 'from' must rise from word to word",
        ),
        (
            ValueTable,
            {"formula": "a", "words": [FULL, {"word": "b"}]},
            "words: every word but the first needs 'from', and the first has none",
        ),
        (CleaningKeys, {"table": [[1.0, 0.0], [1.0, 5.0]]}, f"table: what is read {RISING}"),
        (CleaningKeys, {"scale": 0.0}, "scale must not be 0"),
        (CleaningKeys, {"clamp": [5.0, 5.0]}, "clamp: the first must be below the second, got [5.0, 5.0]"),
        (CleaningKeys, {"clamp_tolerance": 0.0}, "clamp_tolerance needs clamp"),
        (CleaningKeys, {"other": False}, "other needs words"),
        (QuantityTable, {"formula": "a", "clamp": [5.0, 5.0]}, "the first must be below the second"),
        (QuantityTable, {"formula": "a", "clamp_tolerance": 0.0}, "clamp_tolerance needs clamp"),
        (InputTable, {"at": 1}, "at and swap_words need struct"),
        (InputTable, {"swap_words": True}, "at and swap_words need struct"),
        (InputTable, {"thousands": ",", "decimal": ","}, "thousands and decimal must differ, both are ','"),
        (
            InputTable,
            {"struct": "ff"},
            "struct: must begin with the byte order, < (little) or > (big), got 'ff'",
        ),
        (InputTable, {"struct": "<hh"}, "struct: expected one value, '<hh' has 2"),
        (InputTable, {"struct": "<2x"}, "struct: expected one value, '<2x' has 0"),
        (InputTable, {"struct": "<!"}, "struct: bad char in struct format"),
        (
            PayloadKeys,
            {"encoding": "hex"},
            "no text encoding of that name; common ones are utf-8, latin-1, cp1252",
        ),
        (PayloadKeys, {"encoding": "klingon"}, "no text encoding of that name"),
        (PayloadKeys, {"assign": ":"}, "assign: not with format = 'json'; it is for key_value"),
        (
            PayloadKeys,
            {"format": "csv", "tolerant": False},
            "tolerant: not with format = 'csv'; it is for json",
        ),
        (PayloadKeys, {"format": "binary", "encoding": "utf-8"}, "it is for json, text, csv, key_value"),
        (PayloadKeys, {"format": "text", "line": 0}, "line: not with format = 'text'; it is for json, csv"),
        (TelemetryTable, {"topic": "x"}, "nothing is read from it: give fields or inputs"),
        (MessageTable, {}, "topic: missing; it must be given (or registers, on Modbus)"),
        (MessageTable, {"topic": "x"}, "payload: missing; it must be given (or registers, on Modbus)"),
        (MessageTable, {**PACKED, "read_back": True}, "read_back: belongs to a message with registers"),
        (MessageTable, {**PACKED, "function": "single"}, "function: belongs to a message with registers"),
        (MessageTable, {"registers": {"w": 1}, "topic": "x"}, "topic: belongs to a message with a topic"),
        (MessageTable, {"registers": {"w": 1}, "retain": True}, "retain: belongs to a message with a topic"),
        (
            MessageTable,
            {**PACKED, "struct": "hB"},
            "struct: must begin with the byte order, < or >, got 'hB'",
        ),
        (MessageTable, {**PACKED, "struct": "<h"}, "struct: the payload must be an array of 1, one for each"),
        (
            MessageTable,
            {**PACKED, "struct": "<hBB"},
            "struct: the payload must be an array of 3, one for each",
        ),
        (MessageTable, {**PACKED, "struct": "<!"}, "struct: bad char in struct format"),
        (
            MessageTable,
            {**METRICS, "struct": "<h"},
            "struct: packs a payload that is an array; bytes within JSON",
        ),
        (ValueTable, {"pack": [1], "struct": "<h"}, "pack needs struct, for example"),
        (ValueTable, {"quantity": "p_mw", "bytes": "hex"}, "struct and bytes need pack"),
        (ValueTable, {**IN_JSON, "pack": [1]}, "struct: pack must be an array of 2, one for each"),
        (ValueTable, {**IN_JSON, "struct": "hh"}, "struct: must begin with the byte order, < or >"),
        (ValueTable, {**IN_JSON, "decimals": 0}, "decimals: not with pack: it belongs to the values"),
        (ValueTable, {**IN_JSON, "quantity": "seq"}, "give one of quantity, formula and pack"),
        (InputTable, {"rate": {"per": "h", "over_s": 5}, "clamp": [0, 1]}, "clamp: not with rate"),
        (InputTable, {"rate": {"per": "h", "over_s": 5}, "null": 0.0}, "null: a counter has no number"),
        (InputTable, {"rate": {"per": "day", "over_s": 5}}, "'s', 'min' or 'h'"),
        (InputTable, {"rate": {"per": "h"}}, "over_s"),
        (
            TelemetryTable,
            {"topic": "a", "format": "sparkplug", "when": "x", "inputs": {"x": {"metric": "x"}}},
            "when: not with format 'sparkplug'",
        ),
        (
            MessageTable,
            {**METRICS, "metrics": {"b": "Int32"}},
            "the payload must be a table of the same names",
        ),
        (
            MessageTable,
            {**PACKED, "metrics": {"b": "Int32"}},
            "the payload must be a table of the same names",
        ),
        (
            MessageTable,
            {**METRICS, "metrics": {"a": "Int31"}},
            "metrics: no datatype 'Int31'; there are Int8, Int16, Int32",
        ),
        (AvailabilityTable, {}, "topic: missing; it must be given (or register, on Modbus), one of them"),
        (AvailabilityTable, {"topic": "x", "register": "w"}, "topic: missing; it must be given (or register"),
        (AvailabilityTable, {"register": "w", "path": "a"}, "path: a register holds the word itself"),
        (AvailabilityTable, {"topic": "x", "encoding": "hex"}, "no text encoding of that name"),
        (KeepaliveTable, {"period_s": 1.0}, "topic: missing; it must be given (or registers, on Modbus)"),
        (
            KeepaliveTable,
            {"period_s": 1.0, "topic": "x", "registers": {"w": 1}},
            "topic: missing; it must be",
        ),
        *(
            (
                KeepaliveTable,
                {"period_s": 1.0, "registers": {"w": 1}, key: "a"},
                "payload: registers are written",
            )
            for key in ("payload", "first_payload")
        ),
        (LivenessTable, {"by": "heartbeat"}, "topic: missing; say on which topic the heartbeat comes"),
        (LivenessTable, {"by": "availability", "topic": "x"}, "topic: not with by = 'availability'"),
        (MappingTable, {}, "telemetry: missing; it must be given ([registers] for a device on Modbus)"),
        (MappingTable, {"telemetry": TELEMETRY, "registers": REGISTERS}, "registers: a device is on MQTT"),
        (MappingTable, {"telemetry": TELEMETRY, "modbus": {}}, "modbus: needs [registers]"),
        (
            RegisterTable,
            {"address": 0, "area": "coil", "type": "int16"},
            "type: a coil is one bit; expected bool",
        ),
        (RegisterTable, {"address": 0, "type": "bool"}, "type: bool is for coil and discrete"),
        (RegisterTable, {"address": 0, "length": 1}, "length: needed for a string, how many registers"),
        (RegisterTable, {"address": 0, "type": "string"}, "length: needed for a string, how many registers"),
        (RegisterTable, {"address": 0, "swap_words": True}, "swap_words: this is one register"),
        (
            RegisterTable,
            {"address": 0, "area": "coil", "swap_bytes": True},
            "a coil is one bit, nothing in it can be swapped",
        ),
    ],
)
def test_what_does_not_fit_says_which_key_and_what_was_expected(
    model: type[BaseModel], table: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(table)
    assert why in str(refused.value)


def test_one_topic_or_several_are_a_list() -> None:
    assert TelemetryTable.model_validate(TELEMETRY[0]).topics == ["x"]
    assert TelemetryTable.model_validate({**TELEMETRY[0], "topic": ["x", "y"]}).topics == ["x", "y"]
    for topic, topics in ((None, []), ("x", ["x"]), (["x", "y"], ["x", "y"])):
        assert LivenessTable.model_validate({"by": "poll", "topic": topic}).topics == topics


def test_a_register_holds_a_bit_or_a_whole_number_where_nothing_is_said() -> None:
    for keys, holds in (
        ({}, "uint16"),
        ({"area": "input"}, "uint16"),
        ({"area": "coil"}, "bool"),
        ({"area": "discrete"}, "bool"),
        ({"type": "int32"}, "int32"),
    ):
        assert RegisterTable.model_validate({"address": 1, **keys}).holds == holds
    modbus = ModbusTable()
    assert (modbus.period_s, modbus.first_address, modbus.max_gap, modbus.max_registers) == (1.0, 0, 0, 125)
    assert (modbus.function, modbus.timestamp_tolerance_s, modbus.swap_words) == ("multiple", 60.0, False)


def test_what_is_not_said_is_as_the_pages_say() -> None:
    value = ValueTable(quantity="p_mw")
    assert (value.sign, value.absolute, value.scale, value.offset, value.width) == (1, False, 1.0, 0.0, 0)
    message = MessageTable(topic="x", payload="a")
    assert (message.qos, message.retain, message.read_back, message.pause_s) == (1, False, False, 0.0)
    keepalive = KeepaliveTable(topic="x", period_s=1.0)
    assert (keepalive.qos, keepalive.payload) == (0, "")
    quantity = QuantityTable(formula="a")
    assert (quantity.within_s, quantity.update) == (5.0, "round")
    read = InputTable()
    assert (read.at, read.swap_words, read.on_change, read.scale, read.offset) == (0, False, False, 1.0, 0.0)
    assert TelemetryTable.model_validate(TELEMETRY[0]).timestamp_tolerance_s == 60.0


def test_the_pauses_of_a_release_fit_into_the_end_of_a_program() -> None:
    def paused(*pauses_s: float) -> list[dict[str, Any]]:
        return [{"topic": "x", "payload": "{p}", "pause_s": pause_s} for pause_s in pauses_s]

    for table in (
        {"messages": paused(5.0), "release": paused(0.0, 0.25, 0.25)},
        {"messages": paused(0.5), "release": "zero"},
        {"messages": paused(5.0)},
    ):
        SetpointTable.model_validate(table)
    for table, where in (
        (
            {"messages": paused(0.0), "release": paused(0.0, 5.0)},
            "release: the pause_s of its messages are 5 s",
        ),
        ({"messages": paused(0.0), "release": paused(0.3, 0.3)}, "are 0.6 s together"),
        ({"messages": paused(0.6), "release": "zero"}, 'messages, which release = "zero" sends: the pause_s'),
    ):
        with pytest.raises(ValidationError) as refused:
            SetpointTable.model_validate(table)
        assert where in str(refused.value)
        assert "expected 0.5 s at most" in str(refused.value)
