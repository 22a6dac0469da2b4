"""Announcements of devices: Home Assistant discovery, Tasmota, Shelly, Zigbee2MQTT."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.app.probe.listen import ListenResult


@dataclass(frozen=True, slots=True)
class Announced:
    """An announcement of a device.

    Attributes:
        how: Home Assistant, Tasmota, Shelly or Zigbee2MQTT.
        name: Of the device.
        says: What it offers: name, topic and unit.
    """

    how: str
    name: str
    says: tuple[tuple[str, str, str], ...] = field(default=())


def announced(heard: ListenResult) -> list[Announced]:
    """Return the announcements of devices."""
    found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for topic, one in heard.topics.items():
        levels = topic.split("/")
        said = _table(one.sample)
        if levels[-1] == "config" and len(levels) >= 4 and said is not None and "homeassistant" in levels[0]:
            box = said.get("device") or said.get("dev") or {}
            name = str(box.get("name", levels[-2])) if isinstance(box, dict) else levels[-2]
            state = str(said.get("state_topic") or said.get("stat_t") or "")
            base = str(said.get("~", ""))
            unit = str(said.get("unit_of_measurement") or said.get("unit_of_meas") or "")
            what = str(said.get("name") or said.get("device_class") or levels[-2])
            found.setdefault(("Home Assistant", name), []).append((what, state.replace("~", base), unit))
        elif levels[:2] == ["tasmota", "discovery"] and said is not None:
            name = str(said.get("dn") or said.get("t") or levels[2])
            found.setdefault(("Tasmota", name), []).append(("topic", f"tele/{said.get('t', '?')}/SENSOR", ""))
        elif levels[0] == "tele" and len(levels) == 3:
            found.setdefault(("Tasmota", levels[1]), []).append((levels[2], topic, ""))
        elif levels[0] == "shellies" and len(levels) >= 3:
            found.setdefault(("Shelly", levels[1]), []).append(("/".join(levels[2:]), topic, ""))
        elif topic == "zigbee2mqtt/bridge/devices":
            for each in _list(one.sample):
                name = str(each.get("friendly_name", "?")) if isinstance(each, dict) else "?"
                found.setdefault(("Zigbee2MQTT", name), []).append(("state", f"zigbee2mqtt/{name}", ""))
        elif len(levels) == 3 and levels[1] == "events" and levels[2] == "rpc":
            found.setdefault(("Shelly", levels[0]), []).append(("events", topic, ""))
    return [Announced(how, name, tuple(says[:20])) for (how, name), says in sorted(found.items())]


def _table(payload: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _list(payload: bytes) -> list[Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return []
    return found[:200] if isinstance(found, list) else []
