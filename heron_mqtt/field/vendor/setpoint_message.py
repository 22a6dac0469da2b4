"""One message of a setpoint or release, as a mapping describes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.built_ins import NAMES as BUILT_IN_NAMES
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.command_places import CommandPlace, CommandPlaces, parts_of
from heron_mqtt.field.vendor.formula import Formula
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing, RegisterCommand
from heron_mqtt.field.vendor.parameters import PLACEHOLDER, as_text, placeholders
from heron_mqtt.field.vendor.payload_filling import (
    MessageContext,
    RenderedValue,
    filled_registers,
    filled_text,
    in_json,
    payload_bytes,
    text_of,
)
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.register_map import RegisterMap, RegisterWrite
from heron_mqtt.field.vendor.setpoint_values import QUANTITIES, SetpointValues
from heron_mqtt.field.vendor.sparkplug_payload import encode, require
from heron_mqtt.field.vendor.tables import MessageTable
from heron_mqtt.field.vendor.told_content import (
    ADDRESS_NAMES,
    COMMAND_NAMES,
    MODE_NAMES,
    RUNNING_NAMES,
    ToldContent,
    numbers_in,
    tokens,
)
from heron_mqtt.field.vendor.units import Complain
from heron_mqtt.messages import Setpoint

_LONE = re.compile(rf'"?{PLACEHOLDER.pattern}"?')
"""A text, as JSON, that is one value and nothing else."""


class MessagePlace(NamedTuple):
    """Where a message sets something.

    Attributes:
        topic: Of the message; empty for registers.
        key: The key of the mapping that says it, from the message on.
        value: The name of a value in it; empty = there is none, or it is a register.
    """

    topic: str
    key: str
    value: str = ""


class SetpointMessage:
    """One message of a setpoint or release."""

    def __init__(
        self,
        index: int,
        table: MessageTable,
        values: SetpointValues,
        registers: RegisterMap | None,
        problems: Problems,
        key: str,
    ) -> None:
        complain = problems.at(key)
        self._index = index
        self._table = table
        self._registers = registers
        self._values = values
        if (table.registers is None) != (self._registers is None):
            wanted = "registers" if table.registers is None else "topic and payload"
            problems.add(key, f"the device is on {'Modbus' if self._registers else 'MQTT'}: give {wanted}")
        elif table.registers is not None and self._registers is not None:
            self._registers.check_written(key, table.registers, problems, table.function)
        if table.metrics is not None:
            try:
                require()
            except ConfigError as exc:
                complain("metrics", exc.problems[0])
        self._formula: Formula | None = None
        self._when: dict[str, list[Scalar]] = {}
        if isinstance(table.when, str):
            self._formula = Formula(table.when, [*values.names, *QUANTITIES], complain, key="when")
        elif table.when is not None:
            self._when = table.when
            _check_when(table.when, values, complain)
        in_it = placeholders([table.topic, table.payload, table.registers])
        self.names = {
            n
            for n in (*in_it, *self._when, *(self._formula.names if self._formula else ()))
            if n in values.names
        }
        self.sent = self._valued([table.topic, table.payload, table.registers])
        """The values that stand in it, or are packed in one that does."""
        self.learned = in_it - set(values.names) - BUILT_IN_NAMES
        """The placeholders in it that are learned from the topics of the device's messages."""
        self._lasting = values.lasting(self.names)
        self.command = parts_of(
            str(table.topic or ""), table.payload if registers is None else table.registers
        )
        """What it sends, by the members of its payload, or its registers."""
        self._members = {n for part in self.command.every() for n in part.leaves if _is_pair_text(table, n)}

    def steps(self) -> Iterator[tuple[str, float]]:
        """Yield its values that stand alone in an integer of the device, and what one step of that is."""
        filled = (self._table.registers if self._registers is not None else self._table.payload) or {}
        for name, text in filled.items() if isinstance(filled, Mapping) else ():
            whole = PLACEHOLDER.fullmatch(text) if isinstance(text, str) else None
            if whole is None or whole[1] not in self._values.names:
                continue
            if self._registers is not None:
                register = self._registers.registers.get(name)
                step = None if register is None else register.step
            else:
                step = 1.0 if "Int" in (self._table.metrics or {}).get(name, "") else None
            if step is not None:
                yield whole[1], step

    @property
    def when_names(self) -> frozenset[str]:
        """The quantities by which it is decided whether it is sent."""
        formula = () if self._formula is None else self._formula.names
        made_of = (self._values[n].made_of for n in (*formula, *self._when) if n in self._values.names)
        return frozenset(formula).union(*made_of) & set(QUANTITIES)

    def carries(self, powers: Collection[str]) -> bool:
        """Whether one of these values stands in it."""
        return bool(self.sent & set(powers))

    def registers_of(self, powers: Collection[str]) -> set[str]:
        """Return the registers that hold one of these values."""
        written = self._table.registers or {}
        return {name for name, text in written.items() if placeholders([text]) & set(powers)}

    def power_places(self, powers: Collection[str], place_of: Callable[[str], str]) -> Iterator[str]:
        """Yield where it sets one of these values: a register, or a topic and the member with the value.

        Several devices behind one topic differ by what stands beside it and never changes, as an id. What
        changes with the setpoint or the time, as a lease or a number, tells no devices apart.

        Args:
            powers: The values.
            place_of: Returns a text with placeholders as it is compared with that of another mapping.
        """
        if self._registers is not None:
            for name in sorted(self.registers_of(powers)):
                table = self._registers.registers[name].table
                yield f"{table.area} {table.address}"
        elif self.carries(powers):
            topic = place_of(str(self._table.topic))
            members = {name: json.dumps(each) for name, each in self.command.members()}
            fixed = sorted(f"{name}={text}" for name, text in members.items() if place_of(text) == text)
            holding = [name for name, text in members.items() if self._holds(text, powers)]
            for name in holding or [""]:  # else it stands in the topic
                text = members.get(name, "")
                template = "" if _LONE.fullmatch(text) else place_of(text)
                yield " ".join(filter(None, (topic, place_of(name), template, *fixed)))

    def _holds(self, text: str, values: Collection[str]) -> bool:
        return bool(self._valued([text]) & set(values))

    def contents(
        self, values: Mapping[str, RenderedValue], context: MessageContext
    ) -> dict[MessagePlace, Scalar]:
        """Return what it sets, as far as that depends on nothing but the setpoint: a register, a member.

        A text with a value in it counts as that value, and packed bytes as the values in them.
        """
        table = self._table
        if table.registers is not None:
            known = {n: v for n, v in table.registers.items() if placeholders([v]) <= values.keys()}
            filled = filled_registers(known, values, context.built_ins)
            return {MessagePlace("", f"registers.{name}"): value for name, value in filled.items()}
        found: dict[MessagePlace, Scalar] = {}
        for key, leaf in (*_leaves("topic", table.topic), *_leaves("payload", table.payload)):
            if not placeholders([leaf]):
                found[MessagePlace(str(table.topic), key)] = _as_number(leaf)
            for name in self._values.lasting(self._valued([leaf])):
                found[MessagePlace(str(table.topic), key, name)] = values[name].json
        return found

    def requests(self) -> list[tuple[MessagePlace, ...]]:
        """Return which registers each of its requests writes, in their order; empty on MQTT: it is one."""
        if self._registers is None:
            return []
        requests = self._registers.requests(self._table.registers or {}, self._table.function)
        return [tuple(MessagePlace("", f"registers.{name}") for name in names) for names in requests]

    def addresses(self) -> frozenset[str]:
        """Return the values in its topic, and those in members that say where the rest of it belongs."""
        said = [self._table.topic or ""]
        for part in self.command.every():
            for name, leaf in part.leaves.items():
                called = tokens(name.rpartition(".")[2])
                if called & (ADDRESS_NAMES | COMMAND_NAMES) and not called & (RUNNING_NAMES | MODE_NAMES):
                    said.append(leaf)
        return self._valued(said)

    @property
    def is_of_registers(self) -> bool:
        """Whether it writes registers."""
        return self._registers is not None

    @property
    def waits(self) -> bool:
        """Whether there is a pause before it."""
        return self._table.pause_s > 0.0

    def fixed_words(self) -> frozenset[tuple[str, int, int]]:
        """Return what it writes whatever the setpoint is: area, address and word."""
        written = self._table.registers or {}
        fixed = {n: value for n, value in written.items() if not (isinstance(value, str) and "{" in value)}
        if self._registers is None:
            return frozenset()
        writes = self._registers.writes(fixed, self._table.function)
        return frozenset((w.area, w.address + i, word) for w in writes for i, word in enumerate(w.words))

    def part(
        self, command: DeviceCommand, powers: Collection[str], registers: Collection[str]
    ) -> DeviceCommand | None:
        """Return what of it holds a power, to be sent at once; None = nothing of it does.

        Registers that go in one request stay together.

        Args:
            command: It, ready to send.
            powers: The values that are a power.
            registers: Those that hold one of them, in this message or another.
        """
        if not isinstance(command, RegisterCommand):
            return replace(command, pause_s=0.0) if self.carries(powers) else None
        writes = tuple(w for w in command.writes if set(registers).intersection(w.names))
        return replace(command, writes=writes, pause_s=0.0) if writes else None

    def applies(self, values: Mapping[str, RenderedValue], setpoint: Setpoint) -> bool:
        """Whether it is to be sent."""
        if self._formula is not None:
            known = {n: float(getattr(setpoint, n) or 0.0) for n in QUANTITIES}
            return bool(self._formula.evaluate({**known, **{n: v.json for n, v in values.items()}}))
        return all(_among(values[name].json, words) for name, words in self._when.items())

    def meaning(self, values: Mapping[str, RenderedValue]) -> tuple[Any, ...]:
        """Return what it tells the device: two of one meaning set the same."""
        return (self._index, *(values[n].json for n in self._lasting))

    def effects(
        self, values: Mapping[str, RenderedValue], context: MessageContext, places: CommandPlaces
    ) -> list[dict[CommandPlace, ToldContent]]:
        """Return what each of its requests sets, without what differs in each message.

        By register, or by topic, command and member: see ``CommandPlaces``.

        Raises:
            MessageError: What it writes does not fit into a register.
        """
        table = self._table

        def text(leaf: Any) -> str:
            return text_of(leaf, values)

        if table.registers is not None and self._registers is not None:
            filled = filled_registers(table.registers, values, context.built_ins)
            writes = self._registers.writes(filled, table.function)
            key = places.key(self.command, text)  # of a mailbox: which command its argument is of
            return [dict(self._of_write(key, w, filled)) for w in writes]
        topic = self._told(table.topic, values)

        def content(name: str, leaf: Any) -> ToldContent:
            return self._content(leaf, values, name)

        return [dict(places.of(self.command, content, topic, text))]

    def _told(self, template: Any, values: Mapping[str, RenderedValue]) -> tuple[Any, ...]:
        """Return a text or document of it by which two are told apart."""
        names = self._values.lasting(self._valued([template]))
        return (repr(template), *(values[n].json for n in names))

    def _of_write(
        self, key: CommandPlace, write: RegisterWrite, filled: Mapping[str, Scalar]
    ) -> Iterator[tuple[CommandPlace, ToldContent]]:
        """Yield what each register of a request holds then: a word of what is written there."""
        assert self._registers is not None
        written = self._table.registers or {}
        words = iter(enumerate(write.words))
        for name in write.names:
            value = filled[name]
            text = as_text(value)
            numbers = () if isinstance(value, str) else (float(value),)
            is_made = bool(self._values.lasting(self._valued([written[name]])))
            for i, word in islice(words, self._registers.registers[name].span.count):
                place = (*key, write.area, write.address + i)
                yield place, ToldContent(word, text, numbers, name, is_made, isinstance(value, str))

    def _content(self, leaf: Any, values: Mapping[str, RenderedValue], name: str) -> ToldContent:
        """Return what a text, number or list of it under a name stands for."""
        names = self._valued([leaf])
        lasting = self._values.lasting(names)
        told = (repr(leaf), *(values[n].json for n in lasting))
        is_packed = names != placeholders([leaf]) & set(self._values.names)
        if is_packed or self._table.struct is not None:
            each = [values[n].json for n in lasting]
            numbers = tuple(float(value) for value in each if not isinstance(value, str))
            return ToldContent(told, "", numbers, name, is_made=bool(lasting))
        text = text_of(leaf, values)
        is_member = isinstance(self._table.payload, Mapping) or name in self._members
        called = name.rpartition(".")[2] if is_member else _last_level(text_of(self._table.topic, values))
        whole = PLACEHOLDER.fullmatch(leaf) if isinstance(leaf, str) else None
        is_word = whole is not None and whole[1] in names and isinstance(values[whole[1]].json, str)
        return ToldContent(told, text, numbers_in(text), called, bool(lasting), is_word)

    def _valued(self, templates: Any) -> frozenset[str]:
        """Return the values in texts, and those that are packed in them."""
        return self._values.packed(n for n in placeholders(templates) if n in self._values.names)

    def write(self, values: Mapping[str, RenderedValue], context: MessageContext) -> DeviceCommand:
        """Return it, ready to send."""
        table = self._table
        context.built_ins.begin_message()
        every = {**{n: RenderedValue(t, t) for n, t in context.learned.items()}, **values}
        meaning = self.meaning(values)
        if table.registers is not None and self._registers is not None:
            filled = filled_registers(table.registers, every, context.built_ins)
            writes = self._registers.writes(filled, table.function)
            return RegisterCommand(writes, table.read_back, pause_s=table.pause_s, meaning=meaning)
        assert table.topic is not None  # the table says so
        assert table.payload is not None
        topic = filled_text(table.topic, every, context.built_ins)
        missing = PLACEHOLDER.search(topic)
        if missing is not None:
            raise MessageError(
                f"{{{missing[1]}}} is not known yet: no message was received on a topic with it"
            )
        if table.metrics is not None:
            known = in_json(table.payload, every, context.built_ins)
            now_ms = int(context.built_ins.value("now", "unix_ms"))
            payload = encode(known, table.metrics, now_ms)
        else:
            payload = payload_bytes(table.payload, every, context.built_ins, table.struct)
        return Outgoing(topic, payload, table.qos, table.retain, table.pause_s, meaning)


def _is_pair_text(table: MessageTable, name: str) -> bool:
    """Whether a leaf of a message is of a text of ``key=value``."""
    return isinstance(table.payload, str) and f"{name}=" in table.payload


def _last_level(topic: str) -> str:
    """Return the level of a topic that says what it is for."""
    levels = [level for level in topic.split("/") if level not in {"", "set", "cmd", "command", "write"}]
    return levels[-1] if levels else topic


def _check_when(when: Mapping[str, list[Scalar]], values: SetpointValues, complain: Complain) -> None:
    for name, words in when.items():
        value = values.get(name)
        if value is None or (value.table.words is None and value.formula is None):
            complain(f"when.{name}", "expected a value of the setpoint that has words or a formula")
            continue
        known = [w.word for w in value.table.words or ()]
        for word in words:
            if known and not _among(word, known):
                complain(f"when.{name}", f"{word!r} is not one of its words: {', '.join(map(repr, known))}")


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Scalar]]:
    """Yield every text and number of a payload with its key."""
    if isinstance(node, Mapping):
        for name, each in node.items():
            yield from _leaves(f"{key}.{name}", each)
    elif isinstance(node, list):
        for i, each in enumerate(node):
            yield from _leaves(f"{key}[{i}]", each)
    elif node is not None:
        yield key, node


def _as_number(leaf: Scalar) -> Scalar:
    """Return a text that is a number as that."""
    try:
        return float(leaf) if isinstance(leaf, str) else leaf
    except ValueError:
        return leaf


def _among(word: Scalar, words: list[Scalar]) -> bool:
    return any(isinstance(word, bool) == isinstance(other, bool) and word == other for other in words)
