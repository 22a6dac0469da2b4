"""Boxes that are known: by the shipped profiles, and by what announces itself at the broker."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jmespath
import jmespath.exceptions

from heron_mqtt.app.probe.listen import BoxesHeard
from heron_mqtt.config import shipped_config

_PLACE = re.compile(r"\{(\w+)\}|\+")
LEAST_SHARE = 0.5  # of a profile's topics that must be there
LONG = 8  # characters of a key that is told from others by itself


@dataclass(frozen=True, slots=True)
class ProfileMatch:
    """A shipped profile that fits what was heard.

    Attributes:
        profile: Its file, as a mapping names it.
        name: Of the device.
        parameters: Read from the topics.
        missing: Parameters that the topics do not tell, and that have no default.
        topics: That fit.
        share: Of the profile's topics that are there, 0 to 1.
    """

    profile: str
    name: str
    parameters: Mapping[str, str]
    missing: tuple[str, ...]
    topics: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True)
class Announced:
    """Something that a box says of itself.

    Attributes:
        how: Home Assistant, Tasmota, Shelly or Zigbee2MQTT.
        name: Of the box.
        says: What it offers: name, topic and unit.
    """

    how: str
    name: str
    says: tuple[tuple[str, str, str], ...] = field(default=())


def profiles_that_fit(heard: BoxesHeard) -> list[ProfileMatch]:
    """Return the shipped profiles that fit, the best first; one box is one match."""
    found = []
    for path in sorted((shipped_config() / "device_profiles").glob("*.toml")):
        table = tomllib.loads(path.read_text("utf-8"))
        if "registers" in table:
            continue  # on Modbus: it says nothing here
        name = f"device_profiles/{path.name}"
        found += _matches(name, table, heard.topics) or _by_payload(name, table, heard)
    return sorted(found, key=lambda match: (-match.share, -len(match.topics), match.profile))


def _matches(profile: str, table: Mapping[str, Any], heard: Iterable[str]) -> list[ProfileMatch]:
    patterns = list(dict.fromkeys(_topics(table)))
    declared = table.get("parameters", {})
    # Without a word of its own a topic fits everything: only those with one are evidence.
    telling = [text for text in patterns if _has_word(text)]
    if not telling:
        return []
    boxes: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for text in telling:
        expression = _expression(text)
        for topic in heard:
            if (hit := expression.fullmatch(topic)) is not None:
                box = tuple(sorted((k, v) for k, v in hit.groupdict().items() if k in declared))
                boxes.setdefault(box, {})[text] = topic
    found = []
    for box, hits in _joined(boxes).items():
        share = len(hits) / len(telling)
        parameters = dict(box)
        unknown = tuple(n for n, spec in declared.items() if n not in parameters and "default" not in spec)
        if share >= LEAST_SHARE:
            name = str(table.get("name", profile))
            found.append(ProfileMatch(profile, name, parameters, unknown, tuple(hits.values()), share))
    return found


def _has_word(text: str) -> bool:
    """Whether a topic has a level of its own, and is not made of placeholders alone."""
    return any(len(part) > 1 for part in re.split(r"[/{}+]", _PLACE.sub("/", text)))


def _by_payload(profile: str, table: Mapping[str, Any], heard: BoxesHeard) -> list[ProfileMatch]:
    """Recognise a profile whose topic is all parameter by the keys of its JSON."""
    declared = table.get("parameters", {})
    defaults = {name: str(spec["default"]) for name, spec in declared.items() if "default" in spec}
    found = []
    for one in table.get("telemetry", []):
        place = _PLACE.fullmatch(str(one.get("topic", "")))
        paths = [_PLACE.sub(lambda m: defaults.get(m[1] or "", m[0]), f["path"]) for f in _fields(one)]
        if place is None or not paths or not any(len(path) >= LONG for path in paths):
            continue
        for topic, each in heard.topics.items():
            document = _table(each.sample)
            if document is None or not all(_has_number(document, path) for path in paths):
                continue
            missing = tuple(n for n in declared if n != place[1] and n not in defaults)
            name = str(table.get("name", profile))
            parameters = {} if place[1] is None else {place[1]: topic}
            found.append(ProfileMatch(profile, name, parameters, missing, (topic,), LEAST_SHARE))
    return found


def _fields(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    fields = table.get("fields", {})
    return [f for f in fields.values() if isinstance(f, Mapping) and isinstance(f.get("path"), str)]


def _has_number(document: Any, path: str) -> bool:
    try:
        value = jmespath.search(path, document)
    except jmespath.exceptions.JMESPathError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _joined(
    boxes: Mapping[tuple[tuple[str, str], ...], dict[str, str]],
) -> dict[tuple[tuple[str, str], ...], dict[str, str]]:
    """Put together what belongs to one box: parameters that do not contradict each other."""
    found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for box, hits in sorted(boxes.items(), key=lambda item: -len(item[0])):
        for known, together in found.items():
            if all(dict(known).get(name, value) == value for name, value in box):
                together.update(hits)
                break
        else:
            found[box] = dict(hits)
    return found


def _topics(table: Mapping[str, Any]) -> Iterable[str]:
    for section in ("telemetry", "availability"):
        for one in table.get(section, []):
            given = one.get("topic", one.get("topics", []))
            yield from [given] if isinstance(given, str) else given


def _expression(text: str) -> re.Pattern[str]:
    parts, seen, at = [], set(), 0
    for place in _PLACE.finditer(text):
        parts.append(re.escape(text[at : place.start()]))
        name, level = place[1], ".+" if place.start() == 0 else "[^/]+"  # a prefix may have several levels
        if name is None or name in {"agent", "device"}:
            parts.append("[^/]+")
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            seen.add(name)
            parts.append(f"(?P<{name}>{level})")
        at = place.end()
    return re.compile("".join(parts) + re.escape(text[at:]))


def announced(heard: BoxesHeard) -> list[Announced]:
    """Return what boxes say of themselves."""
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
