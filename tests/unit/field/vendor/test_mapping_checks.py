"""Every mistake in a mapping is found when it is loaded, and named with file, key and what was expected."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.mapping import load_named_mapping
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint
from support.rows import each_row

GOOD: dict[str, Any] = {
    "setpoint": {
        "values": {
            "p": {"quantity": "p_mw", "unit": "W"},
            "on": {
                "quantity": "p_mw",
                "unit": "W",
                "words": [{"word": "OFF"}, {"word": "ON", "from": 1.0}],
            },
        },
        "messages": [
            {"topic": "box/{id}/set", "payload": {"value": "{p}"}, "when": {"on": ["ON", "OFF"]}},
        ],
    },
    "telemetry": [
        {"topic": "box/{id}/p", "fields": {"p_mw": {"path": "value", "unit": "W"}}},
        {"topic": "box/{id}/csv", "format": "csv", "fields": {"soc": {"column": 1, "unit": "percent"}}},
    ],
    "availability": [{"topic": "box/{id}/there", "online": ["1"], "offline": ["0"]}],
    "keepalive": [{"topic": "box/{id}/wake", "period_s": 5.0}],
    "parameters": {"id": "7"},
}
Change = Callable[[dict[str, Any]], Any]


def load(table: Any, **others: Any) -> DeviceMapping:
    return load_mapping(
        table, agent="MG1", device="ess", source="site.toml: MG1.devices.ess.mapping", **others
    )


def problems(change: Change) -> tuple[str, ...]:
    table = copy.deepcopy(GOOD)
    change(table)
    with pytest.raises(ConfigError) as caught:
        load(table)
    return caught.value.problems


def field(table: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = table["telemetry"][0]["fields"]["p_mw"]
    return found


def value(table: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = table["setpoint"]["values"]["p"]
    return found


def test_the_mapping_that_is_spoiled_below_is_right() -> None:
    assert load(GOOD).topic_filters() == ("box/7/p", "box/7/csv", "box/7/there")


@each_row(
    ("change", "key", "expectation"),
    [
        (lambda t: t.pop("telemetry"), "telemetry", "missing"),
        (lambda t: t["telemetry"].pop(0), "telemetry", "no topic gives p_mw"),
        (lambda t: t.update(telemtry=[]), "telemtry", "did you mean 'telemetry'"),
        (
            lambda t: field(t).update(path="a..b"),
            "telemetry[0].fields.p_mw.path",
            "not a JMESPath expression",
        ),
        (lambda t: field(t).update(path="summe(a)"), "telemetry[0].fields.p_mw.path", "no function summe()"),
        (lambda t: t["telemetry"][0].update(separator=";"), "telemetry[0]", "not with format = 'json'"),
        (lambda t: t["telemetry"][0].update(format="text", line=1), "telemetry[0]", "line: not with format"),
        (lambda t: field(t).update(path="a || b(@)"), "telemetry[0].fields.p_mw.path", "no function b()"),
        (lambda t: field(t).pop("path"), "telemetry[0].fields.p_mw.path", "format 'json' needs it"),
        (lambda t: field(t).update(column=1), "telemetry[0].fields.p_mw.column", "leave it out"),
        (lambda t: field(t).update(unit="mW"), "telemetry[0].fields.p_mw.unit", "one of W, kW, MW, A"),
        (lambda t: field(t).pop("unit"), "telemetry[0].fields.p_mw.unit", "needs one of W"),
        (lambda t: field(t).update(unit="A"), "telemetry[0].fields.p_mw.nominal_v", "in A needs it"),
        (lambda t: field(t).update(unit="A"), "telemetry[0].fields.p_mw.phases", "in A needs it"),
        (lambda t: field(t).update(unit="percent"), "telemetry[0].fields.p_mw.rated_mw", "needs it"),
        (lambda t: field(t).update(rated_mw=1.0), "telemetry[0].fields.p_mw.rated_mw", "not needed"),
        (lambda t: field(t).update(scale=0.0), "telemetry[0].fields.p_mw", "scale must not be 0"),
        (lambda t: field(t).update(scale=float("nan")), "telemetry[0].fields.p_mw.scale", "finite"),
        (lambda t: field(t).update(sign=2), "telemetry[0].fields.p_mw.sign", "should be 1 or -1"),
        (lambda t: field(t).update(sign="-1"), "telemetry[0].fields.p_mw.sign", "should be 1 or -1"),
        (
            lambda t: field(t).update(words={"a": True}),
            "telemetry[0].fields.p_mw.words",
            "they mean a boolean, expected a number",
        ),
        (lambda t: field(t).update(nul="keep"), "telemetry[0].fields.p_mw.nul", "did you mean 'null'"),
        (
            lambda t: t["telemetry"][1]["fields"]["soc"].pop("column"),
            "telemetry[1].fields.soc.column",
            "needs",
        ),
        (
            lambda t: t["telemetry"][1]["fields"].update(watt={}),
            "telemetry[1].fields.watt",
            "should be 'p_mw'",
        ),
        (lambda t: t["telemetry"][0].update(topic="box/{id}/#"), "telemetry[0].topic", "say +"),
        (
            lambda t: t["telemetry"][0].update(topic="box/{idd}"),
            "telemetry[0].topic",
            "{agent}, {device}, {id}",
        ),
        (lambda t: t["telemetry"][0].update(topic="box/{p}"), "telemetry[0].topic", "belongs into a message"),
        (lambda t: value(t).update(unit="VA"), "setpoint.values.p.unit", "unknown unit 'VA'"),
        (lambda t: value(t).update(quantity="power"), "setpoint.values.p.quantity", "'p_mw', 'q_mvar'"),
        (lambda t: value(t).update(min=2.0, max=1.0), "setpoint.values.p", "min must not be above max"),
        (lambda t: value(t).update(rounding="toward_zero"), "setpoint.values.p", "rounding needs decimals"),
        (lambda t: value(t).update(words=[{"word": 1}]), "setpoint.values.p.words", "at least 2"),
        (
            lambda t: value(t).update(words=[{"word": 1, "from": 0.0}, {"word": 2}]),
            "setpoint.values.p",
            "every word but the first needs 'from'",
        ),
        (
            lambda t: value(t).update(
                words=[{"word": 1}, {"word": 2, "from": 5.0}, {"word": 3, "from": 5.0}]
            ),
            "setpoint.values.p",
            "must rise",
        ),
        (
            lambda t: t["setpoint"]["messages"][0].update(payload={"value": 1}),
            "setpoint.values.p",
            "no payload and no 'when' uses it",
        ),
        (
            lambda t: t["setpoint"]["messages"][0].update(payload="{q}"),
            "setpoint.messages[0].payload",
            "placeholder {q}: unknown; expected one of {agent}, {counter}, {device}, {id}, {now}, {on}, {p}",
        ),
        (
            lambda t: t["setpoint"]["messages"][0].update(payload={"a": {"b": ["{x}"]}}),
            "setpoint.messages[0].payload.a.b[0]",
            "placeholder {x}",
        ),
        (lambda t: t["setpoint"].update(messages=[]), "setpoint.messages", "at least 1"),
        (
            lambda t: t["setpoint"]["messages"][0].update(when={"on": ["on"]}),
            "setpoint.messages[0].when.on",
            "'on' is not one of its words: 'OFF', 'ON'",
        ),
        (
            lambda t: t["setpoint"]["messages"][0].update(when={"p": ["ON"]}),
            "setpoint.messages[0].when.p",
            "a value of the setpoint that has words",
        ),
        (lambda t: t["setpoint"]["messages"][0].update(qos=3), "setpoint.messages[0].qos", "0, 1 or 2"),
        (
            lambda t: t["setpoint"]["messages"][0].update(topic="box/{id}/p"),
            "setpoint.messages[0].topic",
            "is read too",
        ),
        (lambda t: t["parameters"].update(ID=1), "parameters.ID", "no placeholder uses it"),
        (lambda t: t["parameters"].update(agent="x"), "parameters.agent", "is always there"),
        (lambda t: t["parameters"].update(id=[1]), "parameters.id", "where it is given"),
        (lambda t: t["parameters"].update(id="a/+"), "keepalive[0].topic", "wildcard"),
        (lambda t: t["parameters"].pop("id"), "keepalive[0].topic", "placeholder {id}: unknown"),
        (
            lambda t: t["setpoint"]["values"].update(id=t["setpoint"]["values"]["p"]),
            "setpoint.values.id",
            "there is a parameter of that name",
        ),
        (
            lambda t: t["availability"][0].update(offline=["1"]),
            "availability[0].offline",
            "already means online",
        ),
        (
            lambda t: t["availability"][0].update(path="]"),
            "availability[0].path",
            "not a JMESPath expression",
        ),
        (
            lambda t: t["availability"].append(t["availability"][0]),
            "availability[1].topic",
            "is there already",
        ),
        (lambda t: t["keepalive"][0].update(period_s=0.0), "keepalive[0].period_s", "greater than or equal"),
        (lambda t: t["keepalive"][0].update(payload="{q}"), "keepalive[0].payload", "unknown"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_was_expected(
    change: Change, key: str, expectation: str
) -> None:
    found = problems(change)
    assert all(p.startswith("site.toml: MG1.devices.ess.mapping: ") for p in found)
    named = [p for p in found if f"mapping: {key}:" in p or f"mapping: {key} = " in p]
    assert named, found
    assert any(expectation in p for p in named), found


def test_all_mistakes_are_named_at_once() -> None:
    def spoil(table: dict[str, Any]) -> None:
        field(table).update(path="a..b", unit="mW")
        value(table).update(unit="VA")

    assert len(problems(spoil)) == 3


def test_text_payloads_hold_one_quantity() -> None:
    def spoil(table: dict[str, Any]) -> None:
        fields = {"p_mw": {"unit": "W"}, "soc": {"unit": "percent"}}
        table["telemetry"][0] = {"topic": "x", "format": "text", "fields": fields}

    assert "a text payload holds one quantity" in problems(spoil)[0]


@pytest.mark.parametrize("given", ["nothing.toml", "", {"profile": 7}, {"profile": "../scenario.toml"}])
def test_a_profile_that_is_not_there_is_named_with_those_that_are(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"no such file; shipped profiles are .*shelly_gen2\.toml"):
        load(given)


def test_a_profile_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("telemetry = [\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML"):
        load("mine.toml", find=tmp_path.joinpath)


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("none.toml", None, "no such file; shipped profiles are device_profiles/"),
        ("", None, "a folder; expected a file; shipped profiles are device_profiles/"),
        ("bad.toml", "x = [", "not valid TOML: "),
        ("own.toml", 'profile = "none.toml"', "profile = 'none.toml': no such file; shipped profiles are "),
    ],
)
@pytest.mark.parametrize("parameters", [{}, {"id": 1}])
def test_a_mapping_of_a_command_line_that_is_wrong_is_named_by_its_option(
    parameters: dict[str, Any], file: str, text: str | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    if text is not None:
        path.write_text(text)
    option = f"--mapping {path}"
    with pytest.raises(ConfigError) as caught:
        load_named_mapping(str(path), parameters, agent="MG1", device="ess", source=option)
    [line] = caught.value.problems
    assert line.startswith(f"{option}: {problem}")
    assert line.count(str(path)) == 1


@pytest.mark.parametrize("parameters", [[], "x", 3])
def test_parameters_that_are_no_table_are_refused(parameters: Any) -> None:
    with pytest.raises(ConfigError, match="parameters: expected a table"):
        load({**GOOD, "parameters": parameters})


def test_a_mistake_in_a_profile_names_the_profile_too(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[[telemetry]]\ntopic = "a"\nfields.p_mw = { path = "p" }\n')
    with pytest.raises(ConfigError, match=r"site\.toml: .*\(profile .*mine\.toml\): telemetry\[0\]\.fields"):
        load({"profile": "mine.toml"}, find=tmp_path.joinpath)


def fields(mapping: DeviceMapping, topic: str, payload: bytes) -> dict[str, Any]:
    taken = VendorState(mapping).take(topic, payload, 0.0)
    assert taken is not None
    return dict(taken.fields)


def test_tables_of_a_profile_can_be_replaced_and_its_defaults_overridden(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        """
        name = "mine"
        [parameters]
        base = "box"
        [parameters.scale]
        description = "W per count"
        default = 10.0
        [[telemetry]]
        topic = "{base}/p"
        fields.p_mw = { path = "p", unit = "W", scale = "{scale}" }
        """
    )

    def find(name: str) -> Path:
        return tmp_path / name

    plain = load("mine.toml", find=find)
    assert (plain.name, plain.sets, plain.topic_filters()) == ("mine", frozenset(), ("box/p",))
    assert fields(plain, "box/p", b'{"p": 7}') == {"p_mw": 70e-6}
    setpoint = {
        "values": {"p": {"quantity": "p_mw", "unit": "kW"}},
        "messages": [{"topic": "{base}/set", "payload": "{p}"}],
    }
    changed = load(
        {"profile": "mine.toml", "parameters": {"base": "other", "scale": 1}, "setpoint": setpoint}, find=find
    )
    assert changed.sets == {"p_mw"}
    assert fields(changed, "other/p", b'{"p": 7}') == {"p_mw": 7e-6}


@pytest.mark.parametrize("name", ["import", "true", "p_mw", "now"])
def test_a_name_that_a_formula_cannot_use_is_refused(name: str) -> None:
    def spoil(table: dict[str, Any]) -> None:
        table["telemetry"][0]["inputs"] = {name: {"path": "x"}}

    assert f"telemetry[0].inputs.{name}: is " in problems(spoil)[0]


def test_an_answer_on_the_topic_of_the_command_would_be_our_own_message() -> None:
    def spoil(table: dict[str, Any]) -> None:
        table["setpoint"]["answers"] = [{"topic": "box/{id}/set"}]

    assert "setpoint.messages[0].topic: 'box/7/set' is read too" in problems(spoil)[0]


def test_two_sources_of_one_quantity_are_refused_without_a_formula() -> None:
    def spoil(table: dict[str, Any]) -> None:
        second = {"topic": "box/{id}/p2", "fields": {"p_mw": {"path": "value", "unit": "W"}}}
        table["telemetry"].append(second)

    (problem,) = problems(spoil)
    assert "telemetry[2].fields.p_mw: p_mw has a source already, telemetry[0].fields.p_mw" in problem
    assert "[quantities.p_mw]" in problem


def test_a_formula_and_a_field_of_one_quantity_are_two_sources_too() -> None:
    def spoil(table: dict[str, Any]) -> None:
        table["telemetry"][0]["inputs"] = {"a": {"path": "a"}}
        table["quantities"] = {"p_mw": {"formula": "a", "unit": "W"}}

    assert "quantities.p_mw: p_mw has a source already" in problems(spoil)[0]


@each_row(
    ("change", "problem"),
    [
        ({"formula": "a + c", "unit": "W"}, "formula: 'a + c': nothing is called c; there are a, b"),
        ({"formula": "a", "unit": "V"}, "unit: unknown unit 'V' for p_mw"),
        ({"formula": "a"}, "unit: missing; p_mw needs one of W"),
        ({"formula": "1 + 1", "unit": "W"}, "it uses no input"),
        ({"formula": "a", "unit": "W", "offline": True}, "offline: expected a number"),
        ({"formula": "l * 2", "unit": "W"}, "l * 2 is a list of numbers, as l is"),
        ({"formula": "a", "unit": "W", "within_s": 0}, "within_s"),
        ({"formula": "a", "unit": "W", "update": "both"}, "'round' or 'each'"),
        ({"unit": "W"}, "formula: missing"),
    ],
)
def test_a_mistake_in_a_quantity_is_named_with_file_table_and_key(
    change: dict[str, Any], problem: str
) -> None:
    table = {
        "telemetry": [
            {"topic": "x", "inputs": {"a": {"path": "a"}, "b": {"path": "b"}}},
            {"topic": "y", "inputs": {"l": {"path": "l", "type": "numbers"}}},
        ],
        "quantities": {"p_mw": change},
    }
    with pytest.raises(ConfigError) as caught:
        load(table)
    found = [p for p in caught.value.problems if problem in p]
    assert found, caught.value.problems
    assert found[0].startswith("site.toml: MG1.devices.ess.mapping: quantities.p_mw")


@each_row(
    ("change", "problem"),
    [
        ({"timestamp": "t"}, "timestamp: there is no input 't'; there are a"),
        ({"timestamp": "a"}, "timestamp: input a must be a time"),
        ({"changed_by": "zz"}, "changed_by: there is no input 'zz'"),
        ({"encoding": "klingon"}, "no text encoding of that name"),
        ({"format": "xml"}, "format"),
        ({"topic": "a/#"}, "say + for each level that varies"),
        ({"topic": []}, "topic"),
        ({"inputs": {}, "fields": {}}, "nothing is read from it"),
        ({"format": "binary"}, "struct: missing; format 'binary' needs it"),
        ({"format": "key_value"}, "key: missing; format 'key_value' needs it"),
    ],
)
def test_a_mistake_in_telemetry_is_named(change: dict[str, Any], problem: str) -> None:
    telemetry = {
        "topic": "x",
        "inputs": {"a": {"path": "a"}},
        "fields": {"p_mw": {"path": "p", "unit": "W"}},
        **change,
    }
    with pytest.raises(ConfigError) as caught:
        load({"telemetry": [telemetry]})
    assert any(problem in p and "telemetry[0]" in p for p in caught.value.problems), caught.value.problems


@each_row(
    ("change", "key", "problem"),
    [
        (lambda s: s.update(confirm="answer"), "setpoint.confirm", "'answer' needs [[setpoint.answers]]"),
        (lambda s: s.update(release="hold"), "setpoint.release", "zero"),
        (lambda s: s.update(release=[]), "setpoint.release", "at least 1"),
        (lambda s: s.update(send="often"), "setpoint.send", "'always', 'setpoint' or 'change'"),
        (
            lambda s: s["values"]["p"].update(formula="1"),
            "setpoint.values.p",
            "give one of quantity, formula and pack",
        ),
        (
            lambda s: s["values"].update(f={"formula": "z"}),
            "setpoint.values.f.formula",
            "nothing is called z",
        ),
        (
            lambda s: s["values"].update(f={"formula": "p", "unit": "W"}),
            "setpoint.values.f.unit",
            "not with a formula",
        ),
        (
            lambda s: s["messages"][0].update(when="zz > 1"),
            "setpoint.messages[0].when",
            "nothing is called zz",
        ),
        (
            lambda s: s["messages"][0].update(payload="{now:soon}"),
            "setpoint.messages[0].payload",
            "{now:soon}: expected unix_s",
        ),
        (
            lambda s: s["messages"][0].update(struct="<f"),
            "setpoint.messages[0]",
            "packs a payload that is an array",
        ),
        (
            lambda s: s.update(answers=[{"topic": "box/7/ack", "id": {"path": "id"}}]),
            "setpoint.answers[0].id.of",
            "which value is repeated?",
        ),
        (
            lambda s: s.update(answers=[{"topic": "box/7/ack", "echo": {"path": "v", "of": "zz"}}]),
            "setpoint.answers[0].echo.of",
            "'zz' is no value of the setpoint; there are p, on",
        ),
    ],
)
def test_a_mistake_in_a_setpoint_is_named(change: Change, key: str, problem: str) -> None:
    found = problems(lambda t: change(t["setpoint"]))
    assert any(f"mapping: {key}" in p and problem in p for p in found), found


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"learn": True, "relearn_after_s": 0}, "expected 1 to 86400 s"),
        ({"learn": True, "forget": 1}, "unknown key"),
        ({"default": 1}, "where it is given, or { learn = true }"),
    ],
)
def test_a_mistake_in_a_learned_parameter_is_named(given: dict[str, Any], problem: str) -> None:
    def spoil(table: dict[str, Any]) -> None:
        table["parameters"]["id"] = given

    assert any("parameters.id" in p and problem in p for p in problems(spoil))


def test_what_is_learned_must_stand_in_a_topic_that_is_read() -> None:
    def spoil(table: dict[str, Any]) -> None:
        table["parameters"]["i"] = {"learn": True}
        table["setpoint"]["messages"][0]["topic"] = "box/{i}/set"

    assert any("parameters.i: learn = true, but no topic of telemetry" in p for p in problems(spoil))


def test_a_payload_and_a_topic_that_are_one_parameter_are_its_text() -> None:
    table = copy.deepcopy(GOOD)
    table["parameters"] |= {"rated_w": 3000, "awake": True, "part": 12}
    table["setpoint"]["messages"] += [{"topic": "box/{id}/max", "payload": "{rated_w}"}]
    table["keepalive"] = [
        {"topic": "{part}", "payload": "{awake}", "first_payload": "{rated_w}", "period_s": 5.0}
    ]
    mapping = load(table)
    sent = mapping.encode(Setpoint(p_mw=0.001, lease_s=5.0))
    [wake] = mapping.keepalives
    assert [m.payload for m in sent] == [b'{"value":1000.0}', b"3000"]
    assert (wake.table.topic, wake.table.payload, wake.table.first_payload) == ("12", "true", "3000")


def test_a_value_that_may_be_of_several_types_and_is_of_none_is_one_line() -> None:
    def spoil(table: dict[str, Any]) -> None:
        table["setpoint"]["messages"][0] = {"topic": "box/{id}/set", "payload": date(2026, 1, 5)}
        table["telemetry"][0]["topic"] = date(2026, 1, 5)

    found = problems(spoil)
    assert [line.partition("mapping: ")[2] for line in found[:2]] == [
        "setpoint.messages[0].payload = datetime.date(2026, 1, 5): should be a valid string or a table or a "
        "valid list",
        "telemetry[0].topic = datetime.date(2026, 1, 5): should be a valid string or a valid list",
    ]


def packed(**keys: Any) -> dict[str, Any]:
    """Return a mapping whose command holds packed bytes in JSON."""
    table = copy.deepcopy(GOOD)
    values = {
        "w": {"quantity": "p_mw", "unit": "W", "decimals": 0},
        "s": {"quantity": "lease_s", "unit": "s"},
    }
    values["s"]["decimals"] = 0
    values["data"] = {"pack": [1, "{w}", "{s}"], "struct": ">BhH", "bytes": "base64", **keys}
    table["setpoint"] = {
        "release": "zero",
        "values": values,
        "messages": [{"topic": "down", "payload": {"port": 10, "data": "{data}"}}],
    }
    return table


def test_a_command_holds_packed_bytes_within_json() -> None:
    (message,) = load(packed()).encode(Setpoint(p_mw=-0.0005, lease_s=60.0))
    assert message.payload == b'{"port":10,"data":"Af4MADw="}'  # 01 fe0c 003c
    (message,) = load(packed(bytes="hex")).encode(Setpoint(p_mw=0.0005, lease_s=60.0))
    assert message.payload == b'{"port":10,"data":"0101f4003c"}'


def test_packed_bytes_mean_the_same_while_only_the_lease_in_them_differs() -> None:
    mapping = load(packed())
    of = [
        mapping.encode(Setpoint(p_mw=p, lease_s=s))[0].meaning
        for p, s in ((1e-4, 5.0), (1e-4, 9.0), (2e-4, 5.0))
    ]
    assert of[0] == of[1] != of[2]
    assert mapping.sets == {"p_mw", "lease_s"}


def test_what_does_not_fit_into_packed_bytes_is_not_sent() -> None:
    with pytest.raises(
        MessageError, match=r"setpoint.values.data: \[1, 100000, 5\] cannot be packed as >BhH"
    ):
        load(packed()).encode(Setpoint(p_mw=0.1, lease_s=5.0))


@pytest.mark.parametrize(
    ("pack", "problem"),
    [
        ([1, "{w}", "{later}"], "no value above it is called later"),
        ([1, "{w}", "{counter}"], "placeholder {counter}: belongs into a message"),
        ([1, "{w}", "{now:unix_s}"], "time and counter belong to a message"),
        ([1, "{w}"], "pack must be an array of 3, one for each letter"),
        ([1, 2, "{s}"], "setpoint.values.w: no payload and no 'when' uses it"),
    ],
)
def test_a_mistake_in_what_is_packed_is_named(pack: list[Any], problem: str) -> None:
    table = packed(pack=pack)
    table["setpoint"]["values"]["later"] = {"formula": "1"}
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load(table)


def read(**table: Any) -> dict[str, Any]:
    return {"telemetry": [{"topic": "t", **table}]}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            read(fields={"p_mw": {"path": "p", "unit": "W"}}, when="kind == 1"),
            "telemetry[0].when: 'kind == 1': nothing is called kind",
        ),
        (
            read(inputs={"a": {"path": "a"}}, fields={"p_mw": {"path": "p", "unit": "W"}}, when="1 == 1"),
            "telemetry[0].when: '1 == 1' uses no input",
        ),
        (
            read(
                fields={"p_mw": {"path": "p", "unit": "W"}, "running": {"path": "s == 'on'", "null": "keep"}}
            ),
            "telemetry[0].fields.running.null: the path \"s == 'on'\" is a comparison: if its value is",
        ),
        (
            read(
                fields={
                    "p_mw": {"path": "p", "unit": "W", "on_change": True, "rate": {"per": "h", "over_s": 5}}
                }
            ),
            "telemetry[0].fields.p_mw.rate: a counter that is sent only when it changes",
        ),
        (
            read(
                inputs={"l": {"path": "l", "type": "numbers", "rate": {"per": "h", "over_s": 5}}},
                fields={"p_mw": {"path": "p", "unit": "W"}},
            ),
            "telemetry[0].inputs.l.rate: only of a number, this is a numbers",
        ),
        (
            {
                **read(
                    inputs={
                        "v": {"path": "packs[*].v", "type": "numbers"},
                        "i": {"path": "map(&i, packs)", "type": "numbers"},
                    }
                ),
                "quantities": {"p_mw": {"formula": "sum(v * i)", "unit": "W"}},
            },
            "v * i pairs the numbers of two lists, and the path of v leaves out missing values",
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(table)
    assert any(problem in each for each in caught.value.problems), caught.value.problems


def test_a_formula_that_cannot_be_read_has_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            {**read(inputs={"a": {"path": "a"}}), "quantities": {"p_mw": {"formula": "mean(a)", "unit": "W"}}}
        )
    assert len(caught.value.problems) == 1


def test_an_answer_has_no_rate() -> None:
    answer = {"topic": "r", "success": {"path": "ok", "is": [1], "rate": {"per": "s", "over_s": 5}}}
    assert any(
        "success.rate: an answer is one message" in p
        for p in problems(lambda t: t["setpoint"].update(answers=[answer]))
    )


def test_power_of_packs_is_the_sum_of_their_products() -> None:
    pack = {"v": "map(&v, packs)", "i": "map(&i, packs)"}
    mapping = load(
        {
            **read(inputs={name: {"path": path, "type": "numbers"} for name, path in pack.items()}),
            "quantities": {"p_mw": {"formula": "-sum(v * i)", "unit": "W"}},
        }
    )
    state = VendorState(mapping)
    packs = [{"v": 50, "i": -2}, {"v": None, "i": -9}, {"i": 3}, {"v": 51, "i": 1}]
    update = state.take("t", json.dumps({"packs": packs}).encode(), 0.0)
    assert update is not None
    assert update.fields["p_mw"] == pytest.approx((100 - 51) * 1e-6)
