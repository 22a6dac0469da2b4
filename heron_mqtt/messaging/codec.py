"""JSON on the wire: objects only, UTF-8, no NaN, no infinity, no key twice, bounded; for every broker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from heron_mqtt.errors import MessageError
from heron_mqtt.json_object import Json

__all__ = ["LAST_STAMPED", "MAX_PAYLOAD_BYTES", "Json", "decode", "decode_own", "encode"]

MAX_PAYLOAD_BYTES = 1 << 20  # a message of ours is 300 bytes; the rest is room for users


READ_AS_WRITTEN = frozenset({str, float, int, bool, type(None)})
"""Types of values that hold nothing else: of them a message is flat."""
_NAMES = frozenset({str})


class _LastStamped:
    """The message that a stamper of this process made last, which is most often the next to be encoded.

    Attributes:
        made: The message; the fields in it that may be anything (all others are texts and numbers); and how
            many it has. In one, as any thread may stamp.
    """

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: tuple[Json, Json, int] = ({}, {}, 0)


LAST_STAMPED = _LastStamped()
_N, _I = b"NI"  # bytes.__contains__ takes bytes for a number first: an exception inside, each time
_LONGEST_INTEGER = 4_300  # digits; a longer one can be written but not read


def _plain(value: object) -> Any:
    item = getattr(value, "item", None)  # numpy scalars
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    tolist = getattr(value, "tolist", None)  # numpy arrays
    if callable(tolist):
        return tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def encode(message: Mapping[str, Any], limit: int = MAX_PAYLOAD_BYTES) -> bytes:
    """Return a message as JSON.

    Raises:
        MessageError: Not an object, not JSON, NaN or infinity in it, or larger than ``limit`` bytes.
    """
    if not isinstance(message, dict) and not isinstance(message, Mapping):  # which would be looked up
        raise MessageError(f"a message must be a JSON object (dict), got {type(message).__name__}")
    try:
        data = to_json(message, fallback=_plain)
    except (PydanticSerializationError, TypeError, ValueError) as exc:
        raise MessageError(f"a message must be plain JSON: {exc}") from None
    if len(data) > limit:
        raise MessageError(f"a message of {len(data)} bytes is over the limit of {limit}")
    # the single letters first, as numbers: they are found much faster, and most messages have neither
    if (_N in data and b"NaN" in data) or (_I in data and b"Infinity" in data):
        decode(data, limit)  # that may stand in a text; a number raises here
    return data


def decode(data: bytes, limit: int = MAX_PAYLOAD_BYTES) -> Json:
    """Return the object that a payload holds.

    Raises:
        MessageError: Too large, not UTF-8 JSON, NaN or infinity in it, a key twice, or not an object.
    """
    if len(data) > limit:
        raise MessageError(f"payload of {len(data)} bytes is over the limit of {limit}")
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as exc:
        raise MessageError(f"payload is not JSON: {exc}; it begins {bytes(data[:40])!r}") from None
    if not isinstance(value, dict):
        raise MessageError(f"payload must be a JSON object, got {type(value).__name__}")
    try:
        quotes = 2 * len(value) + _quotes(value.values())
    except OverflowError:  # 1e999 parses, and is infinite
        why = f"payload holds a number too large for a float; it begins {bytes(data[:40])!r}"
        raise MessageError(why) from None
    if quotes != data.count(b'"'):  # a key that came twice, or only a quote inside a text
        json.loads(data, object_pairs_hook=_unique, parse_int=len, parse_float=len)  # numbers are known
    return value


def decode_own(payload: bytes, message: Mapping[str, Any]) -> Json:
    """Return what ``decode`` gives for a payload, where ``encode`` has just made it of ``message``.

    A flat object of texts and numbers is read as it was written, so that a copy of it is the same. All else
    is decoded: what is nested, a time, a number of numpy, a text that is an enumeration. Of a message that
    was stamped just before, only what its sender may have put in is looked at, not the metadata beside it.

    Raises:
        MessageError: As ``decode``.
    """
    stamped, unknown, n_fields = LAST_STAMPED.made
    if message is stamped and len(stamped) == n_fields and len(payload) <= _LONGEST_INTEGER:
        if not unknown or READ_AS_WRITTEN.issuperset(map(type, unknown.values())):
            return stamped.copy()
    elif (
        type(message) is dict
        and READ_AS_WRITTEN.issuperset(map(type, message.values()))
        and _NAMES.issuperset(map(type, message))
        and len(payload) <= _LONGEST_INTEGER
    ):
        return message.copy()
    return decode(payload)


def _quotes(values: Iterable[Any]) -> int:
    """Return how many quotes the keys and texts in these values have around them in JSON.

    Raises:
        OverflowError: A number in it is not finite.
    """
    quotes = 0
    for value in values:
        kind = type(value)
        if kind is str:
            quotes += 2
        elif kind is float:
            if value - value != 0.0:
                raise OverflowError
        elif kind is dict:
            quotes += 2 * len(value) + _quotes(value.values())
        elif kind is list:
            quotes += _quotes(value)
    return quotes


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Take the pairs of an object; two readers may take two different ones of a key that comes twice."""
    table = dict(pairs)
    if len(table) != len(pairs):
        (key, times), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise MessageError(f"payload has the key {key[:40]!r} {times} times")
    return table
