"""Payloads of names and values: quotes around a value are not part of it, and a lone one is."""

from __future__ import annotations

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.payloads import parse
from heron_mqtt.field.vendor.tables import PayloadKeys

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
