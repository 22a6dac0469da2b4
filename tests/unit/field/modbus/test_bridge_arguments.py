"""Arguments of bridges to Modbus devices: what is none is refused with what was expected."""

from __future__ import annotations

import argparse

import pytest

from heron_mqtt.field.modbus.program import further_unit, positive
from support.rows import each_row


@pytest.mark.parametrize(
    ("text", "kinds", "options", "expected"),
    [
        ("roof@3", (), (), ("roof", 3, None, {})),
        ("roof@0", (), (), ("roof", 0, None, {})),
        ("roof@255", (), (), ("roof", 255, None, {})),
        ("roof@3:pv", ("pv", "battery"), (), ("roof", 3, "pv", {})),
        ("roof@3,map=a.toml,x=1", (), ("map", "x"), ("roof", 3, None, {"map": "a.toml", "x": "1"})),
        ("roof@3,map=a=b", (), ("map",), ("roof", 3, None, {"map": "a=b"})),
    ],
)
def test_a_further_unit_is_read(
    text: str, kinds: tuple[str, ...], options: tuple[str, ...], expected: tuple[object, ...]
) -> None:
    unit = further_unit(text, kinds, options)
    assert tuple(getattr(unit, name) for name in unit.__dataclass_fields__) == expected


@each_row(
    "text",
    ["roof", "@3", "roof@", "roof@x", "roof@256", "roof@-1", "roof@3:pv", "roof@3,x=a", "roof@3,", ""],
)
def test_what_is_no_further_unit_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        further_unit(text)
    assert str(refused.value) == f"{text!r}: expected NAME@UNIT, UNIT 0 to 255"


@pytest.mark.parametrize("text", ["roof@3:wind", "roof@3,map=", "roof@3,map", "roof@3,other=1"])
def test_what_is_expected_of_a_further_unit_names_its_kinds_and_options(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        further_unit(text, ("pv", "battery"), ("map", "x"))
    assert str(refused.value) == (
        f"{text!r}: expected NAME@UNIT[:KIND][,map=...][,x=...], UNIT 0 to 255, KIND pv or battery"
    )


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "x", ""])
def test_what_is_no_number_above_0_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0"):
        positive(text)


def test_a_number_above_0_is_read() -> None:
    assert positive("0.25") == 0.25
