"""By what a shipped profile is known: its topics as patterns, and what their payloads must hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jmespath
import jmespath.exceptions

from heron_mqtt.app.probe.listen import TopicHeard
from heron_mqtt.app.probe.meaning import guess

_PLACE = re.compile(r"\{(\w+)\}|\+")
_OURS = {"agent", "device"}
LONG = 8  # characters of a key that distinguishes it from others by itself


@dataclass(slots=True)
class TopicSign:
    """One topic of a profile.

    Attributes:
        text: As the profile has it.
        fields: What is read from its payloads: quantity (empty = a raw input) and JMESPath (empty = all).
        words: That its payloads may be, of availability; with the path to them.
        is_own: The device publishes it without being polled, and it is enough to recognise it (``known_by``).
        is_text: Its payloads are one value, and no JSON of several.
    """

    text: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    words: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    is_own: bool = False
    is_text: bool = False

    @property
    def weight(self) -> int:
        """How many words of its own it has: without one it fits everything."""
        return sum(len(part) > 1 for part in re.split(r"[/{}+]", _PLACE.sub("/", self.text)))

    @property
    def places(self) -> list[str]:
        """The placeholders in it."""
        return [place[1] for place in _PLACE.finditer(self.text) if place[1] and place[1] not in _OURS]

    @property
    def is_all_parameter(self) -> bool:
        """Whether it is one placeholder and nothing else."""
        return _PLACE.fullmatch(self.text) is not None

    def match(self, topic: str) -> dict[str, str] | None:
        """Return the parameters with which it is this topic."""
        hit = _expression(self.text).fullmatch(topic)
        return None if hit is None else hit.groupdict()

    def contradicts(self, heard: TopicHeard, parameters: Mapping[str, str], named: set[str]) -> bool:
        """Whether the payloads hold nothing of what is read from them.

        Args:
            heard: With its payloads.
            parameters: What the placeholders in paths are.
            named: Placeholders that stand in this topic alone: they name what is measured.
        """
        if self.is_text and any(isinstance(each, dict | list) for each in heard.documents()):
            return True
        paths = [_filled(path, parameters) for _, path in self.fields]
        if paths and all(path and _PLACE.search(path) is None for path in paths):
            documents = heard.documents()
            if documents and not any(found(d, path) is not None for d in documents for path in paths):
                return True
        filled = [(quantity, _filled(path, parameters)) for quantity, path in self.fields if quantity]
        open_paths = [(quantity, path) for quantity, path in filled if _PLACE.search(path) is not None]
        if heard.documents() and any(
            all(what not in {quantity, ""} for _, what in _leaves_like(path, heard))
            for quantity, path in open_paths
        ):
            return True
        quantities = {quantity for quantity, path in self.fields if quantity and not path}
        if not quantities or not named.intersection(self.places):
            return False
        meant = {g.quantity for text in heard.texts() if (g := guess(heard.topic, "", text)) is not None}
        return bool(meant) and meant.isdisjoint(quantities)

    def says_a_word(self, heard: TopicHeard) -> bool:
        """Whether its payload is one of the words of availability."""
        for path, words in self.words:
            said: Any = heard.text if not path else next((found(d, path) for d in heard.documents()), None)
            if isinstance(said, str) and said.lower() in words:
                return True
        return False

    def is_told_by(self, heard: TopicHeard, defaults: Mapping[str, str]) -> bool:
        """Whether all that is read by a name of its own is in the payload, as numbers."""
        paths = [_filled(path, defaults) for _, path in self.fields if path]
        if not paths or not any(len(path) >= LONG for path in paths):
            return False
        return any(all(_is_number(found(d, path)) for path in paths) for d in heard.documents())

    def parameters_within(self, heard: TopicHeard) -> dict[str, str]:
        """Return the parameters of its paths, if just one value in the payload can be meant."""
        told: dict[str, str] = {}
        for quantity, path in self.fields:
            if quantity and _PLACE.search(path) is not None:
                meant = [hit for hit, what in _leaves_like(path, heard) if what == quantity]
                if len(meant) == 1:
                    told |= meant[0]
        return told


def signs_of(table: Mapping[str, Any]) -> list[TopicSign]:
    """Return by what a profile is known, one for each of its topics."""
    signs: dict[str, TopicSign] = {}

    def sign(topic: str) -> TopicSign:
        return signs.setdefault(topic, TopicSign(topic))

    for one in table.get("telemetry", []):
        for topic in _topics(one):
            sign(topic).fields += _fields(one)
            sign(topic).is_text = one.get("format") == "text"
    for one in table.get("availability", []):
        words = frozenset(str(w).lower() for key in ("online", "offline", "fault") for w in one.get(key, []))
        for topic in _topics(one):
            sign(topic).words.append((str(one.get("path", "")), words))
    for topic in table.get("known_by", []):
        sign(topic).is_own = True
    return list(signs.values())


def found(document: Any, path: str) -> Any:
    """Return what a path finds; None = nothing."""
    try:
        return jmespath.search(path, document)
    except (jmespath.exceptions.JMESPathError, TypeError, ValueError, RecursionError):
        return None


def _leaves_like(path: str, heard: TopicHeard) -> list[tuple[dict[str, str], str]]:
    """Return the values that a path with placeholders may mean: the placeholders, and what each value is."""
    expression = _expression(path.replace('"', ""), separator=".")
    found = []
    for leaf, value in dict(heard.values_within()).items():
        hit = expression.fullmatch(leaf.replace('"', ""))
        if hit is not None:
            meant = guess(heard.topic, leaf, value)
            found.append((hit.groupdict(), "" if meant is None else meant.quantity))
    return found


def _topics(table: Mapping[str, Any]) -> list[str]:
    given = table.get("topic", [])
    return [given] if isinstance(given, str) else list(given)


def _fields(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section in ("fields", "inputs"):
        for name, keys in table.get(section, {}).items():
            if isinstance(keys, Mapping):
                yield name if section == "fields" else "", str(keys.get("path", ""))


def _filled(path: str, parameters: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: parameters.get(place[1] or "", place[0]), path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@lru_cache(maxsize=1_000)
def _expression(text: str, separator: str = "/") -> re.Pattern[str]:
    parts, seen, at = [], set(), 0
    level = f"[^{re.escape(separator)}]+"
    for place in _PLACE.finditer(text):
        parts.append(re.escape(text[at : place.start()]))
        name = place[1]
        if name is None or name in _OURS:
            parts.append(level)
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            seen.add(name)
            # a prefix may have several levels
            parts.append(f"(?P<{name}>{'.+' if place.start() == 0 and separator == '/' else level})")
        at = place.end()
    return re.compile("".join(parts) + re.escape(text[at:]))
