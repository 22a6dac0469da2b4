"""Every shipped device profile against recorded payloads; each sample states its source."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.config import Table, shipped_config
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.broker_table import DeviceBrokerTable
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.vendor import tables
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import Setpoint, Telemetry
from support.rows import each_row

RECORDED = {
    p.stem: json.loads(p.read_text()) for p in (Path(__file__).parent / "device_profiles").glob("*.json")
}
SAMPLES = {name: recorded for name, recorded in RECORDED.items() if "polled" not in recorded}
ON_MODBUS = sorted(RECORDED.keys() - SAMPLES.keys())
"""Their registers are read, and written, in test_modbus_profiles.py."""
ALL_TABLES = [
    t for t in vars(tables).values() if isinstance(t, type) and issubclass(t, Table) and t is not Table
]
TELEMETRY = set(Telemetry.model_fields)
ALIKE = {"go-eCharger/00000001/amp/result"}
"""Topics that are read as another one with a sample."""
SHIPPED = sorted(p.stem for p in shipped_config().glob("device_profiles/*.toml"))
PROFILES = sorted(set(SHIPPED) - set(ON_MODBUS))


def load(name: str, **parameters: Any) -> DeviceMapping:
    given = {
        "profile": f"device_profiles/{name}.toml",
        "parameters": {**SAMPLES[name]["parameters"], **parameters},
    }
    return load_mapping(given, agent="MG1", device="ess", source="test.toml: mapping")


def defaults(name: str) -> set[str]:
    """Return the parameters of a profile that need not be given."""
    text = (shipped_config() / "device_profiles" / f"{name}.toml").read_text()
    declared = tomllib.loads(text).get("parameters", {})
    return {key for key, table in declared.items() if "default" in table}


def of_all(what: str) -> list[Any]:
    return [(name, sample) for name, samples in sorted(SAMPLES.items()) for sample in samples[what]]


def test_every_shipped_profile_has_samples() -> None:
    assert sorted(RECORDED) == SHIPPED


def test_every_profile_says_where_its_facts_come_from_and_what_the_box_cannot_do() -> None:
    for name in SHIPPED:
        text = (shipped_config() / "device_profiles" / f"{name}.toml").read_text()
        assert "# Source" in text.split("\n\n")[0], name
        assert "cannot do" in text, name


def test_every_parameter_that_a_profile_declares_is_used_in_it() -> None:
    for name in SHIPPED:
        text = (shipped_config() / "device_profiles" / f"{name}.toml").read_text()
        for parameter in tomllib.loads(text).get("parameters", {}):
            assert f"{{{parameter}}}" in text, f"{name}: {parameter}"


@each_row(("name", "sample"), of_all("received"))
def test_a_recorded_payload_means_what_it_should(name: str, sample: dict[str, Any]) -> None:
    assert sample["source"]
    state = VendorState(load(name))
    for topic, payload in sample.get("after", []):
        state.take(topic, payload.encode(), 0.0)
    state.take(sample["topic"], sample["payload"].encode(), 0.1)
    state.settle(1.0)
    values = {line.name: line.value for line in state.report(1.0) if line.name in TELEMETRY}
    wanted = {field: value for field, value in sample["fields"].items() if value is not None}
    assert {field for field, value in values.items() if value is not None} == wanted.keys()
    for field, value in wanted.items():
        assert values[field] == pytest.approx(value, rel=1e-12)
    status = state.status()
    assert (status.state if status else None) == sample.get("state")


def context() -> MessageContext:
    return MessageContext(BuiltIns(lambda: 1_700_000_000.0, lambda: "id-1"))


@each_row(("name", "sample"), of_all("sent"))
def test_a_setpoint_becomes_exactly_the_documented_messages(name: str, sample: dict[str, Any]) -> None:
    assert sample["source"]
    setpoint = Setpoint(**sample["setpoint"] | {"seq": sample["setpoint"].get("seq", 0)})
    sent = load(name).encode(setpoint, context())
    assert [{"topic": m.topic, "payload": m.payload.decode()} for m in sent] == sample["messages"]
    assert not any(m.retain for m in sent)


@each_row("name", [n for n in PROFILES if SAMPLES[n]["sent"]])
def test_every_profile_that_takes_setpoints_hands_the_device_back(name: str) -> None:
    mapping = load(name)
    assert mapping.has_release
    got = [{"topic": m.topic, "payload": m.payload.decode()} for m in mapping.release(context())]
    assert got == SAMPLES[name]["released"] != []


@each_row(("name", "sample"), of_all("answers"))
def test_an_answer_accepts_or_rejects_a_setpoint_as_documented(name: str, sample: dict[str, Any]) -> None:
    mapping = load(name)
    first = SAMPLES[name]["sent"][0]["setpoint"]
    _, values = mapping.write(Setpoint(**{"seq": 0, **first}), context())
    payload = sample["payload"].encode()
    found = [a for r in mapping.answers if (a := r.read(sample["topic"], payload, values)) is not None]
    assert (found[0].accepted if found else None) is sample["accepted"]
    assert sample.get("reason", "") in (found[0].reason if found else "")


@each_row("name", PROFILES)
def test_what_keeps_the_device_talking_is_as_documented(name: str) -> None:
    got = []
    for keepalive in load(name).keepalives:
        first, again = (keepalive.message(context(), {}, first=first) for first in (True, False))
        assert first is not None
        assert again is not None
        got.append(
            {
                "topic": first.topic,
                "first": first.payload.decode(),
                "again": again.payload.decode(),
                "period_s": keepalive.table.period_s,
            }
        )
    assert got == SAMPLES[name]["keepalives"]


@each_row("name", PROFILES)
def test_every_topic_with_a_sample_is_subscribed_and_every_subscribed_topic_has_a_sample(name: str) -> None:
    samples = [*SAMPLES[name]["received"], *SAMPLES[name]["answers"]]
    with_sample = {sample["topic"] for sample in samples}
    assert set(load(name).topic_filters()) - ALIKE == with_sample - ALIKE


@each_row("name", PROFILES)
def test_garbage_on_any_topic_is_told_or_means_nothing(name: str) -> None:
    mapping = load(name)
    for payload in (b"\xff\xfe", b"[1, 2", b'{"value": NaN}', b"[[[]]]", b"Infinity"):
        state = VendorState(mapping)
        for topic in mapping.topic_filters():
            taken = state.take(topic, payload, 0.0)
            if taken is not None:
                assert all(problem.startswith(topic) for problem in taken.problems), payload
                assert not any(taken.fields.values()), payload


@each_row("name", [n for n in PROFILES if SAMPLES[n]["parameters"]])
def test_a_missing_parameter_is_named_with_what_it_is(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mapping(
            f"device_profiles/{name}.toml", agent="MG1", device="ess", source="site.toml: MG1.ess.mapping"
        )
    needed = {k for k in SAMPLES[name]["parameters"] if k != "sign"} - defaults(name)
    assert {p.split("parameters.")[1].split(":")[0] for p in caught.value.problems} == needed
    assert all("site.toml: MG1.ess.mapping" in p and "must be given: " in p for p in caught.value.problems)


def test_a_second_switch_of_the_same_shelly_is_another_parameter() -> None:
    mapping = load("shelly_gen2", id=3)
    assert "shellyplusplugs-3ce90e304de4/status/switch:3" in mapping.topic_filters()
    [message] = mapping.encode(Setpoint(p_mw=0.0, lease_s=1.0, seq=0))
    assert json.loads(message.payload)["params"] == {"id": 3, "on": False}


def test_what_each_profile_can_be_told_is_as_its_header_says() -> None:
    told = {name: sorted(load(name).sets) for name in PROFILES}
    only_read = {"bms_json", "openems", "shelly_3em", "smlreader", "tasmota_sml"}
    assert {name for name, sets in told.items() if not sets} == only_read
    with_number = {name: sets for name, sets in told.items() if len(sets) > 1}
    assert with_number == {
        "shelly_gen2": ["lease_s", "p_mw", "seq"],
        "tasmota_plug": ["lease_s", "p_mw"],
        "zendure": ["p_mw", "seq"],
    }


def test_a_setpoint_for_a_box_that_can_only_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes no setpoints"):
        load("openems").encode(Setpoint(p_mw=0.0, lease_s=1.0))


def test_every_key_of_a_mapping_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "device-mappings.md").read_text()
    for table in ALL_TABLES:
        for name, field in table.model_fields.items():
            key = field.alias or name
            assert f"`{key}`" in text or f"{key} =" in text, f"{table.__name__}.{key}"


def test_every_profile_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "device-mappings.md").read_text()
    for name in SHIPPED:
        assert f"`{name}.toml`" in text, name


def test_the_examples_in_the_documentation_are_mappings() -> None:
    text = (Path(__file__).parents[4] / "docs" / "device-mappings.md").read_text()
    examples = [tomllib.loads(textwrap.dedent(e)) for e in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    devices = [
        device
        for example in examples
        for microgrid in example.get("microgrids", {}).values()
        for device in microgrid["devices"].values()
    ]
    mappings = [d["mapping"] for d in devices if "mapping" in d] + [
        e for e in examples if e.keys() & {"telemetry", "registers"}
    ]
    assert len(mappings) + sum("broker" in d for d in devices) == len(examples) == 17
    heater = next(m for m in mappings if isinstance(m, dict) and m.get("parameters") == {"name": "heater"})
    for mapping in mappings:
        load_mapping(mapping, agent="MG1", device="ess", source="docs")
    [on] = load_mapping(heater, agent="MG1", device="ess", source="docs").encode(
        Setpoint(p_mw=-0.001, lease_s=60.0)
    )
    assert json.loads(on.payload) == {"state": "ON", "on_time": 60}
    for broker in (d["broker"] for d in devices if "broker" in d):
        DeviceBrokerTable.model_validate(broker)
    for modbus in (d["modbus"] for d in devices if "modbus" in d):
        DeviceModbusTable.model_validate(modbus)
