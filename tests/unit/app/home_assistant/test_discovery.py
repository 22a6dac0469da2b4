"""Home Assistant is told what it understands: keys, classes, units, and templates that read our messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import jsonschema

from heron_mqtt.app.home_assistant.discovery import discovery
from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.messaging.base import Received
from powergrid.scenario import HomeAssistantTable, Scenario, load_scenario
from support.rows import each_row

SCHEMA = json.loads((Path(__file__).parents[3] / "support" / "home_assistant_schema.json").read_text("utf-8"))
TOPIC = re.compile(r"homeassistant/(sensor|binary_sensor|switch)/([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)/config")
ENV = "heron/three_microgrids"


def scenario(**changes: Any) -> Scenario:
    return load_scenario("three_microgrids").scenario.model_copy(update=changes)


def entities(*, stop_switch: bool = False, **changes: Any) -> dict[str, dict[str, Any]]:
    return discovery(scenario(**changes), HomeAssistantTable(stop_switch=stop_switch))


def config(entity: str, **options: Any) -> dict[str, Any]:
    (found,) = [one for topic, one in entities(**options).items() if topic.endswith(f"/{entity}/config")]
    return found


def test_every_configuration_is_one_that_home_assistant_takes() -> None:
    validator = jsonschema.validators.validator_for(SCHEMA)
    takes = {kind: validator({**SCHEMA, "$ref": f"#/$defs/{kind}"}) for kind in SCHEMA["$defs"]}
    validator.check_schema(SCHEMA)
    for topic, told in entities(stop_switch=True).items():
        found = TOPIC.fullmatch(topic)
        assert found is not None, topic
        assert found[1] in takes, topic
        assert [f"{topic}: {error.message}" for error in takes[found[1]].iter_errors(told)] == []


def test_identities_are_unique_and_of_one_environment() -> None:
    here, there = entities(), entities(env_id="other")
    assert len({one["unique_id"] for one in here.values()}) == len(here)
    assert not set(here) & set(there)
    assert not {one["unique_id"] for one in here.values()} & {one["unique_id"] for one in there.values()}
    known = {identifier for one in here.values() for identifier in one["device"]["identifiers"]}
    assert {one["device"]["via_device"] for one in here.values() if "via_device" in one["device"]} <= known


def test_names_that_differ_never_meet() -> None:
    grids = scenario().microgrids
    odd = {"MG1": grids["MG1"], "MG1_ess": grids["MG2"], "MG1.x": grids["MG3"], "MG1_2e_x": grids["MG2"]}
    found = entities(microgrids=odd)
    assert len({one["unique_id"] for one in found.values()}) == len(found)


@each_row(
    ("entity", "message", "state"),
    [
        ("price", {"value": 61.8}, "61.8"),
        ("running", {"state": "running"}, "ON"),
        ("running", {"state": "lost"}, "OFF"),
        ("MG1_load", {"p_load_mw": -0.0705}, "-70.5"),
        ("MG1_vm_min_pu", {"vm_min_pu": 0.97}, "0.97"),
        ("MG1_vm_min_pu", {}, "None"),
        ("MG1_ess_power", {"p_mw": 0.0123}, "12.3"),
        ("MG1_ess_reactive_power", {"q_mvar": 0.002}, "2.0"),
        ("MG1_ess_soc", {"soc": 0.555}, "55.5"),
        ("MG1_ess_soc", {"p_mw": 0.0}, "None"),
        ("MG1_ess_safe", {"p_mw": 0.0, "safe": True}, "ON"),
        ("MG1_ess_fault", {"state": "fault"}, "ON"),
        ("stopped", {"active": True}, "ON"),
        ("stopped", {"active": False}, "OFF"),
        ("stopped", {"active": "no"}, "ON"),
        ("stopped", {}, "ON"),
        ("stopped", None, "ON"),
    ],
)
def test_a_template_reads_our_message(entity: str, message: Any, state: str) -> None:
    reader = jinja2.Environment()
    template = config(entity)["value_template"]
    given = {} if message is None else {"value_json": message}
    assert reader.from_string(template).render(**given) == state


def test_topics_are_those_of_the_wire_contract() -> None:
    assert config("MG1_ess_power")["state_topic"] == f"{ENV}/devices/MG1/ess/telemetry"
    assert config("MG1_ess_power")["availability"][0]["topic"] == f"{ENV}/devices/MG1/ess/status"
    assert config("MG1_load")["state_topic"] == f"{ENV}/agents/MG1/observation"
    assert config("price")["state_topic"] == f"{ENV}/operators/system_operator/price"
    assert [one for one in entities() if one.endswith("_gen_soc/config")] == []


def test_the_stop_is_a_switch_only_where_asked_and_is_one_that_devices_obey() -> None:
    assert not [topic for topic in entities() if topic.startswith("homeassistant/switch/")]
    assert not [one for one in entities().values() if "command_topic" in one]
    switch = config("stop", stop_switch=True)
    assert (switch["command_topic"], switch["retain"]) == (f"{ENV}/estop", True)
    register = StopRegister("three_microgrids")
    assert register.take(Received(json.loads(switch["payload_on"]), "estop", False)) == "stopped"
    assert register.take(Received(json.loads(switch["payload_off"]), "estop", False)) == "released"
