"""One raw input: found in a payload, cleaned, and made a number, a text, true/false or a time."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.formula import signed
from heron_mqtt.field.vendor.numbers import NumberText, clamped, finite, interpolated, shown
from heron_mqtt.field.vendor.parameters import as_text
from heron_mqtt.field.vendor.payloads import Expression
from heron_mqtt.field.vendor.tables import Format, InputKind, InputTable
from heron_mqtt.field.vendor.units import Complain
from heron_mqtt.field.vendor.words import Words, word_text

ABSENT = frozenset({"", "null", "none", "nan", "unknown", "unavailable"})
"""Texts by which devices say that they have no value, in lower case."""

BOOLEANS = {
    word: meaning
    for meaning, words in ((True, "true on yes 1"), (False, "false off no 0"))
    for word in words.split()
}
"""Texts that are true or false by themselves, in lower case."""

MAX_TEXT_FOR_PATTERN = 4_096
InputValue = float | bool | str | list[float | None]


@dataclass(frozen=True, slots=True)
class MissingValue:
    """There is no value in a payload.

    Attributes:
        keeps: The last value stays valid; otherwise it is no longer known.
        why: What was looked for.
    """

    keeps: bool
    why: str


SAMPLE_NUMBERS = (1.0, 100.0, 0.0, 10_000.0, -1.0, -100.0)
"""Numbers that an input of any unit may have."""


class InputReader:
    """Reads one input out of documents of one format.

    Args:
        name: What it is called.
        table: Where it is and how it is cleaned.
        format_: Of the payload.
        complain: Takes note of mistakes.
        kind: What it must be, where the quantity decides; None = as the table says.
        on_change: Whether the whole payload comes only when something in it changes.
    """

    def __init__(
        self,
        name: str,
        table: InputTable,
        format_: Format,
        complain: Complain,
        kind: InputKind | None = None,
        *,
        on_change: bool = False,
        tolerant: bool = False,
    ) -> None:
        self.name = name
        self.on_change = (
            table.on_change or on_change or format_ == "sparkplug"
        )  # which sends what has changed
        self._table = table
        self._path = None
        _check_place(table, format_, complain)
        if table.path is not None:
            self._path = Expression(table.path, complain, tolerant=tolerant)
            if table.null == "keep" and self._path.is_comparison:
                complain(
                    "null",
                    f"the path {table.path!r} is a comparison: if its value is missing, it is false, not "
                    "missing; give the path of the value alone, and give its meaning by words: "
                    'words = { Charging = true, "*" = false }',
                )
        self._pattern = None if table.pattern is None else compiled(table.pattern, complain)
        self._words = None if table.words is None else Words(table.words, "words", complain)
        meant = _kind(table, complain)
        self.kind: InputKind = kind or meant
        if table.words is not None and kind in {"number", "boolean"} and meant != kind:
            complain("words", f"they mean a {meant}, expected a {kind} for each")
        self.rate = table.rate
        if table.rate is not None and self.kind != "number":
            complain("rate", f"only of a number, this is a {self.kind}")
        if table.rate is not None and self.on_change:
            complain("rate", "a counter that is sent only when it changes does not tell when it stands still")
        self._number = NumberText(table.decimal, table.thousands, table.suffix)
        self._absent_texts = ABSENT | {word_text(a).lower() for a in table.absent}
        self._absent_numbers = {float(a) for a in table.absent if isinstance(a, int | float)}
        self._zone = _zone(table.timezone, complain)
        _check_time(table.time, complain)
        if table.suffix is not None and self.kind not in {"number", "numbers"}:
            complain("suffix", f"only behind a number, this is a {self.kind}")

    @property
    def direction(self) -> int:
        """Whether a number that rises in the payload rises here, 1, or falls, -1."""
        return 1 if self._table.sign * self._table.scale > 0.0 else -1

    @property
    def keeps_places(self) -> bool:
        """Whether a number that is missing in a list leaves a gap, so that others stay in their places."""
        return self._path is None or not self._path.closes_gaps

    def sample(self, nth: int) -> Any:
        """Return something that it may read, another each time; to look at what formulas make of it."""
        table, number = self._table, SAMPLE_NUMBERS[nth % len(SAMPLE_NUMBERS)]
        if table.words is not None:
            return list(table.words.values())[nth % len(table.words)]
        if self.kind == "boolean":
            return nth % 2 == 1
        if self.kind == "text":
            return "x"
        if table.clamp is not None:
            low, high = table.clamp
            number = (high, low, (low + high) / 2.0)[nth % 3]
        return [number] * 3 if self.kind == "numbers" else number

    def read(self, document: Any) -> InputValue | MissingValue:
        """Return the value in a document.

        Raises:
            MessageError: The value is not of the expected kind.
        """
        raw, where = self._find(document)
        if isinstance(raw, str) and self._pattern is not None:
            match = self._pattern.search(raw[:MAX_TEXT_FOR_PATTERN])
            raw = None if match is None else match[1] if self._pattern.groups else match[0]
        elif self._pattern is not None and isinstance(raw, int | float):
            match = self._pattern.search(as_text(raw))
            raw = None if match is None else match[1] if self._pattern.groups else match[0]
        if self._is_absent(raw):
            null = self._table.null
            if isinstance(null, float):
                return null
            return MissingValue(
                null == "keep", f"{where} finds nothing" if raw is None else f"{where} gave {shown(raw)}"
            )
        match self.kind:
            case "numbers":
                each = raw if isinstance(raw, list) else [raw]
                return [None if self._is_absent(r) else self._as_number(r, where) for r in each]
            case "number":
                return self._as_number(raw, where)
            case "boolean":
                return self._as_boolean(raw, where)
            case "time":
                return self._as_time(raw, where)
        return self._as_text(raw, where)

    def _find(self, document: Any) -> tuple[Any, str]:
        table = self._table
        if self._path is not None:
            raw, text = self._path.search(document), self._path.text
            where = self.name if text == self.name else f"{self.name}: {text}"
        elif table.column is not None:
            header, columns = document
            where = f"{self.name}: column {table.column}"
            column = table.column
            if isinstance(column, str):
                if column not in header:
                    raise MessageError(f"{where} is not in the header line {shown(header)}")
                column = header.index(column)
            if column >= len(columns):
                raise MessageError(f"{where} is missing, there are {len(columns)}")
            raw = columns[column]
        elif table.key is not None:
            raw, where = document.get(table.key), f"{self.name}: {table.key}"
        elif table.metric is not None:
            raw, where = document.get(table.metric), f"{self.name}: metric {table.metric}"
        else:
            raw, where = document, f"{self.name}: the payload"
        if table.struct is not None and raw is not None:
            raw = unpacked(as_bytes(raw, table.bytes, where), table.struct, table.at, table.swap_words, where)
        return raw, where

    def _is_absent(self, raw: Any) -> bool:
        if raw is None or raw != raw:  # noqa: PLR0124 - NaN
            return True
        if isinstance(raw, str):
            text = raw.strip()
            if text.lower() in self._absent_texts:
                return True
            if not self._absent_numbers or self.kind != "number":
                return False
            try:
                return self._number.parse(text, "") in self._absent_numbers
            except MessageError:
                return False
        return isinstance(raw, int | float) and not isinstance(raw, bool) and raw in self._absent_numbers

    def _as_number(self, raw: Any, where: str) -> float:
        table = self._table
        if self._words is not None:
            word = self._words.find(raw, table.other)
            if word is not None:
                return float(word)
        if isinstance(raw, str):
            try:
                value = self._number.parse(raw, where)
            except MessageError as exc:
                if self._words is None:
                    raise
                raise MessageError(f"{exc} or one of {self._words}") from None
        else:
            value = finite(raw, where)
        if table.wrap is not None:
            try:
                value = signed(value, table.wrap)
            except ValueError as exc:
                raise MessageError(f"{where} gave {shown(raw)}: {exc}") from None
        value = value * table.scale + table.offset
        if table.table is not None:
            value = interpolated(value, table.table)
        value = table.sign * value + 0.0
        if value - value != 0:
            raise MessageError(f"{where} gave a number that is not finite")
        return clamped(value, table.clamp, table.clamp_tolerance, where)

    def _as_boolean(self, raw: Any, where: str) -> bool:
        if self._words is not None:
            word = self._words.find(raw, self._table.other)
            if word is None:
                raise MessageError(f"{where} gave {shown(raw)}, expected one of {self._words}")
            return bool(word)
        word = BOOLEANS.get(word_text(raw).lower()) if isinstance(raw, Scalar) else None
        if word is not None:
            return word
        listed = ", ".join(BOOLEANS)
        raise MessageError(f"{where} gave {shown(raw)}, expected one of {listed} (or what 'words' lists)")

    def _as_text(self, raw: Any, where: str) -> str:
        if isinstance(raw, bytes):
            raw = raw.decode("latin-1").strip("\0 ")
        if not isinstance(raw, Scalar):
            raise MessageError(f"{where} gave {shown(raw)}, expected a text")
        if self._words is None:
            return as_text(raw)
        word = self._words.find(raw, self._table.other)
        if word is None:
            raise MessageError(f"{where} gave {shown(raw)}, expected one of {self._words}")
        return as_text(word)

    def _as_time(self, raw: Any, where: str) -> float:
        """Return seconds since 1970, UTC."""
        form = self._table.time or "unix_s"
        if form in {"unix_s", "unix_ms"}:
            value = self._number.parse(raw, where) if isinstance(raw, str) else finite(raw, where)
            return value / (1000.0 if form == "unix_ms" else 1.0)
        text = as_text(raw) if isinstance(raw, Scalar) else shown(raw)
        try:
            stamp = datetime.fromisoformat(text) if form == "iso8601" else datetime.strptime(text, form)  # noqa: DTZ007
            if stamp.tzinfo is None:
                stamp = stamp.astimezone() if self._zone is None else stamp.replace(tzinfo=self._zone)
            return stamp.timestamp()
        except (ValueError, OverflowError) as exc:
            raise MessageError(f"{where} gave {shown(raw)}, expected a time ({form}): {exc}") from None


def as_bytes(raw: Any, written: str, where: str) -> bytes:
    """Return the bytes that stand in a payload or a text of it.

    Raises:
        MessageError: They do not.
    """
    if isinstance(raw, bytes) and written == "raw":
        return raw
    if isinstance(raw, bytes):
        raw = raw.decode("latin-1").strip("\0 \t\r\n")
    if not isinstance(raw, str):
        raise MessageError(f"{where} gave {shown(raw)}, expected bytes in {written}")
    try:
        if written == "hex":
            return bytes.fromhex(re.sub(r"0[xX]|[\s:,-]", "", raw))
        if written == "base64":
            return base64.b64decode(raw, validate=True)
    except (ValueError, binascii.Error):
        raise MessageError(f"{where} gave {shown(raw)}, expected bytes in {written}") from None
    raise MessageError(f'{where} gave {shown(raw)}: say how the bytes are written: bytes = "hex" or "base64"')


def unpacked(data: bytes, form: str, at: int, swap_words: bool, where: str) -> Any:
    """Return the value packed at a place.

    Raises:
        MessageError: There are not so many bytes.
    """
    size = struct.calcsize(form)
    part = data[at : at + size]
    if len(part) < size:
        raise MessageError(f"{where}: bytes {at} to {at + size - 1} are missing, there are {len(data)}")
    if swap_words:
        part = b"".join(reversed([part[i : i + 2] for i in range(0, size, 2)]))
    (value,) = struct.unpack(form, part)
    return value


def compiled(pattern: str, complain: Complain) -> re.Pattern[str] | None:
    """Return a regular expression, unless it is wrong, has several groups, or could take for ever."""
    try:
        found = re.compile(pattern)
    except re.error as exc:
        complain("pattern", f"{pattern!r} is not a regular expression: {exc}")
        return None
    if found.groups > 1:
        complain(
            "pattern", f"{pattern!r} has {found.groups} groups, expected one; write (?:...) for the others"
        )
    if _repeats_within_repeat(pattern):
        complain(
            "pattern", f"{pattern!r} repeats within a repetition: that can take forever; write it differently"
        )
        return None
    return found


_RANGE = re.compile(r"\{\d*,\d*\}")
"""A repetition with bounds, such as {1,9}."""


def _repeats_within_repeat(pattern: str) -> bool:
    open_groups: list[bool] = []  # of each group around: whether it holds a repetition
    text = re.sub(r"\\.", "x", pattern)
    text = re.sub(r"\[\^?\]?[^\]]*\]", "x", text)
    for i, char in enumerate(text):
        repeats = char in "*+" or _RANGE.match(text, i) is not None
        if char == "(":
            open_groups.append(False)
        elif char == ")" and open_groups:
            held = open_groups.pop()
            if held and text[i + 1 : i + 2] in {"*", "+", "{"}:
                return True
            if held and open_groups:
                open_groups[-1] = True
        elif repeats and open_groups:
            open_groups[-1] = True
    return False


_PLACES: dict[str, str] = {
    "json": "path",
    "csv": "column",
    "key_value": "key",
    "binary": "struct",
    "sparkplug": "metric",
}


def _check_place(table: InputTable, format_: Format, complain: Complain) -> None:
    wanted = _PLACES.get(format_)
    for place in ("path", "column", "key", "metric"):
        given = getattr(table, place) is not None
        if given and place != wanted:
            complain(place, f"format {format_!r} has none; leave it out")
        elif not given and place == wanted:
            complain(place, f"missing; format {format_!r} needs it")
    if format_ == "binary" and table.struct is None:
        complain("struct", "missing; format 'binary' needs it, for example \"<f\"")
    if table.struct is not None and format_ != "binary" and table.bytes == "raw":
        complain("bytes", 'how are the bytes written in the text? "hex" or "base64"')


def _kind(table: InputTable, complain: Complain) -> InputKind:
    kind = "time" if table.time is not None else table.type
    if table.words is None or kind != "number":
        return kind
    kinds = {_kind_of(v) for v in (*table.words.values(), *([] if table.other is None else [table.other]))}
    if len(kinds) > 1:
        complain("words", f"they mean {' and '.join(sorted(kinds))}; expected one sort of values")
    return next(iter(kinds), kind)


def _kind_of(value: Scalar) -> InputKind:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _check_time(form: str | None, complain: Complain) -> None:
    """Complain about a format that leaves open which day is meant: it would be one of 1900."""
    if form is None or form in {"unix_s", "unix_ms", "iso8601"}:
        return
    if not re.search(r"%[YyGcxs]", form) or not re.search(r"%[dejUWVcxs]", form):
        complain(
            "time",
            f"{form!r} does not say which day and year; a value that differs with each measurement can be "
            "compared with the last one: type = 'text' and changed_by",
        )


def _zone(name: str, complain: Complain) -> tzinfo | None:
    if name == "local":
        return None
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        complain("timezone", f"there is no time zone {name!r}; expected UTC, local or one like Europe/Berlin")
        return None
