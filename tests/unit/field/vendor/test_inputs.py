"""Cleaning: what stands in a payload becomes the number that was meant, or is left out with its reason."""

from __future__ import annotations

import base64
import math
import struct
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.inputs import (
    InputReader,
    MissingValue,
    _repeats_within_repeat,
    _zone,
    as_bytes,
    unpacked,
)
from heron_mqtt.field.vendor.payloads import _split
from heron_mqtt.field.vendor.tables import InputTable, ValueTable
from support.rows import each_row

EXPECTED = "expected one of true, on, yes, 1, false, off, no, 0 (or what 'words' lists)"
"""Of true/false."""


def reader(format_: Any = "text", **keys: Any) -> InputReader:
    problems: list[str] = []
    table = InputTable.model_validate(keys)
    made = InputReader("x", table, format_, lambda key, text: problems.append(f"{key}: {text}"))
    if problems:
        raise ConfigError(*problems)
    return made


@given(value=st.integers(-(10**9), 10**9), places=st.integers(0, 3))
def test_a_number_with_separators_is_read_as_it_was_written(value: int, places: int) -> None:
    number = value / 10**places
    german = f"{number:,.{places}f}".replace(",", "#").replace(".", ",").replace("#", ".")
    assert reader(decimal=",", thousands=".").read(f" {german} kW ".replace(" kW", "")) == number
    assert reader(thousands=",").read(f"{number:,.{places}f}") == number
    assert reader(decimal=",").read(f"{number:.{places}f}".replace(".", ",")) == number


@each_row(
    ("keys", "raw", "wanted"),
    [
        ({}, "−5", -5.0),
        ({"suffix": "kW"}, "2.75 kW", 2.75),
        ({"suffix": "kW"}, "2.75", 2.75),
        ({"suffix": ["W", "w"]}, "2w", 2.0),
        ({"suffix": True}, "2.75 anything at all", 2.75),
        ({"suffix": {"W": 1.0, "kW": 1e3}}, "-1.5kW", -1500.0),
        ({"wrap": 8}, "255", -1.0),
        ({"wrap": 16}, 32767, 32767.0),
        ({"wrap": 16}, -5, -5.0),
        ({"wrap": 64}, str((1 << 64) - (1 << 20)), -1048576.0),
        ({"absent": [65535]}, "65535.0", None),
        ({"absent": ["---", -1]}, "---", None),
        ({"absent": ["---", -1]}, -1, None),
        ({"words": {"low": 1, "high": 2}}, "HIGH", 2.0),
        ({"words": {"max": 100}}, "37", 37.0),
        ({"words": {"a": 1}, "other": 0}, "whatever", 0.0),
        ({"words": {"E*": -1, "1": 1}, "other": 0}, "E17 hot", -1.0),
        ({"words": {"1": 1}, "other": 0}, 1.0, 1.0),
        ({"table": [[0, 0], [10, 100]]}, "2.5", 25.0),
        ({"table": [[0, 0], [10, 100]]}, "-3", 0.0),
        ({"table": [[0, 0], [10, 100]]}, "30", 100.0),
        ({"clamp": [0, 100]}, "104.9", 100.0),
        ({"clamp": [0, 100], "clamp_tolerance": 0}, "100", 100.0),
        ({"scale": 0.1, "offset": 5, "sign": -1}, "100", -15.0),
        ({"pattern": "P=(-?[0-9]+)"}, "U=1 P=-20 P=30", -20.0),
        ({"pattern": "[0-9]+"}, "abc 12 def", 12.0),
        ({"pattern": "P=([0-9]+)"}, "U=1", None),
        ({"null": 0}, "none", 0.0),
        ({"type": "text"}, " On ", " On "),
        ({"type": "boolean"}, "TRUE", True),
        ({"type": "boolean", "words": {"on": True}, "other": False}, "xyz", False),
        ({"time": "unix_ms"}, "1700000000500", 1700000000.5),
        ({"time": "iso8601"}, "2023-11-14T22:13:20Z", 1700000000.0),
        ({"time": "iso8601", "timezone": "Europe/Berlin"}, "2023-11-14 23:13:20", 1700000000.0),
        ({"time": "%d.%m.%Y %H:%M:%S"}, "14.11.2023 22:13:20", 1700000000.0),
        ({"bytes": "hex", "struct": ">h"}, "FF-9C", -100.0),
    ],
)
def test_what_is_meant(keys: dict[str, Any], raw: Any, wanted: Any) -> None:
    found = reader(**keys).read(raw)
    assert isinstance(found, MissingValue) if wanted is None else found == wanted


@each_row(
    ("keys", "raw", "problem"),
    [
        ({}, "2,75", "give 'suffix' if it is a unit"),
        ({"suffix": True}, "2,75 kW", "expected a number"),
        ({"suffix": {"W": 1.0}}, "5", "expected one of W behind it"),
        ({"suffix": "kW"}, "5 MW", "behind it one of kW"),
        ({"thousands": ".", "decimal": ","}, "2.75", "expected a number"),
        ({"thousands": ","}, "12,34", "expected a number"),
        ({"wrap": 16}, "65536", "does not fit into 16 bits"),
        ({"wrap": 16}, "0.5", "not a whole number"),
        ({"clamp": [0, 100]}, "106", "outside 0 to 100 by more than 5"),
        ({"words": {"a": 1}}, "b", "expected a number or one of a"),
        ({"type": "boolean"}, "2", "expected one of true, on, yes, 1, false, off, no, 0"),
        ({"time": "iso8601"}, "yesterday", "expected a time (iso8601)"),
        ({"time": "unix_s"}, "soon", "expected a number"),
        ({"bytes": "hex", "struct": ">h"}, "XY", "expected bytes in hex"),
        ({"bytes": "hex", "struct": ">h"}, "FF", "bytes 0 to 1 are missing, there are 1"),
        ({"bytes": "base64", "struct": ">h"}, "A!AE=", "expected bytes in base64"),
        ({}, "1e999", "not finite"),
        ({}, True, "expected a number"),
        ({}, "9" * 65, "expected a number"),
    ],
)
def test_what_cannot_be_read_says_why(keys: dict[str, Any], raw: Any, problem: str) -> None:
    with pytest.raises(MessageError) as caught:
        reader(**keys).read(raw)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("x: ")


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False), lead=st.integers(0, 8))
def test_every_byte_order_of_a_float_is_read(value: float, lead: int) -> None:
    abcd = struct.pack(">f", value)
    orders = {
        (">f", False): abcd,
        ("<f", False): abcd[::-1],
        (">f", True): abcd[2:] + abcd[:2],
        ("<f", True): abcd[1::-1] + abcd[:1:-1],
    }
    for (form, swapped), data in orders.items():
        keys = {"struct": form, "swap_words": swapped, "at": lead}
        packed = bytes(lead) + data + b"\xff"
        assert reader("binary", **keys).read(packed) == value
        for written, text in (("hex", packed.hex(" ")), ("base64", base64.b64encode(packed).decode())):
            assert reader("json", path="@", bytes=written, **keys).read(text) == value


def test_a_pattern_is_searched_for_in_the_first_4096_characters() -> None:
    number = reader(pattern=r"[0-9]")
    assert number.read("x" * 4_095 + "5") == 5.0
    assert isinstance(number.read("x" * 4_096 + "5"), MissingValue)


def test_numbers_of_an_array_are_cleaned_one_by_one() -> None:
    keys = {"path": "l", "type": "numbers", "wrap": 16, "absent": [65535]}
    assert reader("json", **keys).read({"l": [65036, None, "7", 65535, math.nan]}) == [
        -500.0,
        None,
        7.0,
        None,
        None,
    ]


@each_row(
    ("keys", "problem"),
    [
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": "(a)(b)"}, "has 2 groups, expected one"),
        ({"pattern": "(a+)+b"}, "repeats within a repetition"),
        ({"pattern": "((x*)y)*"}, "repeats within a repetition"),
        ({"time": "unix_s", "timezone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"time": "%H:%M:%S"}, "does not say which day and year"),
        ({"time": "%d.%m. %H:%M"}, "does not say which day and year"),
        ({"words": {"a": 1, "b": "x"}}, "expected one sort of values"),
        ({"words": {"a": 1}, "other": "x"}, "they mean number and text; expected one sort of values"),
        ({"words": {}}, "at least one word"),
        ({"key": "a"}, "format 'text' has none"),
        ({"struct": ">h"}, "how are the bytes written"),
        ({"suffix": "kW", "type": "text"}, "only behind a number"),
        (
            {"struct": "h"},
            "the byte order, < (little) or > (big), got 'h'; one byte alone, b or B, has none",
        ),
        ({"struct": "hh"}, "must begin with the byte order"),
        ({"struct": ">hh"}, "expected one value"),
        ({"struct": ">Z"}, "bad char"),
        ({"at": 2}, "need struct"),
        ({"clamp": [5, 1]}, "the first must be below the second"),
        ({"clamp_tolerance": 1.0}, "needs clamp"),
        ({"clamp": [0, 1], "clamp_tolerance": -0.5}, "greater than or equal to 0"),
        ({"other": 1}, "other needs words"),
        ({"decimal": ",", "thousands": ","}, "must differ"),
        ({"table": [[0, 0], [0, 1]]}, "must rise"),
        ({"scale": 0.0}, "must not be 0"),
    ],
)
def test_a_mistake_in_the_table_is_named(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        reader(**keys)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "pattern", ["P=(-?[0-9.]+)W", "(?:a|b)+([0-9]*)", r"\(x+\)*([0-9]+)", "[(+)*]+([0-9])"]
)
def test_patterns_that_cannot_hang_are_taken(pattern: str) -> None:
    assert reader(pattern=pattern, type="text")


@pytest.mark.parametrize(
    ("points", "is_refused"), [([[0, 0], [1, 1], [2, 4]], False), ([[0, 0], [2, 1], [1, 4]], True)]
)
def test_a_table_must_rise_at_every_point(points: list[list[float]], is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(ValueError, match="must rise from point to point"):
            reader(table=points)
    else:
        assert reader(table=points).read("1.5") == 2.5


@pytest.mark.parametrize("starts", [({"from": 0.0}, {"from": 1.0}), ({}, {})])
def test_of_words_the_first_alone_has_no_beginning(starts: tuple[dict[str, Any], ...]) -> None:
    words = [{"word": "ab"[n], **start} for n, start in enumerate(starts)]
    with pytest.raises(ValueError, match="every word but the first needs 'from', and the first has none"):
        ValueTable.model_validate({"quantity": "p_mw", "unit": "W", "words": words})


def test_columns_may_be_quoted_and_need_not_be() -> None:
    assert _split('a,"b, c",d', ",") == ["a", "b, c", "d"]
    assert _split("a , b;c", ",") == ["a", "b;c"]


def test_a_time_zone_is_the_one_that_is_named() -> None:
    told: list[str] = []

    def complain(key: str, text: str) -> None:
        told.append(key)

    assert _zone("UTC", complain) is UTC
    assert _zone("local", complain) is None
    assert str(_zone("Europe/Berlin", complain)) == "Europe/Berlin"
    assert told == []
    _zone("Europe/Nowhere", complain)
    assert told == ["timezone"]


@each_row(
    "pattern",
    [
        r"(a+)+",
        r"(\\d{1,9})*",
        r"(x*){2,}",
        r"(a{,3})+",
        r"(b(x(a*)y)+c)",
        r"(b(a*)+)",
        r"((a*)b)+",
        r"(a*)(b+)*",
    ],
)
def test_a_repetition_within_a_repetition_is_refused(pattern: str) -> None:
    assert _repeats_within_repeat(pattern.replace("\\\\", "\\"))


@each_row(
    "pattern", [r"(\\d+)", r"p=(\\d{3})x", r"(ab{2}c)?d", r"(a,b)+", r"(a{2})+,", r"(a+)?", r"(a+)b*", "a+)+"]
)
def test_a_plain_repetition_is_not(pattern: str) -> None:
    assert not _repeats_within_repeat(pattern.replace("\\\\", "\\"))


@each_row(
    ("keys", "raw", "wanted"),
    [
        ({"pattern": "1(.)0"}, 120, 2.0),
        ({"pattern": "[0-9]{2}"}, 345, 34.0),
        ({"pattern": "1(.)0"}, 5, MissingValue(False, "x: @ finds nothing")),
        ({"null": "keep"}, None, MissingValue(True, "x: @ finds nothing")),
        ({"null": "keep"}, "NaN", MissingValue(True, "x: @ gave 'NaN'")),
        ({"null": 2.5}, None, 2.5),
        ({"type": "text", "absent": [5]}, "5.0", "5.0"),  # another text
        ({"type": "text", "absent": [5]}, "5", MissingValue(False, "x: @ gave '5'")),
        ({"absent": [1]}, True, "x: @ gave True, expected a number"),
        ({"absent": [5]}, "5.00", MissingValue(False, "x: @ gave '5.00'")),
        ({"absent": [5]}, "a", "x: @ gave 'a', expected a number"),
        ({"absent": ["OFF"]}, " off ", MissingValue(False, "x: @ gave ' off '")),
        ({"type": "text", "words": {"1": "on", "2": True}}, 1.0, "on"),
        ({"type": "text", "words": {"1": "on", "2": "off"}}, 3, "x: @ gave 3, expected one of 1, 2"),
        ({"type": "text"}, [1], "x: @ gave [1], expected a text"),
        ({"type": "text"}, b"\0ab \0", "ab"),
        ({"type": "boolean", "words": {"on": True}}, "off", "x: @ gave 'off', expected one of on"),
        ({"type": "boolean"}, " False ", False),
        ({"type": "boolean"}, 1, True),
        ({"type": "boolean"}, "Off", False),
        ({"type": "boolean"}, "yes", True),
        ({"type": "boolean"}, 2, f"x: @ gave 2, {EXPECTED}"),
        ({"type": "boolean"}, [1], f"x: @ gave [1], {EXPECTED}"),
        ({"time": "unix_s"}, 1_700_000_000, 1_700_000_000.0),
        ({"time": "unix_s"}, "1700000000.5", 1_700_000_000.5),
        ({"time": "%Y%m%d"}, 20231114, 1_699_920_000.0),
        ({"scale": 1e308}, 10, "x: @ gave a number that is not finite"),
        ({"type": "numbers"}, 5, [5.0]),
        ({"type": "numbers"}, [], []),
        ({"words": {"max": 100}}, "min", "x: @ gave 'min', expected a number or one of max"),
    ],
)
def test_what_stands_at_a_place_is_the_value_or_says_why_there_is_none(
    keys: dict[str, Any], raw: Any, wanted: Any
) -> None:
    made = reader("json", path="@", **keys)
    if isinstance(wanted, str) and wanted.startswith("x: "):
        with pytest.raises(MessageError) as refused:
            made.read(raw)
        assert str(refused.value) == wanted
    else:
        found = made.read(raw)
        assert found == wanted
        assert type(found) is type(wanted)


def test_a_power_of_zero_has_no_sign_of_its_own() -> None:
    found = reader(sign=-1).read("0")
    assert isinstance(found, float)
    assert math.copysign(1.0, found) == 1.0


def test_a_column_is_found_by_its_place_or_its_name() -> None:
    document = (["a", "b"], ["1", "2", "3"])
    assert [reader("csv", column=column).read(document) for column in (0, 2, "b")] == [1.0, 3.0, 2.0]
    for column, why in (
        (3, "x: column 3 is missing, there are 3"),
        ("c", "x: column c is not in the header line ['a', 'b']"),
    ):
        with pytest.raises(MessageError) as refused:
            reader("csv", column=column).read(document)
        assert str(refused.value) == why
    assert reader("key_value", key="k").read({"k": "5"}) == 5.0
    assert reader("key_value", key="k").read({}) == MissingValue(False, "x: k finds nothing")
    assert reader("sparkplug", metric="m").read({}) == MissingValue(False, "x: metric m finds nothing")


@each_row(
    ("raw", "written", "data"),
    [
        (b"\x01\x02", "raw", b"\x01\x02"),
        (b" 0x01,0X02 \0\r\n", "hex", b"\x01\x02"),
        ("01-02:03", "hex", b"\x01\x02\x03"),
        (b"AQI=\n", "base64", b"\x01\x02"),
        ("0102", "raw", 'say how the bytes are written: bytes = "hex" or "base64"'),
        (5, "hex", "gave 5, expected bytes in hex"),
        ("xx", "hex", "gave 'xx', expected bytes in hex"),
        ("AQ!=", "base64", "gave 'AQ!=', expected bytes in base64"),
    ],
)
def test_bytes_are_as_they_are_written(raw: Any, written: str, data: bytes | str) -> None:
    if isinstance(data, bytes):
        assert as_bytes(raw, written, "x") == data
    else:
        with pytest.raises(MessageError, match="^x gave .*" + data.removeprefix("gave ")):
            as_bytes(raw, written, "x")


def test_a_packed_value_is_at_its_place_with_its_words_in_either_order() -> None:
    data = bytes(range(12))
    assert unpacked(data, ">H", 10, False, "x") == 0x0A0B
    assert unpacked(data, ">I", 1, True, "x") == 0x03040102
    assert unpacked(data, ">Q", 0, True, "x") == 0x0607040502030001
    with pytest.raises(MessageError) as refused:
        unpacked(data, ">I", 9, False, "x")
    assert str(refused.value) == "x: bytes 9 to 12 are missing, there are 12"


@pytest.mark.parametrize(
    ("keys", "format_", "on_change", "is_on_change"),
    [
        ({"path": "a"}, "json", False, False),
        ({"path": "a", "on_change": True}, "json", False, True),
        ({"path": "a"}, "json", True, True),
        ({"metric": "a"}, "sparkplug", False, True),
    ],
)
def test_what_is_sent_only_when_it_changes_is_known(
    keys: dict[str, Any], format_: Any, on_change: bool, is_on_change: bool
) -> None:
    table = InputTable.model_validate(keys)
    made = InputReader("x", table, format_, lambda key, text: None, on_change=on_change)
    assert made.on_change is is_on_change
    if not on_change:
        assert InputReader("x", table, format_, lambda key, text: None).on_change is is_on_change


def test_json_in_a_text_is_almost_json_only_where_the_payload_may_be() -> None:
    table = InputTable.model_validate({"path": "from_json(@).a"})
    for options, is_read in (({}, False), ({"tolerant": False}, False), ({"tolerant": True}, True)):
        made = InputReader("x", table, "json", lambda key, text: None, **options)
        if is_read:
            assert made.read("{'a': 5}") == 5.0
        else:
            with pytest.raises(MessageError, match="not JSON"):
                made.read("{'a': 5}")
