"""Payloads become documents: JSON, text, columns, pairs, bytes; and what an expression finds in one."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.payloads import Expression, parse, sample
from heron_mqtt.field.vendor.tables import PayloadKeys
from support.rows import each_row

KEY_VALUE = PayloadKeys(format="key_value")


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("5", "5"),
        ('"5 kW"', "5 kW"),
        ("'5'", "5"),
        ('""', ""),
        ('"', '"'),
        ("'5\"", "'5\""),
        ("", ""),
    ],
)
def test_quotes_around_a_value_are_not_part_of_it(value: str, meant: str) -> None:
    assert parse(f"p={value}".encode(), KEY_VALUE)["p"] == meant


def test_a_payload_without_names_is_named_with_its_beginning() -> None:
    with pytest.raises(MessageError, match="no name=value in it; it begins 'hello'"):
        parse(b"hello", KEY_VALUE)


@each_row(
    ("keys", "payload", "document"),
    [
        ({"format": "binary"}, b"\x00\xff ", b"\x00\xff "),
        ({"format": "text"}, b"\xef\xbb\xbf\x00 5 W\r\n", "5 W"),
        ({"format": "text", "encoding": "latin-1"}, b"5 \xb0C", "5 \u00b0C"),
        ({}, b'{"a": 1}', {"a": 1}),
        ({"line": 0}, b'{"a": 1}\n\n{"a": 2}', {"a": 1}),
        ({"line": -1}, b'{"a": 1}\n\n{"a": 2}', {"a": 2}),
        ({"tolerant": True}, b"{'a': nan}", {"a": None}),
        ({"format": "csv"}, b"", ([], [])),
        ({"format": "csv"}, b" ", ([], [])),
        ({"format": "csv"}, b"a, b\n1, 2\n3 ,4", (["a", "b"], ["3", "4"])),
        ({"format": "csv", "line": 1}, b"a,b\n1,2\n3,4", (["a", "b"], ["1", "2"])),
        ({"format": "csv", "line": 0}, b"a,b\n1,2", (["a", "b"], ["a", "b"])),
        ({"format": "csv"}, b'"a,b", c', (["a,b", "c"], ["a,b", "c"])),
        ({"format": "csv", "separator": "||"}, b'"a||b', (['"a', "b"], ['"a', "b"])),
        ({"format": "csv", "separator": ";"}, b"a;b", (["a", "b"], ["a", "b"])),
        ({"format": "key_value", "separator": ";", "assign": ":"}, b"a: 1;x;b:2:3", {"a": "1", "b": "2:3"}),
    ],
)
def test_a_payload_is_read_as_its_format_says(keys: dict[str, Any], payload: bytes, document: Any) -> None:
    assert parse(payload, PayloadKeys.model_validate(keys)) == document


@pytest.mark.parametrize(
    ("keys", "payload", "why"),
    [
        ({"format": "text"}, b"\xff" * 41, f"not UTF-8 text; it begins {bytes([255]) * 40!r}"),
        ({"line": 2}, b"1\n2", "line 2 is missing, there are 2"),
        ({"format": "csv", "line": -3}, b"1\n2", "line -3 is missing, there are 2"),
        ({"format": "csv"}, b'"a"b,c' + b"x" * 40, "not csv: ',' expected after '\"'; it begins '\"a\"b,c"),
        (
            {},
            b"a" * 41,
            f"it begins {'a' * 40!r} (tolerant = true reads nan, empty values, single quo",
        ),
        ({"tolerant": True}, b"{a b}", "not even almost JSON: "),
        ({"format": "key_value"}, b"h" * 41, f"no name=value in it; it begins {'h' * 40!r}"),
    ],
)
def test_a_payload_of_another_format_says_what_does_not_fit(
    keys: dict[str, Any], payload: bytes, why: str
) -> None:
    with pytest.raises(MessageError) as refused:
        parse(payload, PayloadKeys.model_validate(keys))
    assert why in str(refused.value)


def test_an_expression_finds_json_in_a_text() -> None:
    said: list[tuple[str, str]] = []
    strict = Expression("from_json(a).b", lambda *each: said.append(each))
    tolerant = Expression("from_json(a).b", lambda *each: said.append(each), tolerant=True)
    assert strict.search({"a": '{"b": 5}'}) == tolerant.search({"a": "{'b': 5}"}) == 5
    assert strict.search({}) is None
    with pytest.raises(MessageError, match=r"^from_json\(a\)\.b: not JSON: "):
        strict.search({"a": "{'b': 5}"})
    with pytest.raises(MessageError, match=r"^from_json\(a\)\.b does not fit the payload: In function"):
        strict.search({"a": 5})
    assert said == []


def test_an_expression_that_is_none_or_calls_what_is_not_there_is_named() -> None:
    said: list[tuple[str, str]] = []
    for text in ("a..b", "sum(a) + 1", "max(summe(a), zahl(b))", "length(a)"):
        Expression(text, lambda *each: said.append(each))
    assert [key for key, _ in said] == ["path"] * 3
    assert said[0][1].startswith("'a..b' is not a JMESPath expression: ")
    assert "\n" not in said[0][1]
    assert said[2][1] == "'max(summe(a), zahl(b))': JMESPath has no function summe()"


def test_the_beginning_of_a_payload_is_shown() -> None:
    assert sample(b"x" * 60) == repr("x" * 60)
    assert sample(b"x" * 61) == repr("x" * 60) + "..."
    assert sample(b"\xff\x00") == "'hex ff00'"
    assert sample(b"\xff" * 61) == repr("hex " + "ff" * 28) + "..."
