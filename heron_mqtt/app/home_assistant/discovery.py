"""What Home Assistant gets about a scenario: one configuration for each topic, for its MQTT discovery.

Source: Home Assistant's documentation, "MQTT" (discovery topic, options), "MQTT Sensor", "MQTT binary
sensor", "MQTT Switch", and its lists of device classes with their units.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from heron_mqtt.json_object import Json
from heron_mqtt.messaging import topics
from powergrid.devices import DeviceSpecBase
from powergrid.scenario import HomeAssistantTable, Scenario

STOPPED = "{{ 'OFF' if value_json is defined and value_json.active is false else 'ON' }}"
"""Whatever is no release is a stop, also what cannot be read; what was never said is unknown."""
WHO = "home assistant"


def discovery(scenario: Scenario, table: HomeAssistantTable, *, before: str = "") -> dict[str, Json]:
    """Return the configuration of every entity by its topic, to be published retained as JSON.

    Args:
        scenario: Names devices and microgrids.
        table: How they are announced.
        before: What stands before every topic of ours at the broker, with its last ``/``.
    """
    return {
        f"{table.prefix}/{component}/{node_id(scenario)}/{entity}/config": config
        for component, entity, config in _entities(scenario, table, before)
    }


def node_id(scenario: Scenario) -> str:
    """Return what stands in the topics of one environment, and of no other."""
    return f"heron_{_slug(scenario.topic_env_id)}"


def discovery_filter(scenario: Scenario, prefix: str) -> str:
    """Return the filter of everything that is announced of one environment."""
    return f"{prefix}/+/{node_id(scenario)}/+/config"


def _entities(scenario: Scenario, table: HomeAssistantTable, before: str) -> Iterator[tuple[str, str, Json]]:
    names = _Names(scenario, before)
    yield from _of_run(names, scenario, table)
    for agent, microgrid in scenario.microgrids.items():
        yield from _of_microgrid(names, agent)
        for name, device in microgrid.devices.items():
            yield from _of_device(names, agent, name, device.spec)


class _Names:
    """Topics and identities of one environment."""

    def __init__(self, scenario: Scenario, before: str) -> None:
        self.node = node_id(scenario)
        self.env_id = scenario.topic_env_id
        self._before = before
        self._topics = topics.TopicMap(scenario.topic_env_id)

    def topic(self, channel: str) -> str:
        return self._before + self._topics.topic(channel)

    def entity(self, place: str, quantity: str, label: str, of: Json, **more: Any) -> tuple[str, Json]:
        """Return the identity of an entity, and its configuration with what every one has."""
        entity = f"{_slug(place)}_{quantity}" if place else quantity
        return entity, {
            "name": label,
            "unique_id": f"{self.node}_{entity}",
            "device": of,
            "origin": {"name": "heron-mqtt", "sw_version": version("heron-mqtt")},
            **more,
        }

    def run(self) -> Json:
        return {"identifiers": [self.node], "name": self.env_id, "manufacturer": "heron-mqtt", "model": "run"}

    def part(self, place: str, model: str, under: str | None = None) -> Json:
        """Return a microgrid or device as Home Assistant's device."""
        return {
            "identifiers": [f"{self.node}_{_slug(place)}"],
            "name": f"{self.env_id} {place}",
            "manufacturer": "heron-mqtt",
            "model": model,
            "via_device": self.node if under is None else f"{self.node}_{_slug(under)}",
        }


def _of_run(names: _Names, scenario: Scenario, table: HomeAssistantTable) -> Iterator[tuple[str, str, Json]]:
    run, estop = names.run(), names.topic(topics.ESTOP)
    price = names.topic(topics.operator_price(scenario.operator_id))
    yield (
        "sensor",
        *names.entity(
            "",
            "price",
            "Price",
            run,
            state_topic=price,
            value_template="{{ value_json.value }}",
            unit_of_measurement="USD/MWh",
            state_class="measurement",
            suggested_display_precision=2,
        ),
    )
    yield (
        "binary_sensor",
        *names.entity(
            "",
            "running",
            "Running",
            run,
            state_topic=names.topic(topics.RUN_STATE),
            value_template="{{ 'ON' if value_json.state in ['reset', 'running'] else 'OFF' }}",
            device_class="running",
        ),
    )
    yield (
        "binary_sensor",
        *names.entity(
            "",
            "stopped",
            "Emergency stop",
            run,
            state_topic=estop,
            value_template=STOPPED,
            device_class="problem",
        ),
    )
    if table.stop_switch:
        yield (
            "switch",
            *names.entity(
                "",
                "stop",
                "Stop everything",
                run,
                state_topic=estop,
                value_template=STOPPED,
                state_on="ON",
                state_off="OFF",
                command_topic=estop,
                payload_on=json.dumps({"type": "estop", "active": True, "who": WHO, "why": "switch"}),
                payload_off=json.dumps({"type": "estop", "active": False, "who": WHO, "why": "switch"}),
                retain=True,
                qos=1,
                optimistic=False,
            ),
        )


def _of_microgrid(names: _Names, agent: str) -> Iterator[tuple[str, str, Json]]:
    of = names.part(agent, "microgrid")
    told = names.topic(topics.agent(agent, "observation"))
    shared: Json = {
        "state_topic": told,
        "state_class": "measurement",
        "availability": _availability(names.topic(topics.agent(agent, "status"))),
    }
    kilowatts: Json = {"unit_of_measurement": "kW", "device_class": "power"}
    yield (
        "sensor",
        *names.entity(
            agent,
            "load",
            "Load",
            of,
            value_template="{{ (value_json.p_load_mw * 1000) | round(3) }}",
            **kilowatts,
            **shared,
        ),
    )
    for field, label in (("vm_min_pu", "Lowest voltage"), ("vm_max_pu", "Highest voltage")):
        yield (
            "sensor",
            *names.entity(
                agent,
                field,
                label,
                of,
                value_template=f"{{{{ value_json.{field} | default(none) }}}}",
                unit_of_measurement="pu",
                suggested_display_precision=4,
                **shared,
            ),
        )
    yield (
        "sensor",
        *names.entity(
            agent,
            "loading",
            "Highest loading",
            of,
            value_template="{{ value_json.loading_max_percent | default(none) }}",
            unit_of_measurement="%",
            suggested_display_precision=1,
            **shared,
        ),
    )


def _of_device(names: _Names, agent: str, name: str, spec: DeviceSpecBase) -> Iterator[tuple[str, str, Json]]:
    place = f"{agent}/{name}"
    of = names.part(place, spec.kind, under=agent)
    status = names.topic(topics.device(agent, name, "status"))
    shared: Json = {
        "state_topic": names.topic(topics.device(agent, name, "telemetry")),
        "availability": _availability(status),
    }
    yield (
        "sensor",
        *names.entity(
            place,
            "power",
            "Power",
            of,
            value_template="{{ (value_json.p_mw * 1000) | round(3) }}",
            unit_of_measurement="kW",
            device_class="power",
            state_class="measurement",
            **shared,
        ),
    )
    yield (
        "sensor",
        *names.entity(
            place,
            "reactive_power",
            "Reactive power",
            of,
            value_template="{{ (value_json.q_mvar | default(0) * 1000) | round(3) }}",
            unit_of_measurement="kvar",
            device_class="reactive_power",
            state_class="measurement",
            **shared,
        ),
    )
    if spec.has_soc:
        yield (
            "sensor",
            *names.entity(
                place,
                "soc",
                "State of charge",
                of,
                value_template="{{ (value_json.soc * 100) | round(1) if 'soc' in value_json else none }}",
                unit_of_measurement="%",
                device_class="battery",
                state_class="measurement",
                **shared,
            ),
        )
    yield (
        "binary_sensor",
        *names.entity(
            place,
            "safe",
            "Safe state",
            of,
            value_template="{{ 'ON' if value_json.safe else 'OFF' }}",
            entity_category="diagnostic",
            **shared,
        ),
    )
    yield (
        "binary_sensor",
        *names.entity(
            place,
            "fault",
            "Fault",
            of,
            state_topic=status,
            value_template="{{ 'ON' if value_json.state == 'fault' else 'OFF' }}",
            device_class="problem",
            entity_category="diagnostic",
        ),
    )


def _availability(status_topic: str) -> list[Json]:
    """Return what says whether an entity is there: ``status``, whose will is ``offline``."""
    return [
        {
            "topic": status_topic,
            "value_template": "{{ 'offline' if value_json.state == 'offline' else 'online' }}",
            "payload_available": "online",
            "payload_not_available": "offline",
        }
    ]


def _slug(name: str) -> str:
    """Return a name as discovery topics allow it; another name never gives the same."""
    return re.sub(r"[^A-Za-z0-9-]", lambda m: "_" if m[0] == "/" else f"_{ord(m[0]):x}_", name)
