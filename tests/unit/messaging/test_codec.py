"""JSON on the wire: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import contextlib
import enum
import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import WIRE_TYPES, Message, Offer
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES, decode, decode_own, encode
from heron_mqtt.messaging.stamping import MessageStamper
from support.rows import each_row

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)
objects = st.dictionaries(texts, values, max_size=6)


@given(objects)
@example({"text": "NaN and Infinity are words here"})
@example({"Infinity": 1, "x": -0.0, "big": 2**80, "tiny": 5e-324})
def test_an_object_comes_back_exactly(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


@given(objects)
def test_the_payload_is_plain_json_for_everybody(message: dict[str, Any]) -> None:
    assert json.loads(encode(message).decode()) == message


class Word(enum.StrEnum):
    HELD = "held"


class Number(enum.IntEnum):
    ONE = 1


class Half(float):
    pass


NOT_AS_WRITTEN = st.sampled_from(
    [
        *(Word.HELD, Number.ONE, Half(0.5), np.float64(0.1), np.float32(0.1), np.int64(3), np.bool_(True)),
        *(np.array([1.0, 2.0]), (1, 2.0), {1: 2}, 10**4_299, 10**4_400, -(2**63), math.nan, math.inf, -0.0),
        *(datetime(2026, 1, 1, tzinfo=UTC), b"bytes", 'a "quote"', "\ud800", object()),
    ]
)
NAMES = texts | st.sampled_from([Word.HELD, 1, 1.5, None, True])


def _exact(value: Any) -> Any:
    """Return a value with its type at every level, and with the sign of a zero."""
    if isinstance(value, dict):
        return [type(value), *((type(k), k, _exact(v)) for k, v in value.items())]
    if isinstance(value, list):
        return [type(value), *map(_exact, value)]
    return type(value), value, math.copysign(1.0, value) if isinstance(value, float) else None


def _outcome(read: Any) -> Any:
    try:
        return _exact(read())
    except MessageError as exc:
        return str(exc)


@given(st.dictionaries(NAMES, values | NOT_AS_WRITTEN, max_size=6))
@example({"p_mw": 0.1, "type": "action", "step": 3, "retained": False, "why": None})
@example({"digits": 10**4_400})
@example({"x": "text" * 2_000})
def test_a_copy_stands_for_decoding_only_where_it_is_the_same(message: dict[Any, Any]) -> None:
    try:
        payload = encode(message)
    except MessageError:
        return  # nothing is published
    assert _outcome(lambda: decode_own(payload, message)) == _outcome(lambda: decode(payload))


def _same_as_decoded(message: dict[str, Any]) -> bool:
    payload = encode(message)
    return bool(_outcome(lambda: decode_own(payload, message)) == _outcome(lambda: decode(payload)))


@given(st.dictionaries(texts, values | NOT_AS_WRITTEN, max_size=6))
def test_of_a_stamped_message_a_copy_stands_for_decoding_only_where_it_is_the_same(
    said: dict[str, Any],
) -> None:
    stamped = MessageStamper("MG1", "lab").stamp("c", said, episode=1, step=2)
    with contextlib.suppress(MessageError):  # nothing is published
        assert _same_as_decoded(stamped)


@pytest.mark.parametrize("kind", WIRE_TYPES.values())
def test_a_model_is_copied_only_where_nothing_in_it_is_nested_or_a_time(kind: type[Message]) -> None:
    said = {"p_mw": np.float64(0.5), "quantity": 1, "price": Half(2.0), "sender": Word.HELD, "value": 1.0}
    said |= {"lease_s": 1.0, "state": "reset", "clock": datetime(2026, 1, 1, tzinfo=UTC), "dt_s": 900.0}
    said |= {"forecast": {"price": [1.0]}, "sent_at": datetime(2026, 1, 1, tzinfo=UTC), "p_ess": Half(0.5)}
    known = {name: value for name, value in said.items() if name in kind.model_fields or name == "p_ess"}
    with contextlib.suppress(ValidationError):  # what else it needs is tried elsewhere
        assert _same_as_decoded(MessageStamper("MG1", "lab").stamp("c", kind(**known), step=2))


def test_what_is_put_into_a_stamped_message_is_looked_at() -> None:
    for said in ({"p_mw": 0.1}, Offer(quantity=0.0, price=0.0)):
        stamped = MessageStamper("MG1", "lab").stamp("c", said)  # type: ignore[arg-type]
        stamped["more"] = np.array([1.0])
        assert _same_as_decoded(stamped)


def test_what_is_handed_on_is_no_longer_the_senders() -> None:
    message = {"p_mw": 0.1, "vm_pu": [1.0]}
    told = decode_own(encode(message), message)
    flat = {"p_mw": 0.1}
    copied = decode_own(encode(flat), flat)
    message["p_mw"] = flat["p_mw"] = 0.2
    message["vm_pu"].append(9.0)  # type: ignore[attr-defined]
    assert (told, copied) == ({"p_mw": 0.1, "vm_pu": [1.0]}, {"p_mw": 0.1})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_every_bit(value: float) -> None:
    back = decode(encode({"p_mw": value}))["p_mw"]
    assert math.copysign(1, back) == math.copysign(1, value)
    assert back == value


@pytest.mark.parametrize(
    "payload",
    [
        b'{"p_mw": 0.01, "p_mw": 0.05}',
        b'{"active": true, "why": "a \\"quote\\"", "active": false}',
        b'{"p_mw": 1, "p\\u005fmw": 2}',
        b'{"x": [{"deep": {"a": 1, "b": 2, "a": 3}}]}',
    ],
)
def test_a_key_that_comes_twice_is_refused_as_readers_differ_in_which_they_take(payload: bytes) -> None:
    with pytest.raises(MessageError, match=r"has the key '\w+' 2 times"):
        decode(payload)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.array([1.0, np.inf])])
def test_what_is_not_finite_is_not_sent(value: Any) -> None:
    for message in ({"x": value}, {"x": [value]}, {"x": {"NaN": value}}):
        with pytest.raises(MessageError):
            encode(message)


@each_row(
    "payload",
    [
        b"",
        b"NaN",
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b'{"x": 1e999}',
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b"{",
        b'{"x": 1} trailing',
        b'{"x": 01}',
        b"{'x': 1}",
        b'{"x": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"x":' * 100_000,
    ],
)
def test_what_is_no_finite_json_object_is_not_taken(payload: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        decode(payload)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60))
@example(b'{"a": 1, "a": 2}')
def test_any_bytes_are_an_object_or_an_error(payload: bytes) -> None:
    with contextlib.suppress(MessageError):
        assert isinstance(decode(payload), dict)


def test_numpy_numbers_and_arrays_are_numbers_and_lists() -> None:
    message = {"f": np.float64(0.1), "i": np.int32(3), "b": np.bool_(True), "a": np.arange(4.0).reshape(2, 2)}
    assert decode(encode(message)) == {"f": 0.1, "i": 3, "b": True, "a": [[0.0, 1.0], [2.0, 3.0]]}


def test_a_time_is_a_text() -> None:
    assert decode(encode({"t": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)})) == {"t": "2026-01-02T03:04:05Z"}


def test_an_object_that_holds_itself_is_refused() -> None:
    message: dict[str, Any] = {}
    message["me"] = message
    with pytest.raises(MessageError):
        encode(message)


@pytest.mark.parametrize("value", [object(), lambda: 1, type, b"\xff", "\ud800"])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(MessageError):
        encode({"x": value})


def test_the_limit_holds_both_ways() -> None:
    assert len(encode({"x": "y" * 80}, limit=88)) == 88
    with pytest.raises(MessageError, match="89 bytes is over the limit of 88"):
        encode({"x": "y" * 81}, limit=88)
    with pytest.raises(MessageError, match=f"over the limit of {MAX_PAYLOAD_BYTES}"):
        decode(b" " * (MAX_PAYLOAD_BYTES + 1))
