"""Known devices: the shipped profiles that fit the received topics, with the parameters in these topics."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.app.probe.listen import ListenResult
from heron_mqtt.app.probe.profile_signs import TopicSign, signs_of
from heron_mqtt.config import shipped_config

LEAST_SHARE = 0.5  # of a profile's topics that must be there


@dataclass(frozen=True, slots=True)
class ProfileMatch:
    """A shipped profile that fits what was heard.

    Attributes:
        profile: Its file, as a mapping names it.
        name: Of the device.
        parameters: Read from topics and payloads; a number where the profile's default is one.
        missing: Parameters that they do not tell, and that have no default, with what each is.
        topics: That fit.
        share: Of the profile's topics that are there, 0 to 1.
        is_asked: The device may publish more only if its mapping polls it, which a listener does not.
    """

    profile: str
    name: str
    parameters: Mapping[str, str | int | float]
    missing: Mapping[str, str]
    topics: tuple[str, ...]
    share: float
    is_asked: bool = False


@dataclass(slots=True)
class _Candidate:
    """One device of one profile: which of its topics were received where."""

    profile: str
    table: Mapping[str, Any]
    signs: list[TopicSign]
    parameters: dict[str, str]
    hits: dict[str, str] = field(default_factory=dict)  # a topic of the profile -> one that was heard

    @property
    def declared(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.table.get("parameters", {})
        return found

    @property
    def weight(self) -> int:
        """How much its topics say: a profile of few common words does not win over one of many."""
        return sum(sign.weight for sign in self.signs if sign.text in self.hits)

    @property
    def share(self) -> float:
        telling = [sign for sign in self.signs if sign.weight and not sign.is_own]
        there = [sign for sign in telling if sign.text in self.hits]
        return len(there) / len(telling) if telling else LEAST_SHARE * bool(self.hits)

    @property
    def is_known(self) -> bool:
        there = [sign for sign in self.signs if sign.text in self.hits]
        # That something is online says little of what it is.
        telling = [sign for sign in self.signs if sign.weight and sign.fields]
        measures = not telling or any(sign.fields for sign in there)
        own = any(sign.is_own for sign in there)
        return bool(there) and (own or (measures and self.share >= LEAST_SHARE))

    def without(self, claimed: set[str]) -> None:
        """Leave out topics by which another device is known."""
        self.hits = {text: topic for text, topic in self.hits.items() if topic not in claimed}

    def match(self) -> ProfileMatch:
        missing = {
            name: str(spec.get("description", ""))
            for name, spec in self.declared.items()
            if name not in self.parameters and "default" not in spec
        }
        return ProfileMatch(
            self.profile,
            str(self.table.get("name", self.profile)),
            {name: _typed(text, self.declared.get(name, {})) for name, text in self.parameters.items()},
            missing,
            tuple(self.hits.values()),
            self.share,
            bool(self.table.get("keepalive")) and self.share < 1.0,
        )


def profiles_that_fit(heard: ListenResult) -> list[ProfileMatch]:
    """Return the profiles that fit, the surest first: one match a device, one device a topic."""
    by_topic: list[_Candidate] = []
    tables = {}
    for path in sorted((shipped_config() / "device_profiles").glob("*.toml")):
        table = tomllib.loads(path.read_text("utf-8"))
        if "registers" not in table:  # on Modbus: it says nothing here
            tables[f"device_profiles/{path.name}"] = table
            by_topic += _by_topics(f"device_profiles/{path.name}", table, heard)
    chosen, claimed = [], set[str]()
    for one in sorted(by_topic, key=lambda each: (-each.weight, -each.share, each.profile)):
        one.without(claimed)
        if one.is_known:
            chosen.append(one)
            claimed |= set(one.hits.values())
    for profile, table in tables.items():
        for one in _by_payload(profile, table, heard, claimed):
            chosen.append(one)
            claimed |= set(one.hits.values())
    for one in chosen:
        _tell_the_rest(one, heard, claimed)
    return [one.match() for one in chosen]


def _by_topics(profile: str, table: Mapping[str, Any], heard: ListenResult) -> list[_Candidate]:
    signs = signs_of(table)
    # Without a word of its own a topic fits everything: only those with one are evidence.
    telling = [sign for sign in signs if sign.weight]
    declared = table.get("parameters", {})
    places = [name for sign in telling for name in sign.places]
    named = {name for name in places if places.count(name) == 1}
    boxes: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for sign in telling:
        for topic, each in heard.topics.items():
            hit = sign.match(topic)
            if hit is None or sign.contradicts(each, _defaults(declared) | hit, named):
                continue
            box = tuple(sorted((k, v) for k, v in hit.items() if k in declared))
            boxes.setdefault(box, {})[sign.text] = topic
    joined = _joined(boxes, set(_defaults(declared).items()))
    return [_Candidate(profile, table, signs, parameters, hits) for parameters, hits in joined]


def _typed(text: str, spec: Mapping[str, Any]) -> str | int | float:
    """Return a parameter as its default is: a placeholder in JSON becomes a number or a text by that."""
    kind = type(spec.get("default"))
    if kind in {int, float}:
        with contextlib.suppress(ValueError):
            number: int | float = kind(text)
            return number
    return text


def _defaults(declared: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: str(spec["default"]) for name, spec in declared.items() if "default" in spec}


def _joined(
    boxes: Mapping[tuple[tuple[str, str], ...], dict[str, str]], usual: set[tuple[str, str]]
) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Put together what belongs to one device: parameters that do not contradict each other.

    What has a default is more likely that than something else.
    """
    found: list[tuple[dict[str, str], dict[str, str]]] = []
    for box, hits in sorted(boxes.items(), key=lambda item: (-len(item[0]), not set(item[0]) <= usual)):
        for parameters, together in found:
            if all(parameters.get(name, value) == value for name, value in box):
                parameters.update(box)
                together.update(hits)
                break
        else:
            found.append((dict(box), dict(hits)))
    return found


def _by_payload(
    profile: str, table: Mapping[str, Any], heard: ListenResult, claimed: set[str]
) -> list[_Candidate]:
    """Recognise a profile whose topic is all parameter by the keys of its JSON."""
    declared = table.get("parameters", {})
    signs = signs_of(table)
    found = []
    for sign in signs:
        if not sign.is_all_parameter:
            continue
        for topic, each in heard.topics.items():
            if topic in claimed or not sign.is_told_by(each, _defaults(declared)):
                continue
            parameters = dict.fromkeys(sign.places, topic)
            found.append(_Candidate(profile, table, signs, parameters, {sign.text: topic}))
    return found


def _tell_the_rest(box: _Candidate, heard: ListenResult, claimed: set[str]) -> None:
    """Look in payloads for the parameters that topics do not tell."""
    for sign in box.signs:
        if sign.text in box.hits:
            told = sign.parameters_within(heard.topics[box.hits[sign.text]])
            box.parameters |= {k: v for k, v in told.items() if k not in box.parameters}
        elif sign.is_all_parameter and sign.words and sign.places[0] not in box.parameters:
            there = [t for t, each in heard.topics.items() if t not in claimed and sign.says_a_word(each)]
            if len(there) == 1:
                box.parameters[sign.places[0]] = box.hits[sign.text] = there[0]
                claimed.add(there[0])
