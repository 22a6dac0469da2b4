"""A setpoint in the vendor's terms: values, words, payloads, messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor._mapping.numbers import as_digits, as_number, rounded
from heron_mqtt.field.vendor._mapping.parameters import PLACEHOLDER, as_text, placeholders
from heron_mqtt.field.vendor._mapping.problems import Problems
from heron_mqtt.field.vendor._mapping.tables import MessageTable, Payload, Scalar, SetpointTable, ValueTable
from heron_mqtt.field.vendor._mapping.units import Complain, per_si
from heron_mqtt.messages import Setpoint


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to a box, ready to publish.

    Attributes:
        topic: The whole topic, not one of our channels.
        payload: As it goes out.
        qos: 0, 1 or 2.
        retain: Whether the broker keeps it.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """One value of a setpoint: as it stands in JSON, and as text."""

    json: Scalar
    text: str


class Value:
    """How one quantity of a setpoint becomes the vendor's number or word."""

    def __init__(self, table: ValueTable, units_per_si: float) -> None:
        self._table = table
        self._per_si = units_per_si
        self._decimals = 0 if table.quantity == "seq" else table.decimals

    def render(self, setpoint: Setpoint) -> Rendered:
        """Return the value.

        Raises:
            MessageError: It is not finite.
        """
        table = self._table
        number = self._number(float(getattr(setpoint, table.quantity) or 0.0))  # a safe state has no seq
        if table.words is None:
            return Rendered(as_number(number, self._decimals), as_digits(number, self._decimals))
        word = [w.word for w in table.words if w.from_ is None or number >= w.from_][-1]
        return Rendered(word, as_text(word))

    def _number(self, raw: float) -> float:
        table = self._table
        value = table.sign * raw * self._per_si
        if table.absolute:
            value = abs(value)
        value = value * table.scale + table.offset
        if not math.isfinite(value):
            raise MessageError(f"setpoint: {table.quantity} = {raw!r} is not a finite number; it is not sent")
        if self._decimals is not None:
            value = rounded(value, self._decimals, toward_zero=table.rounding == "toward_zero")
        if table.min is not None:
            value = max(value, table.min)
        return value if table.max is None else min(value, table.max)


class SetpointWriter:
    """Turns setpoints into messages; compiled from ``[setpoint]``."""

    def __init__(self, table: SetpointTable, problems: Problems) -> None:
        self._messages = table.messages
        self._values = {}
        for name, value in table.values.items():
            complain = problems.at(f"setpoint.values.{name}")
            self._values[name] = Value(value, per_si(value.quantity, value, complain))
        used = {name for m in table.messages for name in (*placeholders(m.payload), *m.when)}
        for name in table.values.keys() - used:
            problems.add(f"setpoint.values.{name}", "no payload and no 'when' uses it")
        self.quantities = frozenset(v.quantity for n, v in table.values.items() if n in used)
        if "p_mw" not in self.quantities:
            problems.add("setpoint", "no message carries p_mw")
        for i, message in enumerate(table.messages):
            _check_when(message, table, problems.at(f"setpoint.messages[{i}]"))

    def encode(self, setpoint: Setpoint) -> list[Outgoing]:
        """Return the messages that carry a setpoint, in the order in which to send them."""
        values = {name: value.render(setpoint) for name, value in self._values.items()}
        return [
            Outgoing(m.topic, payload_bytes(m.payload, values), m.qos, m.retain)
            for m in self._messages
            if all(_among(values[name].json, words) for name, words in m.when.items())
        ]


def payload_bytes(payload: Payload, values: Mapping[str, Rendered]) -> bytes:
    """Return a payload with its values filled in: a text as it is, a table or array as JSON."""
    if isinstance(payload, str):
        return _in_text(payload, values).encode()
    return to_json(_in_json(payload, values))


def _in_text(text: str, values: Mapping[str, Rendered]) -> str:
    return PLACEHOLDER.sub(lambda m: values[m[1]].text if m[1] in values else m[0], text)


def _in_json(node: Any, values: Mapping[str, Rendered]) -> Any:
    if isinstance(node, dict):
        return {key: _in_json(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_in_json(value, values) for value in node]
    if not isinstance(node, str):
        return node
    whole = PLACEHOLDER.fullmatch(node)
    if whole is not None and whole[1] in values:
        return values[whole[1]].json
    return _in_text(node, values)


def _check_when(message: MessageTable, table: SetpointTable, complain: Complain) -> None:
    for name, words in message.when.items():
        value = table.values.get(name)
        if value is None or value.words is None:
            complain(f"when.{name}", "expected a value of the setpoint that has words")
            continue
        known = [w.word for w in value.words]
        for word in words:
            if not _among(word, known):
                complain(f"when.{name}", f"{word!r} is none of its words: {', '.join(map(repr, known))}")


def _among(word: Scalar, words: list[Scalar]) -> bool:
    return any(type(word) is type(other) and word == other for other in words)  # True is not 1 here
