"""From a box's payload to our quantities; compiled from ``[[telemetry]]`` and ``[[availability]]``."""

from __future__ import annotations

from typing import Any, Literal

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from pydantic_core import from_json

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor._mapping.numbers import number, shown
from heron_mqtt.field.vendor._mapping.parameters import as_text
from heron_mqtt.field.vendor._mapping.tables import (
    AvailabilityTable,
    FieldTable,
    ReadQuantity,
    Scalar,
    TelemetryTable,
)
from heron_mqtt.field.vendor._mapping.units import Complain, per_si

MAX_PAYLOAD_BYTES = 65_536  # the largest sample of a supported box is 4 kB
ABSENT = frozenset({"", "null", "none", "nan", "unknown", "unavailable"})
"""Texts by which boxes say that they have no value, in lower case."""

Value = float | bool | int
State = Literal["online", "fault", "offline"]


class Expression:
    """A JMESPath expression, checked when it is made."""

    def __init__(self, text: str, complain: Complain) -> None:
        self.text = text
        try:
            self._compiled = jmespath.compile(text)
        except JMESPathError as exc:
            complain("path", f"{text!r} is not a JMESPath expression: {_one_line(exc)}")
            return
        unknown = sorted(_functions(self._compiled.parsed) - Functions.FUNCTION_TABLE.keys())
        if unknown:
            complain("path", f"{text!r}: JMESPath has no function {unknown[0]}()")

    def search(self, document: Any) -> Any:
        """Return what the expression finds; None if nothing.

        Raises:
            MessageError: The document does not fit the expression.
        """
        try:
            return self._compiled.search(document)
        except (JMESPathError, TypeError, ValueError, RecursionError) as exc:  # jmespath lets some through
            raise MessageError(f"{self.text} does not fit the payload: {_one_line(exc)}") from None


class FieldReader:
    """One quantity of one topic."""

    def __init__(self, quantity: ReadQuantity, table: FieldTable, format_: str, complain: Complain) -> None:
        self.quantity = quantity
        self._table = table
        self._path: Expression | None = None
        wanted = {"json": "path", "csv": "column"}.get(format_)
        for name in ("path", "column"):
            given = getattr(table, name) is not None
            if given and name != wanted:
                complain(name, f"format {format_!r} has none; leave it out")
            elif not given and name == wanted:
                complain(name, f"missing; format {format_!r} needs it")
        if table.path is not None:
            self._path = Expression(table.path, complain)
        if table.words is not None and quantity != "running":
            complain("words", f"only running is told by words, {quantity} is a number")
        self._per_si = per_si(quantity, table, complain)

    def read(self, document: Any) -> Value | None:
        """Return the quantity in our unit and sign, or None if the payload has no value.

        Raises:
            MessageError: What is found is not what the quantity needs.
        """
        raw, where = self._raw(document)
        if raw is None or (isinstance(raw, str) and raw.strip().lower() in ABSENT):
            return None
        if self.quantity == "running":
            return self._running(raw, where)
        table = self._table
        value = table.sign * (number(raw, where) * table.scale + table.offset) / self._per_si + 0.0
        if value - value != 0:
            raise MessageError(f"{where} gave a number that is not finite")
        if self.quantity == "ack_seq":
            if value < 0 or value != int(value):
                raise MessageError(f"{where} gave {shown(raw)}, expected a sequence number")
            return int(value)
        if self.quantity == "soc" and not 0.0 <= value <= 1.0:
            raise MessageError(f"{where} gave {shown(raw)}: a state of charge of {value:g} is outside [0, 1]")
        if self.quantity == "vm_pu" and value < 0.0:
            raise MessageError(f"{where} gave {shown(raw)}: a voltage must not be negative")
        return value

    @property
    def keeps(self) -> bool:
        """Whether a missing value leaves the last one as it was."""
        return self._table.null == "keep"

    def _raw(self, document: Any) -> tuple[Any, str]:
        if self._path is not None:
            return self._path.search(document), f"{self.quantity}: {self._path.text}"
        if self._table.column is not None:
            column = self._table.column
            if column >= len(document):
                raise MessageError(f"{self.quantity}: column {column} is missing, there are {len(document)}")
            return document[column], f"{self.quantity}: column {column}"
        return document, f"{self.quantity}: the payload"

    def _running(self, raw: Any, where: str) -> bool:
        words = self._table.words
        if words is not None and isinstance(raw, Scalar):
            if (text := as_text(raw)) in words:
                return words[text]
            raise MessageError(f"{where} gave {shown(raw)}, expected one of {', '.join(words)}")
        if isinstance(raw, bool):
            return raw
        raise MessageError(f"{where} gave {shown(raw)}, expected true or false (or give 'words')")


class TelemetryReader:
    """All that is read from one topic."""

    def __init__(self, table: TelemetryTable, complain: Complain) -> None:
        self.topic = table.topic
        self._format = table.format
        self._separator = table.separator
        self.fields: list[FieldReader] = []
        if table.format == "text" and len(table.fields) != 1:
            complain("fields", "a text payload holds one quantity; use json or csv for more")
        for quantity, field in table.fields.items():

            def at_field(key: str, text: str, quantity: str = quantity) -> None:
                complain(f"fields.{quantity}.{key}", text)

            self.fields.append(FieldReader(quantity, field, table.format, at_field))

    def read(self, payload: bytes) -> dict[str, Value | None]:
        """Return quantity -> value; None = no longer known. What keeps its last value is left out.

        An empty payload means that the box is gone: nothing is known any more.

        Raises:
            MessageError: Says what does not fit.
        """
        if not payload:
            return {field.quantity: None for field in self.fields}
        document = self._parse(payload)
        found = {field.quantity: (field.read(document), field.keeps) for field in self.fields}
        return {name: value for name, (value, keeps) in found.items() if value is not None or not keeps}

    def _parse(self, payload: bytes) -> Any:
        if self._format == "json":
            return parse_json(payload)
        text = parse_text(payload)
        return text.split(self._separator) if self._format == "csv" else text


class AvailabilityReader:
    """What one topic says about whether the box is there."""

    def __init__(self, table: AvailabilityTable, complain: Complain) -> None:
        self.topic = table.topic
        self._path = None if table.path is None else Expression(table.path, complain)
        self._states: dict[str, State] = {}
        states: tuple[tuple[State, list[str]], ...] = (
            ("online", table.online),
            ("offline", table.offline),
            ("fault", table.fault),
        )
        for state, words in states:
            for word in words:
                if word in self._states:
                    complain(state, f"{word!r} already means {self._states[word]}")
                self._states[word] = state

    def read(self, payload: bytes) -> tuple[State, str]:
        """Return the state, and the word that said so.

        Raises:
            MessageError: The word is not known.
        """
        word = parse_text(payload).strip()
        if self._path is not None and word.startswith("{"):
            found = self._path.search(parse_json(payload))
            word = "null" if found is None else as_text(found) if isinstance(found, Scalar) else shown(found)
        state = self._states.get(word)
        if state is None:
            raise MessageError(f"availability {shown(word)}: expected one of {', '.join(self._states)}")
        return state, word


def parse_json(payload: bytes) -> Any:
    """Return the JSON document of a payload.

    Raises:
        MessageError: Not JSON, or NaN or infinity in it.
    """
    try:
        return from_json(payload, allow_inf_nan=False)
    except ValueError as exc:
        raise MessageError(f"not JSON: {exc}; it begins {payload[:40]!r}") from None


def parse_text(payload: bytes) -> str:
    """Return a payload as text.

    Raises:
        MessageError: Not UTF-8.
    """
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise MessageError(f"not UTF-8 text; it begins {payload[:40]!r}") from None


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]


def _functions(node: Any) -> set[str]:
    found = {node["value"]} if node.get("type") == "function_expression" else set()
    return found.union(*(_functions(child) for child in node.get("children", []) if isinstance(child, dict)))
