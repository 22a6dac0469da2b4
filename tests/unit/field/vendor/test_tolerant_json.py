"""Almost-JSON becomes JSON; JSON stays what it is."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.payloads import parse_json
from heron_mqtt.field.vendor.tolerant_json import to_strict
from support.rows import each_row

TEXTS = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=12)
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(document=DOCUMENTS, indent=st.sampled_from([None, 2]), is_ascii=st.booleans())
def test_json_stays_what_it_is(document: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
    assert json.loads(to_strict(text)) == document


@given(document=DOCUMENTS)
def test_the_text_of_a_python_object_is_read_as_the_object(document: Any) -> None:
    assert parse_json(repr(document), tolerant=True) == document


@each_row(
    ("text", "wanted"),
    [
        ('{"a":nan,"b":-Infinity,"c":inf,"d":None,"e":undefined}', dict.fromkeys("abcde")),
        ('{"a":,"b":}', {"a": None, "b": None}),
        ("[1,,2,]", [1, None, 2]),
        ('{"a":1,}', {"a": 1}),
        ("{'a': True, 'b': (1, 2.5)}", {"a": True, "b": [1, 2.5]}),
        ("{'it\\'s': \"a 'b'\"}", {"it's": "a 'b'"}),
        ("[.5,+3,007,1.,-.5e1]", [0.5, 3, 7, 1, -5.0]),
        ('"nan, None"', "nan, None"),
        ('{"a":"x:,y"}', {"a": "x:,y"}),
        ('{"a":"tab\there"}', {"a": "tab\there"}),
    ],
)
def test_what_is_understood(text: str, wanted: Any) -> None:
    assert parse_json(text, tolerant=True) == wanted


@pytest.mark.parametrize(
    "text", ['"\\u00e9 \\" \\\\ \\/ \\b\\f\\n\\r\\t"', '" "', '{"a":"\x7f","b":[0.5,-1e-3,true,null]}']
)
def test_json_stays_as_it_is_written(text: str) -> None:
    assert to_strict(text) == text


@each_row(
    ("written", "meant"),
    [
        (r"\x41\x7a", "Az"),
        (r"\u0041\u00e9", "A\u00e9"),
        (r"\U0001F50B", "\U0001f50b"),
        (r"\U0010FFFF\U00110000", "\U0010ffff\ufffd"),
        (r"\ud7ff\ud800\udfff\ue000", "\ud7ff\ufffd\ufffd\ue000"),
        (r"\n\t\r\b\f\a\v\0", "\n\t\r\b\f\a\v\0"),
        (r"\q\/\\", "q/\\"),
        ("\x00\x1f", "\x00\x1f"),
    ],
)
def test_characters_that_python_escapes_are_read_in_quotes_of_either_sort(written: str, meant: str) -> None:
    assert json.loads(to_strict(f"'{written}'")) == meant
    if not written.startswith(r"\ud"):
        assert json.loads(to_strict(f'"{written}"')) == meant
        assert json.loads(to_strict(f'"{written} and more"')) == f"{meant} and more"


@each_row("text", ["", "{", "{a b}", "hello", "{'a' 1}", "[1", "'", '{"a":1} extra'])
def test_what_is_no_better_is_refused(text: str) -> None:
    with pytest.raises(MessageError, match="not even almost JSON"):
        parse_json(text, tolerant=True)


def test_almost_json_is_read_only_where_the_mapping_says_so() -> None:
    with pytest.raises(MessageError, match=r"^not JSON: .*\(tolerant = true reads nan, empty values"):
        parse_json("{'a': 1}")


def test_nan_in_json_is_a_number_that_no_quantity_takes() -> None:
    assert math.isnan(parse_json('{"a": NaN}')["a"])


@given(text=st.text(alphabet="{}[]:,'\"\\ nau01.+-eTN()", max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        parse_json(text, tolerant=True)
    except MessageError:
        return
