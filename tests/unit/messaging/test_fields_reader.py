"""What is read in one look is what the codec and the models read, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import Action, Telemetry, parse_known_fields
from heron_mqtt.messaging.codec import decode
from heron_mqtt.messaging.fields_reader import FieldsReader
from support.rows import each_row

READER = FieldsReader(Telemetry)
VALUES = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 7, 1.0, 0.5, 1.0005, 1e300, 10**400, "", "x", "telemetry", 'a"b', "\u00e9"])
    | st.sampled_from(["2026-01-02T03:04:05+00:00", "yesterday", [], [1], {}, {"p_mw": 1.0}])
)
NAMES = st.sampled_from([*Telemetry.model_fields, "p_mw", "another", "p_mw "])


def slowly(payload: bytes) -> dict[str, Any] | None:
    """Return the fields as the codec and the model read them, None where they do not."""
    try:
        fields = decode(payload)
        read = parse_known_fields(Telemetry, fields)[0].model_dump(exclude={"sent_at"}, exclude_unset=True)
    except MessageError:
        return None
    return {name: value for name, value in read.items() if value is not None}


def without_nothing(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None and name != "sent_at"}


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_one_look_finds_what_the_model_finds_or_says_that_it_takes_a_longer_one(
    fields: list[tuple[str, Any]],
) -> None:
    payload = f"{{{','.join(f'{json.dumps(k)}:{json.dumps(v)}' for k, v in fields)}}}".encode()
    told, wanted = READER.of_payload(payload), slowly(payload)
    if told is not None:
        assert without_nothing(told) == wanted
    if wanted is not None:
        assert without_nothing(READER.of_fields(decode(payload))) == wanted


@given(st.binary(max_size=40))
def test_what_is_no_message_takes_a_longer_look(payload: bytes) -> None:
    assert READER.of_payload(payload) is None or slowly(payload) is not None


@each_row(
    "payload",
    [
        b'{"p_mw":1.0,"p_mw":2.0}',
        b'{"p_mw":1.0,"another":1}',
        b'{"p_mw":1e999}',
        b'{"p_mw":NaN}',
        b'{"soc":0.5}',
        b'{"p_mw":"1.0"}',
        b'{"p_mw":1.0,"soc":1.2}',
        b'{"p_mw":1.0} {}',
    ],
)
def test_what_is_not_plain_takes_a_longer_look(payload: bytes) -> None:
    assert READER.of_payload(payload) is None


def test_plain_telemetry_takes_one_look() -> None:
    told = {
        "type": "telemetry",
        "p_mw": 1,
        "soc": 0.5,
        "boot": "b",
        "seq": 3,
        "sent_at": "2026-01-02T03:04:05Z",
    }
    assert READER.of_payload(json.dumps(told).encode()) == told


def test_a_model_that_compares_fields_has_no_reader() -> None:
    with pytest.raises(TypeError, match="Action"):
        FieldsReader(Action)
