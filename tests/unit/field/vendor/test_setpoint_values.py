"""SetpointValue: how a quantity of a setpoint becomes the vendor's number or word, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.setpoint_values import SetpointValue, SetpointValues
from heron_mqtt.field.vendor.tables import ValueTable
from heron_mqtt.messages import Setpoint

W_PER_MW = 1e6
WORDS = [{"word": "charge"}, {"word": "rest", "from": -100.0}, {"word": "give", "from": 100.0}]


def value(**table: Any) -> SetpointValue:
    return SetpointValue(ValueTable.model_validate({"quantity": "p_mw", **table}), W_PER_MW, None, {})


@pytest.mark.parametrize(
    ("table", "p_mw", "number"),
    [
        ({}, 0.005, 5000.0),
        ({"sign": -1}, 0.005, -5000.0),
        ({"sign": -1, "absolute": True}, 0.005, 5000.0),
        ({"scale": 0.1, "offset": 50.0}, 0.005, 550.0),
        ({"absolute": True, "scale": -1.0}, -0.005, -5000.0),  # the magnitude, before the scale
        ({"table": [(0.0, 0.0), (10_000.0, 100.0)]}, 0.005, 50.0),
        ({"decimals": 0}, 0.0000016, 2),
        ({"decimals": 0, "rounding": "toward_zero"}, 0.0000016, 1),
        ({"min": 0.0}, -0.005, 0.0),
        ({"max": 0.0}, 0.005, 0.0),
        ({"min": 100.0, "max": 4000.0}, 0.005, 4000.0),
        ({"min": 100.0, "max": 4000.0}, 0.00005, 100.0),
        ({"decimals": 0, "wrap": 16}, 0.032767, 32767),
        ({"decimals": 0, "wrap": 16}, 0.032768, 32767),  # no more than the bits hold
        ({"decimals": 0, "wrap": 16}, 0.0, 0),
        ({"decimals": 0, "wrap": 16}, -0.000001, 65535),
        ({"decimals": 0, "wrap": 16}, -0.032768, 32768),
        ({"decimals": 0, "wrap": 16}, -0.04, 32768),
        ({"decimals": 0, "wrap": 8}, -0.000001, 255),
    ],
)
def test_a_power_becomes_the_vendors_number(table: dict[str, Any], p_mw: float, number: float) -> None:
    assert value(**table).number(p_mw) == pytest.approx(number)
    assert value(**table).render(Setpoint(p_mw=p_mw, lease_s=1.0), {}).json == pytest.approx(number)


@pytest.mark.parametrize(
    ("table", "p_mw", "why"),
    [
        ({"max": 4000.0}, 0.005, "5000 is above max = 4000"),
        ({"max": 5000.0}, 0.005, None),
        ({"min": -4000.0}, -0.005, "-5000 is below min = -4000"),
        ({"min": -5000.0}, -0.005, None),
        ({"min": 100.0}, 0.00005, "50 would be raised to min = 100"),
        ({"min": 100.0}, 0.0001, None),
        ({"min": 100.0}, 0.0, None),  # to rest is not raised
        ({"min": 0.0}, -0.005, "-5000 is below min = 0"),
        ({"max": -100.0}, 0.005, "5000 is above max = -100"),
        ({"max": -100.0}, 0.0, None),
        ({}, 0.005, None),
        ({"max": -0.5}, -0.3e-6, None),  # a bound of the other sign bounds what is beyond 0
        ({"min": 0.5}, -0.3e-6, "-0.3 is below min = 0.5"),
        ({"min": 0.5}, 0.3e-6, "0.3 would be raised to min = 0.5"),
    ],
)
def test_what_a_bound_turns_into_something_else_is_said(
    table: dict[str, Any], p_mw: float, why: str | None
) -> None:
    assert value(**table).beyond(p_mw) == why


@pytest.mark.parametrize(
    ("table", "p_mw", "is_other"),
    [
        ({"min": 0.0}, -0.005, True),
        ({"min": 0.0}, 0.005, False),
        ({"min": 0.0}, 0.0, False),
        ({"max": 0.0}, 0.005, True),
        ({"max": 0.0}, -0.005, False),
        ({"max": 0.0}, 0.0, False),
        ({"min": 1.0}, -0.005, False),
        ({"max": -1.0}, 0.005, False),
        ({"min": 0.0}, 0.5e-6, False),
        ({"max": 0.0}, -0.5e-6, False),
    ],
)
def test_a_number_of_one_sign_is_not_for_a_power_of_the_other(
    table: dict[str, Any], p_mw: float, is_other: bool
) -> None:
    assert value(**table).is_for_other_sign(p_mw) is is_other


@pytest.mark.parametrize(
    ("p_w", "word"), [(-101.0, "charge"), (-100.0, "rest"), (99.0, "rest"), (100.0, "give"), (5e3, "give")]
)
def test_a_word_is_sent_from_its_threshold_on(p_w: float, word: str) -> None:
    rendered = value(words=WORDS).render(Setpoint(p_mw=p_w / W_PER_MW, lease_s=1.0), {})
    assert (rendered.json, rendered.text) == (word, word)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "5000"),
        ({"decimals": 2}, "5000.00"),
        ({"decimals": 2, "decimal": ","}, "5000,00"),
        ({"decimals": 0, "width": 6}, "005000"),
        ({"decimals": 0, "sign": -1, "width": 6}, "-05000"),
    ],
)
def test_in_text_a_number_is_written_as_the_device_reads_it(table: dict[str, Any], text: str) -> None:
    assert value(**table).render(Setpoint(p_mw=0.005, lease_s=1.0), {}).text == text


def test_the_number_of_a_setpoint_is_whole_and_a_safe_state_has_0() -> None:
    table = ValueTable.model_validate({"quantity": "seq"})
    rendered = SetpointValue(table, 1.0, None, {})
    assert rendered.render(Setpoint(p_mw=0.0, lease_s=1.0, seq=7), {}).text == "7"
    assert rendered.render(Setpoint(p_mw=0.0, lease_s=1.0), {}).json == 0
    assert isinstance(rendered.render(Setpoint(p_mw=0.0, lease_s=1.0, seq=7), {}).json, int)


def test_what_differs_in_every_message_means_nothing_else() -> None:
    fleeting = {"seq", "lease_s", "uid"}
    for quantity in ("p_mw", "q_mvar", *fleeting):
        table = ValueTable.model_validate({"quantity": quantity})
        assert SetpointValue(table, 1.0, None, {}).is_fleeting is (quantity in fleeting)


def test_a_power_that_is_no_number_for_the_device_is_not_sent() -> None:
    with pytest.raises(
        MessageError, match=r"setpoint: p_mw = 1e\+300 is not a finite number; it is not sent"
    ):
        value(scale=1e10).number(1e300)


def test_what_a_value_is_made_of_is_known_through_the_values_above_it() -> None:
    tables = {
        "w": {"quantity": "p_mw", "unit": "W"},
        "share": {"formula": "w / limit"},
        "id": {"quantity": "uid"},
        "frame": {"pack": ["{share}", "{id}"], "struct": ">ff", "bytes": "hex"},
        "soc": {"formula": "soc / 100"},
        "ratio": {"formula": "soc + lease_s"},
        "early": {"formula": "seq"},
        "seq": {"quantity": "q_mvar"},
    }
    parsed = {name: ValueTable.model_validate(table) for name, table in tables.items()}
    values = SetpointValues(parsed, ("limit", "soc"), Problems("x"))
    every = {name: values.quantities([name]) for name in tables}
    assert every == {
        "w": ({"p_mw"}, {"w"}),
        "share": ({"p_mw"}, {"w", "share"}),
        "id": ({"uid"}, {"id"}),
        "frame": ({"p_mw", "uid"}, {"w", "share", "id", "frame"}),
        "soc": (set(), {"soc"}),
        "ratio": ({"lease_s"}, {"soc", "ratio"}),
        "early": ({"seq"}, {"early"}),  # the setpoint's: the value of that name stands below
        "seq": ({"q_mvar"}, {"seq"}),
    }
    assert values.quantities(["frame", "ratio", "other"])[0] == {"p_mw", "uid", "lease_s"}
    assert values.measured_by(["frame", "early"]) == {"share": ["limit"]}
    assert values.measured_by(["soc"]) == {"soc": ["soc"]}
