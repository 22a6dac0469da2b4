"""DeviceMapping: what a mapping says of its device, to those that drive it, probe it or claim its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.outgoing import Outgoing, RegisterCommand
from heron_mqtt.field.vendor.payload_filling import MessageContext, RenderedValue
from heron_mqtt.messages import Setpoint
from support.rows import each_row

POWER: dict[str, Any] = {"path": "p", "unit": "W"}
READ = [{"topic": "box/p", "fields": {"p_mw": POWER}}]
VALUES = {"p": {"quantity": "p_mw", "unit": "W", "decimals": 0}}
SETPOINT: dict[str, Any] = {"values": VALUES, "messages": [{"topic": "box/set", "payload": "{p}"}]}
LWT = {"topic": "box/lwt", "online": ["on"], "offline": ["off"]}
REGISTERS: dict[str, Any] = {
    "registers": {"w": {"address": 1}, "beat": {"address": 2}, "on": {"address": 3}, "set": {"address": 4}},
    "quantities": {"p_mw": {"formula": "w", "unit": "W"}},
}
WRITES: dict[str, Any] = {"values": VALUES, "messages": [{"registers": {"set": "{p}"}}]}


def load(**table: Any) -> DeviceMapping:
    given = table if "registers" in table else {"telemetry": READ, **table}
    return load_mapping(given, agent="MG1", device="ess", source="site.toml: MG1.ess.mapping")


def problems(**table: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(**table)
    return [line.removeprefix("site.toml: MG1.ess.mapping: ") for line in refused.value.problems]


def context(**learned: str) -> MessageContext:
    return MessageContext(BuiltIns(lambda: 1.0, lambda: "id"), {}, learned)


def test_a_device_that_can_only_be_read_is_told_nothing() -> None:
    made = load(name="meter")
    assert (made.sets, made.reads, made.setpoint, made.host_id) == (frozenset(), {"p_mw"}, None, None)
    assert (made.polled, made.learned, made.name) == (frozenset(), {}, "meter")
    assert made.release() == []
    assert (made.power_numbers(1.0), made.bounds_power, made.rated_mw) == ({}, True, None)
    assert made.beyond(Setpoint(p_mw=1.0, lease_s=1.0)) == []
    assert (made.command_filters(), made.command_places()) == ((), ())
    with pytest.raises(ConfigError) as refused:
        made.encode(Setpoint(p_mw=1.0, lease_s=1.0))
    wanted = "site.toml: MG1.ess.mapping: meter takes no setpoints: its mapping has no 'setpoint'"
    assert str(refused.value) == wanted


def test_a_device_that_can_be_told_says_what_and_what_a_power_comes_to() -> None:
    values = {**VALUES, "u": {"quantity": "uid"}, "t": {"quantity": "lease_s", "unit": "s"}}
    message = {"topic": "box/set", "payload": "{p} {u} {t}"}
    made = load(setpoint={"values": values, "messages": [message]}, sparkplug={"host_id": "us"})
    assert (made.sets, made.host_id) == ({"p_mw", "lease_s"}, "us")
    assert made.power_numbers(0.005) == {"p": 5000.0}
    assert not made.bounds_power
    bounded = {**VALUES["p"], "min": -1.0, "max": 1.0}
    assert load(setpoint={**SETPOINT, "values": {"p": bounded}}).bounds_power


def test_without_messages_of_a_release_zero_is_sent_for_a_second() -> None:
    values = {
        **VALUES,
        "q": {"quantity": "q_mvar", "unit": "var", "decimals": 0},
        "t": {"quantity": "lease_s", "unit": "s", "decimals": 0},
    }
    message = {"topic": "box/set", "payload": "{p} {q} {t}"}
    for release, is_said in ((None, False), ("zero", True)):
        made = load(setpoint={"values": values, "messages": [message], "release": release})
        assert made.has_release is is_said
        assert made.release(context()) == made.release() == [Outgoing("box/set", b"0 0 1")]
    made = load(setpoint={**SETPOINT, "release": [{"topic": "box/mode", "payload": "auto {counter}"}]})
    assert made.has_release
    assert made.release(context()) == [Outgoing("box/mode", b"auto 1")]


def test_what_it_is_rated_for_is_the_least_that_stands_with_its_power() -> None:
    def share(rated_mw: float) -> dict[str, Any]:
        return {"unit": "percent", "rated_mw": rated_mw}

    def field(rated_mw: float) -> list[dict[str, Any]]:
        return [{"topic": "box/p", "fields": {"p_mw": {"path": "p", **share(rated_mw)}, "soc": {
            "path": "s", "unit": "percent"}}}]  # fmt: skip

    def setpoint(rated_mw: float) -> dict[str, Any]:
        return {**SETPOINT, "values": {"p": {"quantity": "p_mw", **share(rated_mw)}}}

    quantity = {"p_mw": {"formula": "a", **share(0.03)}}
    inputs = [{"topic": "box/a", "inputs": {"a": {"path": "a"}}}]
    for table, rated_mw in (
        ({}, None),
        ({"telemetry": field(0.01)}, 0.01),
        ({"setpoint": setpoint(0.02)}, 0.02),
        ({"telemetry": field(0.01), "setpoint": setpoint(0.02)}, 0.01),
        ({"telemetry": field(0.03), "setpoint": setpoint(0.02)}, 0.02),
        ({"telemetry": inputs, "quantities": quantity}, 0.03),
    ):
        assert load(**table).rated_mw == rated_mw
    made = load(setpoint=setpoint(0.02))
    assert made.beyond(Setpoint(p_mw=0.02, lease_s=1.0)) == []
    for p_mw in (0.021, -0.021):
        assert made.beyond(Setpoint(p_mw=p_mw, lease_s=1.0)) == [
            f"rated_mw = 0.02: {p_mw:g} MW is more than the device has"
        ]


def test_where_a_power_is_set_is_known_by_register_or_by_topic_and_what_stands_beside_it() -> None:
    values = {**VALUES, "q": {"quantity": "q_mvar", "unit": "var"}, "on": {"formula": "1 if p > 0 else 0"}}
    written = {"on": 1, "set": "{p}"}
    assert load(name="meter").power_places() == ()
    made = load(**REGISTERS, setpoint={**WRITES, "messages": [{"registers": written}]})
    assert made.power_places() == ("holding 4",)
    messages = [
        {"topic": "box/set", "payload": {"id": 3, "set": {"w": "{p}"}}},
        {"topic": "box/set", "payload": {"set": {"w": "{on}"}, "id": 3}},
        {"topic": "box/q", "payload": "Q={q}"},
        {"topic": "box/mode", "payload": "auto"},
    ]
    made = load(setpoint={"values": values, "messages": messages})
    assert made.power_places() == ("box/set set.w id=3", "box/q Q")
    arrays = [{"topic": "box/set", "payload": {"method": "set", "params": [3, "{p}"]}}]
    made = load(setpoint={"values": VALUES, "messages": arrays})
    assert made.power_places() == ('box/set params [3, "+"] method="set"',)


def test_what_is_subscribed_to_and_told_is_known_by_topic() -> None:
    second = {"topic": ["box/{id}/a", "box/p"], "inputs": {"a": {"path": "a"}}}
    made = load(
        telemetry=[*READ, second],
        parameters={"id": {"learn": True}},
        quantities={"q_mvar": {"formula": "a", "unit": "var"}},
        availability=[LWT],
        setpoint={
            "values": {**VALUES, "n": {"quantity": "seq"}},
            "messages": [
                {"topic": "box/{id}/set/{n}", "payload": "{p}"},
                {"topic": "box/{id}/set/{n}", "payload": "on"},
                {"topic": "box/mode", "payload": "1"},
            ],
            "release": [{"topic": "box/off", "payload": "1"}],
            "answers": [{"topic": "box/ack/{n}"}],
        },
        keepalive=[{"topic": "box/alive", "period_s": 1.0}],
    )  # fmt: skip
    assert made.topic_filters() == ("box/p", "box/+/a", "box/lwt", "box/ack/+")
    assert made.command_filters() == ("box/+/set/+", "box/mode", "box/off")
    assert made.command_places() == ("box/{id}/set/+", "box/mode", "box/off")
    assert made.power_places() == ("box/{id}/set/+ #",), "a constant beside it is not its power"
    assert made.topics_of("p_mw") == ("box/p",)
    assert made.topics_of("q_mvar") == ("box/{id}/a", "box/p")
    assert made.topics_of("soc") == ()
    assert made.learned == {"id": 30.0}
    assert made.has_answers


def test_what_proves_life_is_the_heartbeat_and_the_power() -> None:
    quiet = [{**READ[0], "reports": "on_change"}, {"topic": "box/a", "inputs": {"a": {"path": "a"}}}]
    quiet[0]["topic"] = ["box/p", "box/p2"]
    made = load(telemetry=quiet, liveness={"by": "heartbeat", "topic": "box/beat"}, availability=[LWT])
    topics = ("box/p", "box/p2", "box/beat", "box/a", "box/lwt")
    assert [topic for topic in topics if made.proves_life(topic)] == ["box/p", "box/p2", "box/beat"]
    assert [topic for topic in topics if made.is_heartbeat(topic)] == ["box/beat"]
    assert not made.lives_by_availability
    assert "box/beat" in made.topic_filters()
    assert load(telemetry=quiet, liveness={"by": "availability"}, availability=[LWT]).lives_by_availability
    plain = load(availability=[LWT])
    assert all(plain.proves_life(topic) for topic in topics)
    assert not any(plain.is_heartbeat(topic) for topic in topics)
    assert not plain.lives_by_availability


def test_of_registers_only_those_are_read_of_which_something_is_made() -> None:
    assert load(**REGISTERS).polled == {"w"}
    assert load(**REGISTERS, modbus={"changed_by": "beat"}).polled == {"w", "beat"}
    timed = {**REGISTERS["registers"], "t": {"address": 9, "time": "unix_s"}}
    assert load(**{**REGISTERS, "registers": timed}, modbus={"timestamp": "t"}).polled == {"w", "t"}
    present = [{"register": "on", "online": ["1"], "offline": ["0"]}]
    assert load(**REGISTERS, availability=present).polled == {"w", "on"}
    assert load(**REGISTERS, setpoint=WRITES).polled == {"w"}
    formula = {"values": {"f": {"formula": "p_mw * 1e6 + beat"}}, "messages": [{"registers": {"set": "{f}"}}]}
    assert load(**REGISTERS, setpoint=formula).polled == {"w", "beat"}


# -- keepalives ----------------------------------------------------------------------------------------


def test_a_keepalive_is_sent_always_or_while_a_setpoint_holds() -> None:
    for keys, while_driven in (
        ({}, False),
        ({"while": "always"}, False),
        ({"while": "driven"}, True),
        ({"payload": "{p}"}, True),
        ({"first_payload": ["{p}"]}, True),
        ({"topic": "box/{p}"}, True),
        ({"payload": "{counter}"}, False),
    ):
        [made] = load(
            setpoint=SETPOINT, keepalive=[{"topic": "box/alive", "period_s": 1.0, **keys}]
        ).keepalives
        assert made.while_driven is while_driven, keys
    registers = {"registers": {"beat": "{p}"}, "period_s": 1.0}
    [made] = load(**REGISTERS, setpoint=WRITES, keepalive=[registers]).keepalives
    assert made.while_driven
    command = made.message(context(), {"p": RenderedValue(5, "5")}, first=False)
    assert isinstance(command, RegisterCommand)
    assert [write.words for write in command.writes] == [(5,)]


def test_a_keepalive_is_numbered_and_waits_for_the_level_that_is_learned() -> None:
    keys = {"payload": "{counter}", "first_payload": "first {counter}", "qos": 1, "period_s": 1.0}
    [made] = load(
        telemetry=[{**READ[0], "topic": "{id}/p"}],
        parameters={"id": {"learn": True}},
        keepalive=[{"topic": "{id}/alive", **keys}],
    ).keepalives
    assert made.message(context(), {}, first=True) is None
    known = context(id="7")
    assert made.message(known, {}, first=True) == Outgoing("7/alive", b"first 1", 1)
    assert made.message(known, {}, first=False) == Outgoing("7/alive", b"2", 1)
    [plain] = load(keepalive=[{"topic": "box/alive", "payload": "x", "period_s": 1.0}]).keepalives
    assert plain.message(known, {}, first=True) == Outgoing("box/alive", b"x", 0)


# -- mistakes ------------------------------------------------------------------------------------------


def test_one_input_is_of_one_kind() -> None:
    def both(kind: str) -> list[dict[str, Any]]:
        given = [("x", "number"), ("y", kind)]
        return [*READ, *({"topic": t, "inputs": {"a": {"path": "a", "type": k}}} for t, k in given)]

    assert load(telemetry=both("number")).inputs["a"].kind == "number"
    assert problems(telemetry=both("text")) == [
        "telemetry[2].inputs.a: is a text here and a number elsewhere; expected the same"
    ]


@each_row("name", ["soc", "vm_pu", "running", "ack_seq", "lease_s", "seq", "uid", "counter"])
def test_the_name_of_a_quantity_is_no_input(name: str) -> None:
    said = problems(telemetry=[*READ, {"topic": "x", "inputs": {name: {"path": "x"}}}])
    assert said == [f"telemetry[1].inputs.{name}: is the name of a quantity; choose another"]


def test_a_keyword_of_formulas_is_no_input() -> None:
    for name in ("true", "false", "pi", "if"):
        said = problems(telemetry=[*READ, {"topic": "x", "inputs": {name: {"path": "x"}}}])
        assert said == [f"telemetry[1].inputs.{name}: is a keyword of formulas; choose another name"]


def test_where_the_device_is_stands_beside_the_mapping(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text('broker = "mqtt://box"\n')
    (tmp_path / "rtu.toml").write_text("[modbus]\nunit = 3\nframing = 'rtu'\n")
    broker = "belongs beside the mapping: [MG1.ess.broker]"
    modbus = "where the device is belongs beside the mapping: [MG1.ess.modbus]"
    for given, problem in (
        ({"telemetry": READ, "broker": "mqtt://x"}, f"broker: {broker}"),
        ({"profile": "box.toml"}, f"broker: {broker}"),
        ({**REGISTERS, "modbus": {"unit": 1}}, f"modbus.unit: {modbus}"),
        ({"profile": "rtu.toml"}, f"modbus.framing: {modbus}"),
        ({**REGISTERS, "modbus": {"connect_delay_s": 1}}, f"modbus.connect_delay_s: {modbus}"),
    ):
        with pytest.raises(ConfigError) as refused:
            load_mapping(
                given, agent="a", device="b", source="site.toml: MG1.ess.mapping", find=tmp_path.joinpath
            )
        place = "site.toml: MG1.ess.mapping"
        if "profile" in given:
            place += f" (profile {tmp_path / str(given['profile'])})"
        assert str(refused.value) == f"{place}: {problem}"


def test_a_device_on_modbus_has_nothing_of_mqtt() -> None:
    learned = {**REGISTERS, "name": "{x}", "parameters": {"x": {"learn": True}}}
    assert problems(**REGISTERS, sparkplug={"host_id": "us"}) == [
        "sparkplug: the device is on Modbus; leave it out"
    ]
    assert any("learn = true, but no topic of telemetry" in line for line in problems(**learned))
    assert problems(**REGISTERS, keepalive=[{"topic": "x", "period_s": 1.0}]) == [
        "keepalive[0]: the device is on Modbus: give registers"
    ]
    assert problems(keepalive=[{"registers": {"w": 1}, "period_s": 1.0}]) == [
        "keepalive[0]: the device is on MQTT: give topic"
    ]
    assert problems(availability=[{"register": "w", "online": ["1"]}]) == [
        "availability[0]: the device is on MQTT: give topic"
    ]


def test_a_topic_is_not_read_and_written() -> None:
    mix = "the device's own messages and ours would mix"
    for read in (
        {"telemetry": [*READ, {"topic": "box/set", "inputs": {"a": {"path": "a"}}}]},
        {"telemetry": [*READ, {"topic": "+/set", "inputs": {"a": {"path": "a"}}}]},
        {"availability": [{**LWT, "topic": "box/set"}]},
    ):
        assert problems(setpoint=SETPOINT, **read) == [
            f"setpoint.messages[0].topic: 'box/set' is read too: {mix}"
        ]
    release = {**SETPOINT, "release": [{"topic": "box/p", "payload": "auto"}]}
    assert problems(setpoint=release) == [f"setpoint.release[0].topic: 'box/p' is read too: {mix}"]
    answers = {**SETPOINT, "answers": [{"topic": "box/set"}]}
    assert problems(setpoint=answers) == [f"setpoint.messages[0].topic: 'box/set' is read too: {mix}"]
    assert load(keepalive=[{"topic": "box/p", "period_s": 1.0}])
    learned = {"messages": [{"topic": "{id}/p", "payload": "{p}"}], "values": VALUES}
    table = {"telemetry": [{**READ[0], "topic": "{id}/p"}], "parameters": {"id": {"learn": True}}}
    assert problems(setpoint=learned, **table) == [
        f"setpoint.messages[0].topic: '{{id}}/p' is read too: {mix}"
    ]


def test_a_confirmation_by_answers_needs_some() -> None:
    said = ["setpoint.confirm: 'answer' needs [[setpoint.answers]] or a field ack_seq"]
    assert problems(setpoint={**SETPOINT, "confirm": "answer"}) == said
    assert load(setpoint={**SETPOINT, "confirm": "answer", "answers": [{"topic": "ack"}]}).has_answers
    acks = [*READ, {"topic": "ack", "fields": {"ack_seq": {"path": "n"}}}]
    assert load(telemetry=acks, setpoint={**SETPOINT, "confirm": "answer"}).has_answers
    assert not load(setpoint=SETPOINT).has_answers


def test_several_topics_may_repeat_the_number_of_a_setpoint_and_one_gives_the_power() -> None:
    acks = [{"topic": topic, "fields": {"ack_seq": {"path": "n"}}} for topic in ("x", "y")]
    assert load(telemetry=[*READ, *acks]).topics_of("ack_seq") == ("x", "y")
    assert problems(telemetry=acks) == ["telemetry: no topic gives p_mw; without it there is no telemetry"]
