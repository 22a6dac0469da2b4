"""Tables of registers: every mistake is named with file, key and what was expected."""

from __future__ import annotations

import math
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.outgoing import RegisterCommand
from heron_mqtt.field.vendor.register_map import RegisterWrite
from heron_mqtt.messages import Setpoint
from support.rows import each_row

GOOD: dict[str, Any] = {
    "name": "box",
    "registers": {
        "watts": {"address": 10, "type": "int32"},
        "level": {"address": 12},
        "power": {"address": 20, "type": "int16"},
        "mode": {"address": 22, "words": {"0": "auto", "2": "forced"}},
        "name": {"address": 30, "type": "string", "length": 4},
    },
    "quantities": {"p_mw": {"formula": "watts", "unit": "W"}},
}
SETS: dict[str, Any] = {
    "values": {"p": {"quantity": "p_mw", "unit": "W"}},
    "messages": [{"registers": {"power": "{p}"}}],
    "release": "zero",
}


def load(table: dict[str, Any]) -> DeviceMapping:
    return load_mapping(table, agent="MG1", device="ess", source="site.toml: MG1.ess")


def problems(table: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(table)
    assert all(p.startswith("site.toml: MG1.ess: ") for p in caught.value.problems)
    return [p.removeprefix("site.toml: MG1.ess: ") for p in caught.value.problems]


def register(**keys: Any) -> dict[str, Any]:
    return {**GOOD, "registers": {**GOOD["registers"], "other": keys}}


def setpoint(**keys: Any) -> dict[str, Any]:
    return {**GOOD, "setpoint": {**SETS, **keys}}


def test_a_good_table_is_taken_and_only_what_something_is_made_of_is_read() -> None:
    mapping = load(setpoint())
    assert mapping.polled == {"watts"}
    assert (mapping.sets, mapping.reads) == ({"p_mw"}, {"p_mw"})
    assert mapping.topic_filters() == ("registers",)


@each_row(
    ("table", "line"),
    [
        (
            register(address=11),
            "registers.other.address: 11: holding register 11 belongs to watts (int32, 2 registers from 10) "
            "already; give one of them another address or type, or get its parts by a formula",
        ),
        (register(address=65535, type="int32"), "registers.other.address: 65535: expected 0 "),
        (register(address=5, type="int20"), "registers.other.type = 'int20'"),
        (register(address=5, type="string"), "registers.other: length: needed for a string"),
        (register(address=5, length=3), "registers.other: length: needed for a string"),
        (register(address=5, area="coil", type="int16"), "registers.other: type: a coil is one bit"),
        (register(address=5, type="bool"), "registers.other: type: bool is for coil and discrete"),
        (register(address=5, swap_words=True), "registers.other: swap_words: this is one register"),
        (register(address=5, scale=0.0), "registers.other: scale must not be 0"),
        (register(address=5, adress=6), "registers.other.adress: unknown key; did you mean 'address'?"),
        (register(type="int16"), "registers.other.address: missing; it must be given"),
        (register(address=5, words={"1": "a", "2": 3}), "registers.other.words: they mean number and text"),
        (
            {**GOOD, "modbus": {"boundaries": [11]}},
            "registers.watts: its 2 registers stand on both sides of boundary 11 (modbus.boundaries)",
        ),
        (
            {**GOOD, "modbus": {"first_address": 40001}},
            "registers.watts.address: 10: expected 40001 (modbus.first_address)",
        ),
        ({**GOOD, "modbus": {"changed_by": "beat"}}, "modbus.changed_by: [registers] has no 'beat'"),
        (
            {
                **register(address=5, period_s=30.0),
                "modbus": {"changed_by": "other"},
            },
            "registers.other.period_s: modbus.changed_by names it: it must be read as often as the others",
        ),
        ({**GOOD, "modbus": {"timestamp": "level"}}, "modbus.timestamp: input level must be a time"),
        ({**GOOD, "modbus": {"unit": 3}}, "modbus.unit: where the device is belongs beside the mapping"),
        ({**GOOD, "quantities": {}}, "quantities: no formula gives p_mw"),
        (
            {**GOOD, "telemetry": [{"topic": "a", "fields": {"p_mw": {"path": "p", "unit": "W"}}}]},
            "registers: a device is on MQTT ([[telemetry]]) or on Modbus ([registers])",
        ),
        ({"name": "nothing"}, "telemetry: missing; it must be given"),
        (
            {**GOOD, "availability": [{"topic": "a"}]},
            "availability[0]: the device is on Modbus",
        ),
        ({**GOOD, "availability": [{"register": "b"}]}, "availability[0].register: [registers] has no 'b'"),
        ({**GOOD, "availability": [{}]}, "availability[0]: topic: missing; it must be given"),
        (
            {**GOOD, "keepalive": [{"topic": "a", "period_s": 1.0}]},
            "keepalive[0]: the device is on Modbus: give registers",
        ),
        (
            {**GOOD, "keepalive": [{"registers": {"beat": 1}, "period_s": 1.0}]},
            "keepalive[0].registers.beat: [registers] has no 'beat'; there are watts, level, power",
        ),
        (
            setpoint(messages=[{"topic": "a", "payload": "{p}"}]),
            "setpoint.messages[0]: the device is on Modbus: give registers",
        ),
        (
            setpoint(messages=[{"registers": {"power": "{p}"}, "retain": True}]),
            "setpoint.messages[0]: retain: belongs to a message with a topic",
        ),
        (
            setpoint(messages=[{"registers": {"power": "{q}"}}]),
            "setpoint.messages[0].registers.power: placeholder {q}: unknown",
        ),
        (
            setpoint(messages=[{"registers": {"power": "{p} W"}}]),
            "setpoint.messages[0].registers.power: '{p} W': a number is needed",
        ),
        (
            setpoint(messages=[{"registers": {"power": "{p}", "mode": "charge"}}]),
            "setpoint.messages[0].registers.mode: 'charge' is not one of its words: auto, forced",
        ),
        (
            setpoint(messages=[{"registers": {"power": "{p}", "level": -1}}]),
            "setpoint.messages[0].registers.level: -1 is no uint16, which holds whole numbers",
        ),
        (
            {
                **register(address=9, area="input"),
                "setpoint": {**SETS, "messages": [{"registers": {"other": "{p}"}}]},
            },
            "setpoint.messages[0].registers.other: area 'input' can only be read; expected holding or coil",
        ),
        (
            {
                **register(address=9, table=[[0, 0], [10, 100]]),
                "setpoint": {**SETS, "messages": [{"registers": {"other": "{p}"}}]},
            },
            "setpoint.messages[0].registers.other: a register with a table cannot be written",
        ),
        (
            {**GOOD, "liveness": {"by": "heartbeat", "topic": "a"}},
            "liveness: the device is on Modbus: each reading proves it; leave it out",
        ),
        (setpoint(answers=[{"topic": "a"}]), "setpoint.answers: a device on Modbus has none"),
        (
            {**setpoint(), "parameters": {"x": {"learn": True}}},
            "parameters.x: no placeholder uses it",
        ),
    ],
)
def test_a_mistake_is_one_line_with_key_and_what_was_expected(table: dict[str, Any], line: str) -> None:
    key, _, text = line.partition(": ")
    assert any(found.startswith(key) and text in found for found in problems(table)), problems(table)


def test_registers_in_a_mapping_of_topics_are_refused() -> None:
    table = {
        "telemetry": [{"topic": "a", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
        "setpoint": SETS,
    }
    assert "setpoint.messages[0]: the device is on MQTT: give topic and payload" in problems(table)


def sent(table: dict[str, Any], p_mw: float) -> RegisterCommand:
    [command] = load(table).encode(Setpoint(p_mw=p_mw, lease_s=5.0))
    assert isinstance(command, RegisterCommand)
    return command


def test_what_is_written_goes_back_through_sign_scale_and_offset_towards_zero() -> None:
    table = setpoint()
    table["registers"] = {
        **GOOD["registers"],
        "power": {"address": 40001, "type": "int16", "sign": -1, "scale": 10, "offset": 100},
    }
    table["registers"] = {k: v for k, v in table["registers"].items() if k in {"watts", "power"}}
    table["registers"]["watts"] = {"address": 40011, "type": "int32"}
    table["modbus"] = {"first_address": 40001}
    # read: -(raw * 10 + 100) W; so 1234 W is raw -133.4
    assert sent(table, 0.001234).writes == (
        RegisterWrite(("power",), "holding", 0, (0x10000 - 133,), single=False),
    )


def test_words_are_written_as_their_numbers_and_neighbours_only_in_their_order() -> None:
    table = setpoint(messages=[{"registers": {"mode": "forced", "level": 7, "power": "{p}"}}])
    table["registers"] = {**GOOD["registers"], "level": {"address": 23}}
    assert sent(table, 0.0005).writes == (
        RegisterWrite(("mode", "level"), "holding", 22, (2, 7), single=False),
        RegisterWrite(("power",), "holding", 20, (500,), single=False),
    )


@pytest.mark.parametrize("holds", ["int32", "uint32", "float32", "int64", "float64"])
@pytest.mark.parametrize("where", ["modbus", "message", "release", "keepalive"])
def test_a_number_of_several_registers_is_not_written_one_register_after_the_other(
    holds: str, where: str
) -> None:
    by = {"registers": {"power": 0 if where in {"release", "keepalive"} else "{p}"}}
    by |= {"function": "single"} if where in {"message", "release"} else {}
    table = setpoint(**({"release": [by]} if where == "release" else {"messages": [by]}))
    if where == "release":
        table["setpoint"]["messages"] = [{"registers": {"level": "{p}"}, "function": "multiple"}]
    if where == "keepalive":
        table["setpoint"]["messages"] = [{"registers": {"level": "{p}"}, "function": "multiple"}]
        table["keepalive"] = [{**by, "period_s": 1.0}]
    table["registers"] = {**GOOD["registers"], "power": {"address": 60, "type": holds}}
    if where in {"modbus", "keepalive"}:
        table["modbus"] = {"function": "single"}
    [line] = problems(table)
    key = (
        "keepalive[0]"
        if where == "keepalive"
        else f"setpoint.{'release' if where == 'release' else 'messages'}[0]"
    )
    assert line.startswith(f"{key}.registers.power: function 'single' writes")
    assert 'give function = "multiple"' in line


def test_what_is_written_together_is_within_what_one_request_may_hold() -> None:
    table = setpoint(messages=[{"registers": {"a": 1, "b": 2, "c": 3, "power": "{p}"}}])
    places = {"a": 100, "b": 101, "c": 102, "power": 103}
    table["registers"] = {"watts": GOOD["registers"]["watts"]}
    table["registers"] |= {
        name: {"address": at, "type": "int32" if at > 102 else "int16"} for name, at in places.items()
    }
    table["modbus"] = {"max_registers": 4, "boundaries": [101]}
    assert [write.names for write in sent(table, 0.001).writes] == [("a",), ("b", "c", "power")]
    table["modbus"] = {"max_registers": 4}
    assert [write.names for write in sent(table, 0.001).writes] == [("a", "b", "c"), ("power",)]


def test_two_setpoints_that_differ_in_the_lease_only_mean_the_same() -> None:
    values = {**SETS["values"], "t": {"quantity": "lease_s", "unit": "s", "decimals": 0}}
    table = setpoint(values=values, messages=[{"registers": {"power": "{p}", "level": "{t}"}}])
    mapping = load(table)
    one, two = (mapping.encode(Setpoint(p_mw=0.001, lease_s=s))[0] for s in (5.0, 9.0))
    assert one.meaning == two.meaning
    assert one != two


def test_a_setpoint_that_no_register_can_hold_is_not_sent() -> None:
    with pytest.raises(MessageError, match="register power: 40000 is no int16"):
        load(setpoint()).encode(Setpoint(p_mw=0.04, lease_s=5.0))


def test_a_decimal_that_is_not_there_is_absent_and_one_that_is_wrong_is_reported() -> None:
    table = {**GOOD, "registers": {"w": {"address": 10, "type": "bcd16", "absent": [0xFFFF]}}}
    mapping = load({**table, "quantities": {"p_mw": {"formula": "w", "unit": "W"}}})
    assert mapping.registers is not None
    register = mapping.registers.registers["w"]
    [reader] = mapping.telemetry
    for word, value, problems_ in (0x0750, 750.0, 0), (0xFFFF, None, 0), (0x07AF, None, 1):
        read = reader.read({"w": register.value([word])})
        assert getattr(read.values.get("w"), "why", None) is not None or read.values.get("w") == value
        assert len(read.problems) == problems_


def test_the_last_register_may_be_used() -> None:
    for keys in ({"address": 65_535}, {"address": 65_534, "type": "int32"}, {"address": 0}):
        assert load(register(**keys))
    shifted = {"address": 105_535 - 10_000, "type": "uint16"}
    table = {**GOOD, "registers": {"watts": shifted}, "modbus": {"first_address": 30_000}}
    assert load(table)
    table["registers"] = {"watts": {**shifted, "address": 95_536}}
    wanted = "registers.watts.address: 95536: expected 30000 (modbus.first_address) to 95535"
    assert problems(table) == [wanted]


def test_a_register_of_floats_takes_the_number_as_it_is() -> None:
    table = setpoint()
    table["registers"] = {**GOOD["registers"], "power": {"address": 40, "type": "float32", "scale": 10.0}}
    [write] = sent(table, 0.000015).writes
    assert write.words == (0x3FC0, 0)  # 1.5


def held(
    holds: str, words: list[int], modbus: dict[str, Any] | None = None, **keys: Any
) -> tuple[Any, str, Any]:
    """Return what registers of a type hold, how they are shown, and what they are as an input."""
    area = "coil" if holds == "bool" else "holding"
    table = {"registers": {"w": {"address": 1, "area": area, "type": holds, **keys}}, "modbus": modbus or {}}
    mapping = load({**table, "quantities": {"p_mw": {"formula": "1 if w == w else 0", "unit": "W"}}})
    assert mapping.registers is not None
    register = mapping.registers.registers["w"]
    [reader] = mapping.telemetry
    return register.value(words), register.shown(words), reader.read({"w": register.value(words)}).values["w"]


def test_what_registers_hold_is_shown_as_it_is_and_as_it_is_meant() -> None:
    assert held("int16", [0xFF9C], scale=0.5) == (-100, "ff9c = -100", -50.0)
    assert held("uint32", [1, 2]) == (65_538, "0001 0002 = 65538", 65_538.0)
    assert held("uint32", [1, 2], {"swap_words": True}) == (131_073, "0001 0002 = 131073", 131_073.0)
    assert held("uint32", [1, 2], {"swap_words": True}, swap_words=False)[0] == 65_538
    assert held("uint16", [0x0102], {"swap_bytes": True})[0] == 0x0201
    assert held("uint16", [0x0102], {"swap_bytes": True}, swap_bytes=False)[0] == 0x0102
    assert held("float32", [0x3FC0, 0]) == (1.5, "3fc0 0000 = 1.5", 1.5)
    assert held("float32", [0x7FC0, 0])[:2] == (None, "7fc0 0000 = NaN")
    assert held("bool", [1]) == (True, "True", True)
    text = held("string", [0x6162] * 9, {"swap_words": True}, length=9)
    assert text == ("ab" * 9, f"{' '.join(['6162'] * 8)} = {'ab' * 9!r}", "ab" * 9)


def test_what_means_not_available_may_be_written_as_the_registers_show_it() -> None:
    for holds, absent, words, is_there in (
        ("int16", 0x8000, [0x8000], False),
        ("int16", -32_768, [0x8000], False),
        ("int16", 0x7FFF, [0x7FFF], False),
        ("int32", 0xFFFF_FFFF, [0xFFFF, 0xFFFF], False),
        ("int32", 0xFFFF, [0, 0xFFFF], False),
        ("int32", 0xFFFF, [0xFFFF, 0xFFFF], True),
        ("uint16", 0xFFFF, [0xFFFF], False),
        ("uint32", 0x8000_0000, [0x8000, 0], False),
        ("bcd16", 0xFFFF, [0xFFFF], False),
        ("bcd32", 0xABC, [0, 0xABC], False),
        ("float32", 9.0, [0x4110, 0], False),
    ):
        found = held(holds, words, absent=[absent])[2]
        assert (not hasattr(found, "keeps")) is is_there, (holds, absent)


def test_a_number_or_a_word_is_written_as_the_register_holds_it() -> None:
    table = {
        "registers": {
            "w": {"address": 1, "type": "int16", "scale": 0.1},
            "f": {"address": 2, "type": "float32", "words": {"1.5": "low", "0x10": "high"}},
            "m": {"address": 4, "words": {"0x10": "on", "3": "off"}},
            "s": {"address": 5, "type": "string", "length": 2},
            "b": {"address": 1, "area": "coil"},
        },
        "quantities": {"p_mw": {"formula": "w", "unit": "W"}},
    }
    mapping = load(table)
    assert mapping.registers is not None
    for name, value, words in (
        ("w", 0.3, [3]),  # not 2: the noise of floating point
        ("w", 0.39, [3]),
        ("w", -0.39, [0xFFFD]),
        ("f", "low", [0x3FC0, 0]),
        ("f", "high", [0x4180, 0]),
        ("f", 2.0, [0x4000, 0]),
        ("m", "on", [16]),
        ("m", "off", [3]),
        ("s", "ab", [0x6162, 0]),
        ("s", 5.0, [0x3500, 0]),
        ("b", True, [1]),
        ("b", 0, [0]),
    ):
        assert mapping.registers.registers[name].words(value) == words, (name, value)
    for name, value, why in (
        ("w", "x", "register w: 'x' is not a number"),
        ("m", "auto", "register m: 'auto' is not one of its words: on, off"),
        ("b", 2, "register b: 2 is neither true nor false"),
        ("w", math.inf, "register w: inf is no int16"),
    ):
        with pytest.raises(MessageError) as refused:
            mapping.registers.registers[name].words(value)
        assert why in str(refused.value)


def test_registers_are_read_in_groups_and_blocks() -> None:
    table = {
        "modbus": {"first_address": 40_001, "boundaries": [40_013], "max_gap": 1, "period_s": 2.0},
        "registers": {
            "a": {"address": 40_011},
            "b": {"address": 40_012, "period_s": 2.0},
            "c": {"address": 40_013},
            "d": {"address": 40_015},
            "e": {"address": 40_018, "period_s": 0.5},
        },
        "quantities": {"p_mw": {"formula": "a", "unit": "W"}},
    }
    registers = load(table).registers
    assert registers is not None
    assert [(g.source, g.period_s, g.names) for g in registers.groups()] == [
        ("registers/0.5s", 0.5, ("e",)),
        ("registers", 2.0, ("a", "b", "c", "d")),
    ]
    assert [g.names for g in registers.groups(["c", "a"])] == [("a", "c")]
    assert [(b.address, b.count) for b in registers.blocks("abcde")] == [(10, 2), (12, 3), (17, 1)]
