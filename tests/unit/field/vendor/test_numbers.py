"""Numbers in and out of payloads, each at its edge."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.numbers import (
    MAX_TEXT,
    NumberText,
    as_digits,
    as_number,
    clamped,
    finite,
    interpolated,
    rounded,
    shown,
)
from support.rows import each_row


@each_row("raw", [True, False, None, "5", [5], math.nan, math.inf, -math.inf, 10**400])
def test_what_is_no_finite_number_is_refused_and_names_its_place(raw: Any) -> None:
    with pytest.raises(MessageError, match=r"^its power gave "):
        finite(raw, "its power")


@pytest.mark.parametrize("raw", [0, -3, 2.5])
def test_a_number_is_taken_as_it_is(raw: float) -> None:
    assert finite(raw, "x") == raw
    assert isinstance(finite(raw, "x"), float)


@each_row(
    ("options", "text", "value"),
    [
        ((".", None, None), " -1.5e2 ", -150.0),
        ((".", None, None), "+.5", 0.5),
        ((".", None, None), "5.", 5.0),
        ((".", None, None), "\u22125", -5.0),
        ((",", None, None), "1,5", 1.5),
        ((".", ",", None), "1,234,567.5", 1234567.5),
        ((",", ".", None), "1.234,5", 1234.5),
        ((".", " ", None), "1\u202f234", 1234.0),
        ((".", "'", None), "1\u2019234", 1234.0),
        ((".", ",", None), "1234", 1234.0),
        ((".", None, True), "5 kW", 5.0),
        ((".", None, True), "5", 5.0),
        ((".", None, "kW"), "5 kW", 5.0),
        ((".", None, "kW"), "5", 5.0),
        ((".", None, ["W", "kW"]), "5kW", 5.0),
        ((".", None, {"W": 1.0, "kW": 1000.0}), "5kW", 5000.0),
        ((".", None, {"": 2.0, "kW": 1000.0}), "5", 10.0),
    ],
)
def test_a_number_in_text_is_read(options: tuple[Any, Any, Any], text: str, value: float) -> None:
    assert NumberText(*options).parse(text, "x") == value


@each_row(
    ("options", "text", "why"),
    [
        ((".", None, None), "", "expected a number"),
        ((".", None, None), "kW", "expected a number"),
        ((".", None, None), "5 kW", "nothing; give 'suffix' if it is a unit"),
        ((".", None, None), "1,5", "nothing; give 'suffix'"),
        ((".", ",", None), "12,34", "nothing; give 'suffix'"),
        ((".", None, ["W", "kW"]), "5 A", "behind it one of W, kW"),
        ((".", None, {"W": 1.0, "kW": 1e3}), "5", "expected one of W, kW behind it"),
        ((".", None, True), "1,5", "expected a number and behind it"),
        ((".", None, True), "1'500", "expected a number and behind it"),
        *(
            ((".", None, True), text, "expected a number and behind it a unit")
            for text in (
                *(
                    "1.5.2",
                    "500-",
                    "500 -",
                    "500\u2212",
                    "500\u2013",
                    "5+",
                    "12:30",
                    "2026-11-30",
                    "5/8",
                    "1_000",
                ),
                *("0x01F4", "0X1f4", "0b101", "0o17", "1F4", "00A7", "5e", "5e+", "5E-", "5 e3", "5^2"),
                *("5\u00bd", "10\u00b3", "5\u0663", "5=6", "5~6", "5\u00d710", "5 6", "5 .5", "5\x00"),
            )
        ),
        ((".", None, None), "1e999", "not finite"),
        ((".", None, None), "1" * (MAX_TEXT + 1), "expected a number"),
    ],
)
def test_text_that_is_no_number_says_what_was_expected(
    options: tuple[Any, Any, Any], text: str, why: str
) -> None:
    with pytest.raises(MessageError) as refused:
        NumberText(*options).parse(text, "its power")
    assert why in str(refused.value)
    assert str(refused.value).startswith("its power gave ")


@each_row(
    "unit",
    [
        "kW",
        "W",
        "A",
        "C",
        "F",
        "b",
        "eV",
        "%",
        "\u00b0C",
        "m3/h",
        "m\u00b3",
        "kWh (total)",
        "*kWh",
        "(ok)",
        "[W]",
    ],
)
def test_a_unit_of_any_kind_is_no_part_of_the_number(unit: str) -> None:
    assert NumberText(".", None, True).parse(f"12{unit}", "x") == 12.0
    assert NumberText(".", None, True).parse(f"-1.5 {unit}", "x") == -1.5


@given(
    value=st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9),
    behind=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_with_any_suffix_a_number_is_read_whole_or_not_at_all(value: float, behind: str) -> None:
    """Whatever stands behind: it is a unit, or the whole is a number, or it is refused."""
    text = f"{value!r}{behind}"
    try:
        read = NumberText(".", None, True).parse(text, "x")
    except MessageError:
        return
    begin = re.match(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?", text)
    assert begin is not None
    rest = text[begin.end() :].strip()
    assert read == float(begin[0]), text
    assert not rest or not (rest[0].isnumeric() or rest[0] in "+-.,:/_'^=~\u2212"), text


def test_the_longest_text_is_read() -> None:
    assert NumberText(".", None, None).parse("0" * 63 + "7", "x") == 7.0


@pytest.mark.parametrize(
    ("x", "y"), [(-1.0, 5.0), (0.0, 5.0), (1.0, 10.0), (2.0, 15.0), (3.0, 0.0), (4.0, -15.0), (9.0, -15.0)]
)
def test_between_points_the_line_holds_and_beyond_them_the_last_one(x: float, y: float) -> None:
    assert interpolated(x, [(0.0, 5.0), (2.0, 15.0), (4.0, -15.0)]) == y


@pytest.mark.parametrize(
    ("value", "limits", "tolerance", "expected"),
    [
        (999.0, None, None, 999.0),
        (105.0, (0.0, 100.0), None, 100.0),
        (-5.0, (0.0, 100.0), None, 0.0),
        (50.0, (0.0, 100.0), None, 50.0),
        (101.0, (0.0, 100.0), 1.0, 100.0),
        (45.0, (50.0, 150.0), None, 50.0),  # 5 % of the range, not of its end
        (100.0, (0.0, 100.0), 0.0, 100.0),
    ],
)
def test_a_little_beyond_the_limits_is_the_limit(
    value: float, limits: tuple[float, float] | None, tolerance: float | None, expected: float
) -> None:
    assert clamped(value, limits, tolerance, "x") == expected


@pytest.mark.parametrize(
    ("value", "limits", "tolerance"),
    [
        (105.01, (0.0, 100.0), None),
        (-5.01, (0.0, 100.0), None),
        (101.01, (0.0, 100.0), 1.0),
        (100.01, (0.0, 100.0), 0.0),
        (44.9, (50.0, 150.0), None),
    ],
)
def test_further_beyond_them_is_refused(
    value: float, limits: tuple[float, float], tolerance: float | None
) -> None:
    with pytest.raises(MessageError, match=r"^x gave .*: outside .* by more than "):
        clamped(value, limits, tolerance, "x")


def test_a_value_is_shown_to_people_whatever_its_length() -> None:
    assert shown("a" * (MAX_TEXT - 2)) == repr("a" * (MAX_TEXT - 2))
    assert shown("a" * (MAX_TEXT - 1)) == "str '" + "a" * 39 + "..."


@each_row(
    ("value", "decimals", "toward_zero", "expected"),
    [
        (1.26, 1, False, 1.3),
        (1.26, 1, True, 1.2),
        (-1.26, 1, True, -1.2),
        (-1.26, 1, False, -1.3),
        (0.3 * 3, 1, True, 0.9),  # 0.8999999999999999
        (-0.3 * 3, 1, True, -0.9),
        (1500.0, -2, False, 1500.0),
        (1599.0, -2, True, 1500.0),
        (-0.04, 1, True, 0.0),
        (-0.04, 1, False, 0.0),
    ],
)
def test_a_value_is_rounded_and_towards_zero_never_up(
    value: float, decimals: int, toward_zero: bool, expected: float
) -> None:
    done = rounded(value, decimals, toward_zero=toward_zero)
    assert done == expected
    assert math.copysign(1.0, done) == (math.copysign(1.0, expected) if expected else 1.0), "no -0"


@each_row(
    ("value", "decimals", "number", "digits"),
    [
        (5.0, 0, 5, "5"),
        (5.0, None, 5.0, "5"),
        (5.25, 1, 5.25, "5.2"),
        (-0.0, None, 0.0, "0"),
        (-0.0, 0, 0, "0"),
        (1e-7, None, 1e-7, "0.0000001"),
        (1e22, None, 1e22, "10000000000000000000000"),
        (2.50, 2, 2.5, "2.50"),
    ],
)
def test_a_number_is_written_without_a_fraction_that_was_not_asked_for_and_without_an_exponent(
    value: float, decimals: int | None, number: float, digits: str
) -> None:
    shown_number = as_number(value, decimals)
    assert shown_number == number
    assert isinstance(shown_number, int) is (decimals == 0)
    assert as_digits(value, decimals) == digits


def test_a_zero_is_written_without_a_sign() -> None:
    for zero in (
        rounded(-0.4, 0, toward_zero=False),
        rounded(-0.4, 0, toward_zero=True),
        as_number(-0.0, None),
    ):
        assert math.copysign(1.0, zero) == 1.0
    assert (as_digits(-0.0, 2), as_digits(-0.0, None)) == ("0.00", "0")


def test_towards_zero_sixteen_roundings_off_are_still_the_whole_number() -> None:
    step = math.ulp(4.9)
    for off, whole in ((15, 5.0), (16, 5.0), (17, 4.0)):
        assert rounded(5.0 - off * step, 0, toward_zero=True) == whole
