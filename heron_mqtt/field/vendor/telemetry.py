"""What is read from the payloads of a topic; compiled from ``[[telemetry]]`` and ``[[availability]]``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.formula import Formula
from heron_mqtt.field.vendor.inputs import InputReader, InputValue, MissingValue, compiled
from heron_mqtt.field.vendor.numbers import shown
from heron_mqtt.field.vendor.payloads import Expression, parse, parse_json, parse_text
from heron_mqtt.field.vendor.sparkplug_node import SparkplugNode
from heron_mqtt.field.vendor.sparkplug_payload import require
from heron_mqtt.field.vendor.tables import AvailabilityTable, InputKind, InputTable, TelemetryTable
from heron_mqtt.field.vendor.topic_patterns import TopicPattern
from heron_mqtt.field.vendor.units import Complain
from heron_mqtt.field.vendor.words import Words, word_text

AvailabilityState = Literal["online", "fault", "offline"]
_KINDS: dict[str, InputKind] = {"running": "boolean"}


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What one payload gave.

    Attributes:
        values: Input -> its value, or that it is missing. What could not be read is in neither.
        problems: Input -> why it could not be read, one line.
    """

    values: Mapping[str, InputValue | MissingValue]
    problems: Mapping[str, str] = field(default_factory=dict)


class TelemetryReader:
    """All that is read from the payloads of one ``[[telemetry]]`` table."""

    def __init__(self, table: TelemetryTable, complain: Complain) -> None:
        self.table = table
        self.node_topic = _node_topic(table, complain) if table.format == "sparkplug" else None
        topics = table.topics if self.node_topic is None else list(SparkplugNode(self.node_topic).filters)
        self.patterns = patterns(topics, complain)
        self.inputs: dict[str, InputReader] = {}
        kinds: dict[str, InputKind] = {name: _KINDS.get(name, "number") for name in table.fields}
        if table.format == "text" and len(table.fields) + len(table.inputs) != 1 and not _has_places(table):
            complain(
                "fields",
                "a text payload holds one quantity; give each a pattern or a struct, or use json or csv",
            )
        places: list[tuple[str, str, InputTable]] = [
            *(("fields", name, field) for name, field in table.fields.items()),
            *(("inputs", name, given) for name, given in table.inputs.items()),
        ]
        for section, name, given in places:

            def at_place(key: str, text: str, where: str = f"{section}.{name}") -> None:
                complain(f"{where}.{key}", text)

            self.inputs[name] = InputReader(
                name,
                given,
                table.format,
                at_place,
                kinds.get(name),
                on_change=table.reports == "on_change",
                tolerant=table.tolerant,
            )
        self._when: Formula | None = None
        if table.when is not None:
            own = {name: self.inputs[name] for name in table.inputs}
            lists = [name for name, reader in own.items() if reader.kind == "numbers"]
            self._when = Formula(table.when, list(own), complain, lists=lists, key="when")
            if self._when.is_sound and not self._when.names:
                complain("when", f"{table.when!r} uses no input: it would always say the same")

    @property
    def is_answer(self) -> bool:
        """Whether all that it reads is the number of a setpoint that the device repeats."""
        return not self.table.inputs and set(self.table.fields) == {"ack_seq"}

    @property
    def has_instances(self) -> bool:
        """Whether + and {names} in its topic are instances of the device, of which one is learned."""
        return not self.is_answer and self.node_topic is None

    def parse(self, payload: bytes) -> Any:
        """Return the document of a payload.

        Raises:
            MessageError: The payload does not fit the format.
        """
        return parse(payload, self.table)

    def why_not(self, document: Any) -> str | None:
        """Return why a payload is none of those that this table reads; None if it is one of them.

        What ``when`` needs and a payload does not have, or has otherwise, makes it another kind of payload.

        Args:
            document: As ``parse`` returns it.
        """
        if self._when is None:
            return None
        known: dict[str, InputValue] = {}
        try:
            for name in self._when.names:
                value = self.inputs[name].read(document)
                if isinstance(value, MissingValue):
                    return f"when: {value.why}"
                known[name] = value
            if self._when.evaluate(known):
                return None
        except MessageError as exc:
            return f"when: {exc}"
        shown_values = ", ".join(f"{name} = {shown(value)}" for name, value in known.items())
        return f"when: {self._when.text} is not true of it ({shown_values})"

    def read(self, document: Any, names: Collection[str] | None = None) -> ReadResult:
        """Return what a document gives; what cannot be read harms only itself.

        Args:
            document: As ``parse`` returns it.
            names: Look for these inputs only; None = for all.
        """
        values: dict[str, InputValue | MissingValue] = {}
        problems: dict[str, str] = {}
        for name, reader in self.inputs.items():
            if names is not None and name not in names:
                continue
            try:
                value = reader.read(document)
            except MessageError as exc:
                problems[name] = str(exc)
                continue
            if isinstance(value, MissingValue) and reader.on_change:
                value = MissingValue(keeps=True, why=value.why)
            values[name] = value
        return ReadResult(values, problems)

    def nothing(self) -> ReadResult:
        """Return what an empty payload gives: nothing is known any more."""
        return ReadResult(
            {name: MissingValue(keeps=False, why="the payload is empty") for name in self.inputs}
        )


def patterns(given: list[str], complain: Complain) -> tuple[TopicPattern, ...]:
    """Return topics as patterns; complain about those that cannot be subscribed to."""
    found = []
    for topic in given:
        try:
            found.append(TopicPattern(topic))
        except ValueError as exc:
            complain("topic", str(exc))
    return tuple(found)


class AvailabilityReader:
    """What one topic says about whether the device is there."""

    def __init__(self, table: AvailabilityTable, complain: Complain) -> None:
        self.register = table.register_
        self.topic = table.topic or f"register {table.register_}"
        self.timeout_s = table.timeout_s
        self.patterns = () if table.topic is None else patterns([table.topic], complain)
        self._table = table
        self._path = None if table.path is None else Expression(table.path, complain, tolerant=table.tolerant)
        self._pattern = None if table.pattern is None else compiled(table.pattern, complain)
        meanings: dict[str, AvailabilityState] = {}
        states: tuple[tuple[AvailabilityState, list[str]], ...] = (
            ("online", table.online),
            ("offline", table.offline),
            ("fault", table.fault),
        )
        for state, words in states:
            for word in words:
                if word in meanings:
                    complain(state, f"{word!r} already means {meanings[word]}")
                meanings[word] = state
        self._words = Words(meanings, "online", complain)

    def read(self, payload: bytes) -> tuple[AvailabilityState, str] | None:
        """Return the state, and the word that said so; None if the payload holds no word at the path.

        Raises:
            MessageError: The word is not known, and the mapping says to ignore those.
        """
        word = parse_text(payload, self._table.encoding)
        if self._path is not None and word[:1] in {"{", "["}:
            found = self._path.search(parse_json(word, tolerant=self._table.tolerant))
            if found is None and self._words.find("null") is None:
                return None
            word = (
                "null" if found is None else word_text(found) if isinstance(found, Scalar) else shown(found)
            )
        if self._pattern is not None and (match := self._pattern.search(word[:4096])) is not None:
            word = (match[1] if self._pattern.groups else match[0]) or ""
        state = self._words.find(word, self._table.other)
        if state == "ignore":
            raise MessageError(f"availability {shown(word)}: expected one of {self._words}")
        return state, word


def _node_topic(table: TelemetryTable, complain: Complain) -> str | None:
    """Return the topic of a Sparkplug node's data, if it can be read."""
    try:
        require()
    except ConfigError as exc:
        complain("format", exc.problems[0])
        return None
    if len(table.topics) != 1:
        complain("topic", "format 'sparkplug' reads one topic a table")
        return None
    try:
        return SparkplugNode(table.topics[0]).topic
    except ValueError as exc:
        complain("topic", str(exc))
        return None


def _has_places(table: TelemetryTable) -> bool:
    return all(
        t.pattern is not None or t.struct is not None
        for t in (*table.fields.values(), *table.inputs.values())
    )
