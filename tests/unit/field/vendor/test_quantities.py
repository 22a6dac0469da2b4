"""Quantity: what was read becomes a field of our telemetry, within what that can be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.inputs import InputReader
from heron_mqtt.field.vendor.quantities import Quantity
from heron_mqtt.field.vendor.tables import FieldTable, InputTable, QuantityTable
from support.rows import each_row

UNITS: dict[str, str] = {"p_mw": "W", "q_mvar": "var", "soc": "percent", "vm_pu": "pu"}


def quantity(name: str, said: list[tuple[str, str]] | None = None, **table: Any) -> Quantity:
    keys = {**({"unit": UNITS[name]} if name in UNITS else {}), **table}
    complaints = [] if said is None else said
    return Quantity(
        name, FieldTable.model_validate(keys), {}, lambda key, text: complaints.append((key, text))
    )


@each_row(
    ("name", "raw", "value"),
    [
        ("p_mw", -1500.0, -0.0015),
        ("q_mvar", 0, 0.0),
        ("soc", 0.0, 0.0),
        ("soc", 100.0, 1.0),
        ("vm_pu", 0.0, 0.0),
        ("vm_pu", 1.02, 1.02),
        ("running", True, True),
        ("running", 0.0, False),
        ("running", 3.0, True),
        ("ack_seq", 0.0, 0),
        ("ack_seq", 7.0, 7),
    ],
)
def test_what_was_read_is_told_in_our_unit(name: str, raw: Any, value: Any) -> None:
    found = quantity(name).value({name: raw})
    assert found == value
    assert type(found) is type(value)


@each_row(
    ("name", "raw", "why"),
    [
        ("p_mw", True, "p_mw: True, expected a number"),
        ("p_mw", "5", "p_mw: '5', expected a number"),
        ("p_mw", [5.0], "expected a number"),
        ("running", "on", "running: 'on', expected true or false"),
        ("running", [True], "expected true or false"),
        ("ack_seq", -1.0, "ack_seq: -1.0, expected a sequence number"),
        ("ack_seq", 1.5, "ack_seq: 1.5, expected a sequence number"),
        ("soc", 100.1, "soc: 100.1: a state of charge of 1.001 is outside"),
        ("soc", -0.1, "is outside"),
        ("vm_pu", -0.01, "vm_pu: -0.01: a voltage must not be negative"),
    ],
)
def test_what_it_cannot_be_is_refused_by_name(name: str, raw: Any, why: str) -> None:
    with pytest.raises(MessageError) as refused:
        quantity(name).value({name: raw})
    assert why in str(refused.value)


def test_what_it_is_while_the_device_is_offline_is_in_the_unit_of_the_device() -> None:
    assert quantity("p_mw").offline is None
    assert quantity("p_mw", offline=1500.0).offline == 0.0015
    assert quantity("p_mw", offline=0.0).offline == 0.0
    assert quantity("running", offline=False).offline is False


@pytest.mark.parametrize(
    ("name", "offline", "expected"),
    [
        ("running", 0.0, "expected true or false, as running is one"),
        ("p_mw", False, "expected a number, as p_mw is one"),
        ("running", True, None),
        ("p_mw", 5.0, None),
    ],
)
def test_what_it_is_while_offline_is_of_its_kind(name: str, offline: Any, expected: str | None) -> None:
    said: list[tuple[str, str]] = []
    quantity(name, said, offline=offline)
    assert said == ([] if expected is None else [("offline", expected)])


def test_a_quantity_as_it_stands_needs_itself_and_waits_for_nothing() -> None:
    made = quantity("p_mw")
    assert (made.inputs, made.waits_for_round, made.within_s) == (("p_mw",), False, 0.0)


def test_a_formula_is_within_what_it_can_be_and_says_which_quantity_is_not() -> None:
    said: list[str] = []

    def complain(key: str, text: str) -> None:
        said.append(f"{key}: {text}")

    readers = {"a": InputReader("a", InputTable(path="a"), "json", complain)}
    table = QuantityTable(formula="a", unit="percent", clamp=(10.0, 90.0), clamp_tolerance=1.0)
    made = Quantity("soc", table, readers, complain)
    assert (made.inputs, made.waits_for_round, made.within_s) == (("a",), True, 5.0)
    for raw, value in ((50.0, 0.5), (91.0, 0.9), (9.0, 0.1)):
        assert made.value({"a": raw}) == pytest.approx(value)
    with pytest.raises(MessageError) as refused:
        made.value({"a": 91.5})
    assert str(refused.value) == "soc: the formula gave 91.5: outside 10 to 90 by more than 1"
    with pytest.raises(MessageError, match=r"^soc: 1 / a: a division by zero"):
        Quantity("soc", QuantityTable(formula="1 / a", unit="percent"), readers, complain).value({"a": 0.0})
    assert said == []
    each = Quantity("soc", QuantityTable(formula="1", unit="percent", update="each"), readers, complain)
    assert not each.waits_for_round
    assert said == ["formula: it uses no input: nothing would tell whether the device is there"]


def test_no_power_is_a_zero_without_a_sign() -> None:
    assert math.copysign(1.0, quantity("p_mw").value({"p_mw": -0.0})) == 1.0
