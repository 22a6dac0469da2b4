"""Parts of one setpoint that are sent one after the other must not mean another power in between."""

from __future__ import annotations

from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.mapping import load_mapping
from support.rows import each_row

P = {"quantity": "p_mw", "unit": "W", "decimals": 0, "min": -5000, "max": 5000}
SIGNED = {"p": P, "way": {"formula": "1 if p < 0 else 0"}, "size": {"formula": "abs(p)"}}
WORDS = {"p": P, "way": {"formula": "'stop' if p == 0 else 'in' if p < 0 else 'out'"}, "size": SIGNED["size"]}
HALVES = {
    "p": P,
    "u": {"formula": "p if p >= 0 else p + 4294967296"},
    "high": {"formula": "floor(u / 65536)"},
    "low": {"formula": "u - floor(u / 65536) * 65536"},
}
BOTH = {"p": P, "charge": {"formula": "max(0, -p)"}, "discharge": {"formula": "max(0, p)"}}
LIMITED = {"p": P, "limit": {"formula": "abs(p)"}, **{n: SIGNED[n] for n in ("way", "size")}}
MULTIPLE, SINGLE = "multiple", "single"


def problems(values: dict[str, Any], function: str, *messages: dict[str, Any]) -> list[str]:
    """Return what is wrong with a mapping whose registers a to c are neighbours, and far stands alone."""
    words = {"0": "out", "1": "in", "2": "stop"}
    kind = {"words": words} if values is WORDS else {}
    table = {
        "name": "box",
        "modbus": {"function": function},
        "registers": {
            "watts": {"address": 0, "type": "int16"},
            "a": {"address": 10, **kind},
            "b": {"address": 11},
            "c": {"address": 12},
            "far": {"address": 40},
        },
        "quantities": {"p_mw": {"formula": "watts", "unit": "W"}},
        "setpoint": {"values": values, "messages": [{"registers": each} for each in messages]},
    }
    try:
        load_mapping(table, agent="MG1", device="ess", source="test")
    except ConfigError as exc:
        return exc.problems
    return []


@each_row(
    "values, function, messages, register",
    [
        (SIGNED, SINGLE, [{"a": "{way}", "b": "{size}"}], "messages[0].registers.b"),
        (SIGNED, SINGLE, [{"b": "{size}", "a": "{way}"}], "messages[0].registers.b"),
        (SIGNED, MULTIPLE, [{"a": "{way}", "b": "{size}"}], None),
        (SIGNED, MULTIPLE, [{"a": "{way}", "far": "{size}"}], "messages[0].registers.far"),
        (SIGNED, MULTIPLE, [{"a": "{way}"}, {"b": "{size}"}], "messages[1].registers.b"),
        (SIGNED, SINGLE, [{"b": 0, "a": "{way}"}, {"b": "{size}"}], None),
        (SIGNED, SINGLE, [{"a": "{way}", "b": 0}, {"b": "{size}"}], "messages[1].registers.b"),
        (WORDS, SINGLE, [{"a": "{way}", "b": "{size}"}], "messages[0].registers.b"),
        (WORDS, SINGLE, [{"b": 0, "a": "{way}"}, {"b": "{size}"}], None),
        (HALVES, SINGLE, [{"a": "{high}", "b": "{low}"}], "messages[0].registers.b"),
        (HALVES, MULTIPLE, [{"a": "{high}", "b": "{low}"}], None),
        (HALVES, SINGLE, [{"b": 0, "a": "{high}"}, {"b": "{low}"}], "messages[1].registers.b"),
        (BOTH, SINGLE, [{"a": "{charge}", "b": "{discharge}"}], None),
        (LIMITED, SINGLE, [{"b": 0, "a": "{way}"}, {"b": "{size}"}, {"c": "{limit}"}], "registers.c"),
        (LIMITED, SINGLE, [{"b": 0, "c": 0, "a": "{way}"}, {"b": "{size}", "c": "{limit}"}], None),
        ({"p": {**P, "min": 0}}, SINGLE, [{"a": 2, "far": "{p}"}], None),
    ],
)
def test_a_part_of_the_old_setpoint_and_one_of_the_new_mean_no_other_power(
    values: dict[str, Any], function: str, messages: list[dict[str, Any]], register: str | None
) -> None:
    found = [each for each in problems(values, function, *messages) if "turns round" in each]
    assert len(found) == (register is not None), found
    assert register is None or register in found[0]


def test_the_line_says_what_to_do() -> None:
    [line] = problems(SIGNED, SINGLE, {"a": "{way}", "b": "{size}"})
    assert line.startswith("test: setpoint.messages[0].registers.b: its number turns round where the power")
    assert "a is written in another request" in line
    assert line.endswith('function = "multiple"), or 0 into b in a message before a')
    [line] = problems(HALVES, SINGLE, {"a": "{high}", "b": "{low}"})
    assert line.endswith('(neighbours in one message, function = "multiple")'), "0 is no help"


def topic_problems(values: dict[str, Any], *messages: dict[str, Any]) -> list[str]:
    """Return what is wrong with a mapping on MQTT that sends these messages."""
    table = {
        "name": "box",
        "telemetry": [{"topic": "b/s", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
        "setpoint": {"values": values, "messages": [{"topic": "b/c", **each} for each in messages]},
    }
    try:
        load_mapping(table, agent="MG1", device="ess", source="test")
    except ConfigError as exc:
        return exc.problems
    return []


WAY, SIZE = {"topic": "b/way", "payload": "{way}"}, {"payload": "{size}"}


@each_row(
    "values, messages, place",
    [
        (SIGNED, [WAY, SIZE], None),
        (SIGNED, [WAY, {**SIZE, "pause_s": 0.5}], "messages[1].payload"),
        (SIGNED, [SIZE, {**WAY, "pause_s": 0.5}], "messages[0].payload"),
        (WORDS, [WAY, {"payload": {"v": "{size}"}, "pause_s": 0.5}], "messages[1].payload.v"),
        (WORDS, [WAY, {"payload": {"a": [1, "P{size}"]}, "pause_s": 0.5}], "messages[1].payload.a[1]"),
        (SIGNED, [{"payload": "0"}, WAY, {**SIZE, "pause_s": 0.5}], None),
        (SIGNED, [{"payload": {"v": 0}}, WAY, {"payload": {"v": "{size}"}, "pause_s": 0.5}], None),
        (SIGNED, [{"topic": "b/o", "payload": "0"}, WAY, {**SIZE, "pause_s": 0.5}], "messages[2].payload"),
        (SIGNED, [WAY, {"payload": "0", "pause_s": 0.5}, {**SIZE, "pause_s": 0.5}], "messages[2].payload"),
        (SIGNED, [{"topic": "b/mode", "payload": "remote"}, {**WAY, "pause_s": 0.5}, SIZE], None),
        (SIGNED, [{"topic": "b/{way}", "payload": "on"}, {**SIZE, "pause_s": 0.5}], "messages[1].payload"),
        (BOTH, [{"payload": "{charge}"}, {"topic": "b/d", "payload": "{discharge}", "pause_s": 0.5}], None),
    ],
)
def test_in_a_pause_between_two_messages_a_box_has_no_power_that_nobody_has_asked_for(
    values: dict[str, Any], messages: list[dict[str, Any]], place: str | None
) -> None:
    found = [each for each in topic_problems(values, *messages) if "turns round" in each]
    assert len(found) == (place is not None), found
    assert place is None or found[0].startswith(f"test: setpoint.{place}: ")


def test_the_line_about_a_pause_says_what_to_do() -> None:
    [line] = topic_problems(SIGNED, WAY, {**SIZE, "pause_s": 0.5})
    assert "messages[0].payload is sent before or after a pause_s" in line
    assert line.endswith(
        "without a pause between them, or send 0 there in a message before messages[0].payload"
    )


BY_SIDE = [
    {"topic": "b/way", "payload": "{way}"},
    {"topic": "b/out", "payload": "{p}", "when": "p > 0", "pause_s": 0.5},
    {"topic": "b/in", "payload": "{size}", "when": "p < 0"},
]


def test_a_number_that_not_every_power_sets_is_sent_before_what_puts_it_in_force() -> None:
    found = topic_problems(WORDS, *BY_SIDE)
    assert [each.split(": ")[1] for each in found] == [f"setpoint.messages[{i}].payload" for i in (1, 2)]
    assert "not every power sets it, and messages[0].payload is sent before or after a pause_s" in found[0]
    way, out, into = BY_SIDE
    power_first = [{**out, "pause_s": 0.0}, into, {**way, "pause_s": 0.5}]
    assert topic_problems(WORDS, *power_first) == []
    cleared = [{"topic": "b/out", "payload": "0"}, {"topic": "b/in", "payload": "0"}, *BY_SIDE]
    assert topic_problems(WORDS, *cleared) == []
    assert topic_problems(WORDS, way, {**out, "pause_s": 0.0}, into) == [], "no pause"
