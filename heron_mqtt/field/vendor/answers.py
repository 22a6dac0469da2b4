"""How a device accepts or rejects a setpoint: by its id, a repeated value, a flag, or an error text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.inputs import InputReader, MissingValue
from heron_mqtt.field.vendor.numbers import shown
from heron_mqtt.field.vendor.parameters import placeholders
from heron_mqtt.field.vendor.payload_filling import RenderedValue
from heron_mqtt.field.vendor.payloads import parse
from heron_mqtt.field.vendor.setpoint_values import SetpointValues
from heron_mqtt.field.vendor.tables import AnswerTable, InputTable
from heron_mqtt.field.vendor.telemetry import patterns
from heron_mqtt.field.vendor.units import Complain
from heron_mqtt.field.vendor.words import word_text


@dataclass(frozen=True, slots=True)
class SetpointAnswer:
    """What the device said of a setpoint.

    Attributes:
        accepted: Whether it will do it.
        reason: Why not.
    """

    accepted: bool
    reason: str = ""


class AnswerReader:
    """One ``[[setpoint.answers]]`` table."""

    def __init__(self, table: AnswerTable, values: SetpointValues, complain: Complain) -> None:
        self.table = table
        self.patterns = patterns([table.topic], complain)
        self._id_of = None if table.id is None else _id_of(table, values, complain)
        if table.echo is not None and values.get(table.echo.of) is None:
            complain("echo.of", f"{table.echo.of!r} is no value of the setpoint; there are {_listed(values)}")
        echo_of = None if table.echo is None else table.echo.of
        named = {*placeholders(table.topic), self._id_of, echo_of} - {None}
        self._repeats = {name for name in named if name is not None and values.get(name) is not None}
        parts: dict[str, InputTable | None] = {
            "id": table.id,
            "echo": table.echo,
            "success": table.success,
            "error": table.error,
        }
        self._readers: dict[str, InputReader] = {}
        for name, part in parts.items():
            if part is None:
                continue

            if part.rate is not None:
                complain(f"{name}.rate", "an answer is one message: it has none")

            def at_part(key: str, text: str, where: str = name) -> None:
                complain(f"{where}.{key}", text)

            as_text = part.model_copy(update={"suffix": None})  # a number has one, its text is taken whole
            self._readers[name] = InputReader(
                name, as_text, table.format, at_part, "text", tolerant=table.tolerant
            )
            if name == "echo" and part.type == "number" and part.words is None:
                self._readers["echo number"] = InputReader(
                    name, part, table.format, at_part, "number", tolerant=table.tolerant
                )

    def read(
        self,
        topic: str,
        payload: bytes,
        sent: Mapping[str, RenderedValue],
        before: Mapping[str, RenderedValue] | None = None,
    ) -> SetpointAnswer | None:
        """Return the answer in a message to the sent setpoint; None if it is not an answer to it.

        Args:
            topic: Where it arrived.
            payload: As it arrived.
            sent: The values of the setpoint, or of a release, which may have none.
            before: The values of the setpoint before a release; None = it is no release. If an answer has an
                id that is not a value, such as a counter, any id except the one of that setpoint counts as
                the release's.

        Raises:
            MessageError: It cannot be read.
        """
        if not self._is_about(topic, sent):
            return None
        if before is None and not self._repeats <= sent.keys():
            return None  # what it repeats was not sent
        document = parse(payload, self.table)
        if self._id_of is not None:
            found = self._value("id", document)
            if found is None:
                return None
            if self._id_of in sent:
                if not _same(found, sent[self._id_of]):
                    return None
            elif before is None or (self._id_of in before and _same(found, before[self._id_of])):
                return None
        error = self._value("error", document)
        if self.table.success is not None:
            flag = self._value("success", document)
            if flag is None and error is None:
                return None  # not an answer
            if flag is None or not self._is_success(flag):
                return SetpointAnswer(
                    False, str(error)[:400] if error is not None else f"success is {shown(flag)}"
                )
        elif error is not None:
            return SetpointAnswer(False, str(error)[:400])
        if self.table.echo is not None and self.table.echo.of in sent:
            echoed = self._echo(document)
            if echoed is None:
                return None
            was = sent[self.table.echo.of]
            if not _is_near(echoed, was, self.table.echo.tolerance):
                if self._id_of is None:
                    return None  # it may be the echo of an earlier one
                return SetpointAnswer(False, f"it took {shown(echoed)} for {was.text}")
        return SetpointAnswer(True)

    def _is_success(self, flag: Scalar) -> bool:
        assert self.table.success is not None
        wanted = {word_text(word).casefold() for word in self.table.success.is_}
        return word_text(flag).casefold() in wanted

    def _is_about(self, topic: str, sent: Mapping[str, RenderedValue]) -> bool:
        for pattern in self.patterns:
            found = pattern.match(topic)
            if found is not None:
                return all(name not in sent or sent[name].text == text for name, text in found.items())
        return False

    def _echo(self, document: Any) -> Scalar | None:
        """Return what is repeated: a number where it is one, else the word."""
        try:
            number = self._value("echo number", document)
        except MessageError:
            number = None
        return self._value("echo", document) if number is None else number

    def _value(self, name: str, document: Any) -> Scalar | None:
        reader = self._readers.get(name)
        if reader is None:
            return None
        value = reader.read(document)
        assert not isinstance(value, list)  # each reads a text or a number
        return None if isinstance(value, MissingValue) else value


def _id_of(table: AnswerTable, values: SetpointValues, complain: Complain) -> str | None:
    assert table.id is not None
    if table.id.of is not None:
        if values.get(table.id.of) is None:
            complain("id.of", f"{table.id.of!r} is no value of the setpoint; there are {_listed(values)}")
            return None
        return table.id.of
    numbers = [n for n in values.names if (v := values.get(n)) is not None and v.table.quantity == "seq"]
    if len(numbers) != 1:
        complain("id.of", "which value is repeated? give 'of', or one value with quantity = \"seq\"")
        return None
    [number] = numbers
    return number


def _same(found: Scalar, was: RenderedValue) -> bool:
    return word_text(found) in {word_text(was.json), was.text}


def _is_near(found: Scalar, was: RenderedValue, tolerance: float) -> bool:
    if isinstance(was.json, bool | str) or isinstance(found, str):
        return word_text(found).casefold() == word_text(was.json).casefold()
    return abs(float(found) - float(was.json)) <= tolerance + 1e-9 * max(1.0, abs(float(was.json)))


def _listed(values: SetpointValues) -> str:
    return ", ".join(values.names) or "none"
