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
from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor._mapping import tables
from heron_mqtt.messages import Setpoint

SAMPLES = {
    p.stem: json.loads(p.read_text()) for p in (Path(__file__).parent / "device_profiles").glob("*.json")
}
ALL_TABLES = [
    t for t in vars(tables).values() if isinstance(t, type) and issubclass(t, Table) and t is not Table
]
PROFILES = sorted(p.stem for p in shipped_config().glob("device_profiles/*.toml"))


def load(name: str, **parameters: Any) -> DeviceMapping:
    given = {
        "profile": f"device_profiles/{name}.toml",
        "parameters": {**SAMPLES[name]["parameters"], **parameters},
    }
    return load_mapping(given, agent="MG1", device="ess", source="test.toml: mapping")


def of_all(what: str) -> list[Any]:
    return [
        pytest.param(name, sample, id=f"{name}-{i}")
        for name, samples in sorted(SAMPLES.items())
        for i, sample in enumerate(samples[what])
    ]


def test_every_shipped_profile_has_samples() -> None:
    assert sorted(SAMPLES) == PROFILES


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_says_where_its_facts_come_from_and_what_the_box_cannot_do(name: str) -> None:
    header = (shipped_config() / "device_profiles" / f"{name}.toml").read_text().split("\n\n")[0]
    assert "# Source" in header
    assert "cannot do" in (shipped_config() / "device_profiles" / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_every_parameter_that_a_profile_declares_is_used_in_it(name: str) -> None:
    text = (shipped_config() / "device_profiles" / f"{name}.toml").read_text()
    for parameter in tomllib.loads(text).get("parameters", {}):
        assert f"{{{parameter}}}" in text, parameter


@pytest.mark.parametrize(("name", "sample"), of_all("received"))
def test_a_recorded_payload_means_what_it_should(name: str, sample: dict[str, Any]) -> None:
    assert sample["source"]
    decoded = load(name).decode(sample["topic"], sample["payload"].encode())
    assert decoded is not None
    assert decoded.fields.keys() == sample["fields"].keys()
    for field, value in sample["fields"].items():
        assert decoded.fields[field] == (value if value is None else pytest.approx(value, rel=1e-12))
    assert (decoded.status.state if decoded.status else None) == sample.get("state")


@pytest.mark.parametrize(("name", "sample"), of_all("sent"))
def test_a_setpoint_becomes_exactly_the_documented_messages(name: str, sample: dict[str, Any]) -> None:
    assert sample["source"]
    sent = load(name).encode(Setpoint(**sample["setpoint"] | {"seq": sample["setpoint"].get("seq", 0)}))
    assert [{"topic": m.topic, "payload": m.payload.decode()} for m in sent] == sample["messages"]
    assert not any(m.retain for m in sent)


@pytest.mark.parametrize("name", PROFILES)
def test_what_keeps_the_box_talking_is_as_documented(name: str) -> None:
    assert [
        {
            "topic": k.first.topic,
            "first": k.first.payload.decode(),
            "again": k.again.payload.decode(),
            "period_s": k.period_s,
        }
        for k in load(name).keepalives()
    ] == SAMPLES[name]["keepalives"]


@pytest.mark.parametrize("name", PROFILES)
def test_every_topic_with_a_sample_is_subscribed_and_every_subscribed_topic_has_a_sample(name: str) -> None:
    with_sample = {sample["topic"] for sample in SAMPLES[name]["received"]}
    assert set(load(name).topic_filters()) == with_sample


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("payload", [b"\xff\xfe", b"[1, 2", b'{"value": NaN}', b"[[[]]]", b"Infinity"])
def test_garbage_on_any_topic_is_refused_or_means_nothing(name: str, payload: bytes) -> None:
    mapping = load(name)
    for topic in mapping.topic_filters():
        refusal, fields = "", {}
        try:
            decoded = mapping.decode(topic, payload)
            assert decoded is not None
            fields = dict(decoded.fields)
        except MessageError as exc:
            refusal = str(exc)
        assert refusal.startswith(topic) if refusal else not any(fields.values())


@pytest.mark.parametrize("name", [n for n in PROFILES if SAMPLES[n]["parameters"]])
def test_a_missing_parameter_is_named_with_what_it_is(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mapping(
            f"device_profiles/{name}.toml", agent="MG1", device="ess", source="site.toml: MG1.ess.mapping"
        )
    needed = {k for k in SAMPLES[name]["parameters"] if k != "sign"}
    assert {p.split("parameters.")[1].split(":")[0] for p in caught.value.problems} == needed
    assert all("site.toml: MG1.ess.mapping" in p and "must be given: " in p for p in caught.value.problems)


def test_a_second_switch_of_the_same_shelly_is_another_parameter() -> None:
    mapping = load("shelly_gen2", id=3)
    assert "shellyplusplugs-3ce90e304de4/status/switch:3" in mapping.topic_filters()
    [message] = mapping.encode(Setpoint(p_mw=0.0, lease_s=1.0, seq=0))
    assert json.loads(message.payload)["params"] == {"id": 3, "on": False}


def test_what_each_profile_can_be_told_is_as_its_header_says() -> None:
    assert {name: sorted(load(name).sets) for name in PROFILES} == {
        "home_assistant": ["p_mw"],
        "openems": [],
        "shelly_gen2": ["lease_s", "p_mw", "seq"],
        "tasmota_plug": ["lease_s", "p_mw"],
        "victron_venus": ["p_mw"],
        "zigbee2mqtt_plug": ["p_mw"],
    }


def test_a_setpoint_for_a_box_that_can_only_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes no setpoints"):
        load("openems").encode(Setpoint(p_mw=0.0, lease_s=1.0))


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda t: t.__name__)
def test_every_key_of_a_mapping_is_in_the_documentation(table: type[Table]) -> None:
    text = (Path(__file__).parents[4] / "docs" / "device-mappings.md").read_text()
    for name, field in table.model_fields.items():
        key = field.alias or name
        assert f"`{key}`" in text or f"{key} =" in text, f"{table.__name__}.{key}"


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_in_the_documentation(name: str) -> None:
    assert f"`{name}.toml`" in (Path(__file__).parents[4] / "docs" / "device-mappings.md").read_text()


def test_the_examples_in_the_documentation_are_mappings() -> None:
    text = (Path(__file__).parents[4] / "docs" / "device-mappings.md").read_text()
    examples = [tomllib.loads(textwrap.dedent(e)) for e in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    mappings: list[Any] = [
        device["mapping"]
        for example in examples
        for microgrid in example.get("microgrids", {}).values()
        for device in microgrid["devices"].values()
    ]
    heater = next(m for m in mappings if "profile" not in m)  # shown as additions to a profile
    heater |= {"profile": "device_profiles/zigbee2mqtt_plug.toml", "parameters": {"name": "p"}}
    mappings += [e for e in examples if "telemetry" in e]
    assert len(mappings) == 4
    for mapping in mappings:
        load_mapping(mapping, agent="MG1", device="ess", source="docs")
    [on] = load_mapping(heater, agent="MG1", device="ess", source="docs").encode(
        Setpoint(p_mw=-0.001, lease_s=60.0)
    )
    assert json.loads(on.payload) == {"state": "ON", "on_time": 60}
