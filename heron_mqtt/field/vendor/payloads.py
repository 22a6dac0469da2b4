"""From bytes to something in which a value can be looked for: JSON, text, columns, pairs, bytes."""

from __future__ import annotations

import csv
import io
from typing import Any

import jmespath
from jmespath import functions as jmespath_functions
from jmespath.exceptions import JMESPathError
from pydantic_core import from_json

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.numbers import shown
from heron_mqtt.field.vendor.tables import PayloadKeys
from heron_mqtt.field.vendor.tolerant_json import to_strict
from heron_mqtt.field.vendor.units import Complain

MAX_PAYLOAD_BYTES = 65_536  # the largest sample of a supported device is 4 kB
BOM = "\ufeff"


def parse(payload: bytes, keys: PayloadKeys) -> Any:
    """Return the document of a payload, as its format has it.

    JSON as Python has it; a text; csv as ``(header, columns)``; key_value as a dict; binary as bytes.

    Raises:
        MessageError: Says what does not fit.
    """
    if keys.format == "binary":
        return payload
    text = parse_text(payload, keys.encoding)
    match keys.format:
        case "json":
            chosen = text if keys.line is None else _line(_lines(text), keys.line)
            return parse_json(chosen, tolerant=keys.tolerant)
        case "csv":
            return _columns(text, keys.separator, keys.line)
        case "key_value":
            return _pairs(text, keys.separator, keys.assign)
    return text


def parse_text(payload: bytes, encoding: str = "utf-8") -> str:
    """Return a payload as text, without a byte order mark, NULs at its ends, and white space around it.

    Raises:
        MessageError: It is not of that encoding.
    """
    try:
        return payload.decode(encoding).removeprefix(BOM).strip("\0 \t\r\n\f\v")
    except UnicodeError:
        raise MessageError(f"not {encoding.upper()} text; it begins {payload[:40]!r}") from None


def parse_json(text: str, *, tolerant: bool = False) -> Any:
    """Return the JSON document of a text; NaN and infinity in it are numbers that no quantity takes.

    Raises:
        MessageError: Not JSON.
    """
    try:
        return from_json(text)
    except ValueError as exc:
        problem = f"not JSON: {exc}; it begins {text[:40]!r}"
    if not tolerant:
        raise MessageError(f"{problem} (tolerant = true reads nan, empty values, single quotes, None)")
    try:
        return from_json(to_strict(text))
    except ValueError as exc:
        raise MessageError(f"not even almost JSON: {exc}; it begins {text[:40]!r}") from None


def _columns(text: str, separator: str, line: int | None) -> tuple[list[str], list[str]]:
    """Return the first line and the line that counts, each as columns without white space around them."""
    lines = _lines(text)
    if not lines:
        return [], []
    return _split(lines[0], separator), _split(_line(lines, -1 if line is None else line), separator)


def _lines(text: str) -> list[str]:
    return [each for each in text.splitlines() if each.strip()]


def _line(lines: list[str], number: int) -> str:
    try:
        return lines[number]
    except IndexError:
        raise MessageError(f"line {number} is missing, there are {len(lines)}") from None


def _split(line: str, separator: str) -> list[str]:
    if len(separator) == 1 and '"' in line:
        try:
            return [c.strip() for c in next(csv.reader(io.StringIO(line), delimiter=separator, strict=True))]
        except csv.Error as exc:
            raise MessageError(f"not csv: {exc}; it begins {line[:40]!r}") from None
    return [column.strip() for column in line.split(separator)]


def _pairs(text: str, separator: str, assign: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator):
        name, is_pair, value = part.partition(assign)
        if is_pair:
            found[name.strip()] = _unquoted(value.strip())
    if not found:
        raise MessageError(f"no name{assign}value in it; it begins {text[:40]!r}")
    return found


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] in {'"', "'"}
    return text[1:-1] if quoted else text


# -- JMESPath ------------------------------------------------------------------------------------------


class _Functions(jmespath_functions.Functions):
    """JMESPath's own functions, and ``from_json``: the document in a text that is JSON."""

    def __init__(self, *, tolerant: bool) -> None:
        super().__init__()
        self._tolerant = tolerant

    @jmespath_functions.signature({"types": ["string", "null"]})
    def _func_from_json(self, text: str | None) -> Any:
        return None if text is None else parse_json(text, tolerant=self._tolerant)


_OPTIONS = {t: jmespath.Options(custom_functions=_Functions(tolerant=t)) for t in (False, True)}


class Expression:
    """A JMESPath expression, checked when it is made.

    Args:
        text: As the mapping has it.
        complain: Takes note of mistakes.
        tolerant: Whether JSON in a text may be almost JSON, as the payload around it.
    """

    def __init__(self, text: str, complain: Complain, *, tolerant: bool = False) -> None:
        self.text = text
        self._options = _OPTIONS[tolerant]
        self._result = ""
        try:
            self._compiled = jmespath.compile(text)
        except JMESPathError as exc:
            complain("path", f"{text!r} is not a JMESPath expression: {_one_line(exc)}")
            return
        self._result = _result(self._compiled.parsed)
        unknown = sorted(_functions(self._compiled.parsed) - _Functions.FUNCTION_TABLE.keys())
        if unknown:
            complain("path", f"{text!r}: JMESPath has no function {unknown[0]}()")

    @property
    def closes_gaps(self) -> bool:
        """Whether it leaves out of a list what is null, so that the rest moves up."""
        return self._result in _PROJECTIONS

    @property
    def is_comparison(self) -> bool:
        """Whether it is true or false whatever the document holds."""
        return self._result in {"comparator", "not_expression"}

    def search(self, document: Any) -> Any:
        """Return what the expression finds; None if nothing.

        Raises:
            MessageError: The document does not fit the expression.
        """
        try:
            return self._compiled.search(document, options=self._options)
        except MessageError as exc:
            raise MessageError(f"{self.text}: {exc}") from None
        except (JMESPathError, TypeError, ValueError, RecursionError) as exc:  # jmespath lets some through
            raise MessageError(f"{self.text} does not fit the payload: {_one_line(exc)}") from None


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]


_PROJECTIONS = {"projection", "value_projection", "filter_projection", "flatten"}


def _result(node: Any) -> str:
    """Return which kind of expression gives the result of one."""
    while node["type"] in {"pipe", "subexpression", "index_expression"}:
        node = node["children"][-1]
    return str(node["type"])


def _functions(node: Any) -> set[str]:
    found = {node["value"]} if node.get("type") == "function_expression" else set()
    return found.union(*(_functions(child) for child in node.get("children", []) if isinstance(child, dict)))


def sample(payload: bytes) -> str:
    """Return the beginning of a payload for a message to people."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = f"hex {payload[:60].hex()}"
    return shown(text) if len(text) <= 60 else repr(text[:60]) + "..."
