"""Formulas: arithmetic and nothing else, bounded, and every mistake named when a mapping is loaded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.formula import MAX_EXPONENT, Formula, signed
from support.rows import each_row

FINITE = st.floats(-1e6, 1e6)


def compiled(
    text: str, *names: str, lists: tuple[str, ...] = (), loose: tuple[str, ...] = ()
) -> tuple[Formula, list[str]]:
    problems: list[str] = []

    def complain(key: str, text: str) -> None:
        problems.append(f"{key}: {text}")

    return Formula(text, names, complain, lists=lists, loose=loose), problems


def value(text: str, **values: object) -> object:
    formula, problems = compiled(text, *values)
    assert not problems
    return formula.evaluate(values)


@given(a=FINITE, b=FINITE, c=FINITE)
def test_a_formula_gives_what_the_same_arithmetic_gives(a: float, b: float, c: float) -> None:
    assert value("a - b * c + max(a, b, -c) / 4", a=a, b=b, c=c) == pytest.approx(
        a - b * c + max(a, b, -c) / 4, rel=1e-12, abs=1e-6
    )


@each_row(
    ("text", "values", "wanted"),
    [
        ("a if a > b else b", {"a": 1.0, "b": 2.0}, 2.0),
        ("'charge' if p < 0 else 'discharge'", {"p": -1.0}, "charge"),
        ("mode == 'IN' and not off", {"mode": "IN", "off": False}, True),
        ("0 <= a < 1", {"a": 0.5}, True),
        ("clip(a, 0, 10) + round(b, 1)", {"a": 99.0, "b": 0.26}, 10.3),
        ("signed(65036, 16) + signed(4294967295, 32)", {}, -501.0),
        ("bit(8, 3)", {}, True),
        ("bit(9, 0) and not bit(8, 0)", {}, True),
        ("min(3, a, 2)", {"a": 1.0}, 1.0),
        ("sign(-3) * sqrt(9) + abs(-1) + floor(1.9) + ceil(0.1)", {}, 0.0),
        ("sin(0) + cos(0) + pi * 0", {}, 1.0),
        ("-0.0 * a", {"a": 1.0}, 0.0),
        ("7 // 2 + 7 % 4 + 2 ** 3", {}, 14.0),
        ("true and false", {}, False),
    ],
)
def test_what_a_formula_knows(text: str, values: dict[str, object], wanted: object) -> None:
    found = value(text, **values)
    assert found == pytest.approx(wanted) if isinstance(wanted, float) else found is wanted or found == wanted


def test_each_function_to_its_edge() -> None:
    for text, wanted in {
        "2 ** 16": 65_536.0,
        "2 ** -16": 2.0**-16,
        "sign(5) + 10 * sign(0) + 100 * sign(-5)": -99.0,
        "sign(0.5)": 1.0,
        "sign(-0.5)": -1.0,
        "bit(1, 0)": True,
        "bit(2, 0)": False,
        "bit(9223372036854775808, 63)": True,
        "signed(32767, 16)": 32_767.0,
        "signed(32768, 16)": -32_768.0,
        "signed(65535, 16)": -1.0,
        "signed(-32768, 16)": -32_768.0,
        "count(1, 2)": 2.0,
        "avg(1, 2, 6)": 3.0,
        "round(2.6)": 3.0,
        "round(2.64, 1)": 2.6,
        "round(26, -1)": 30.0,
        "clip(5, 0, 10)": 5.0,
        "clip(-5, 0, 10)": 0.0,
        "floor(-1.5)": -2.0,
        "ceil(-1.5)": -1.0,
        "+3 - -2": 5.0,
        "7 - 2 < 5": False,
        "7 - 2 <= 5": True,
        "7 - 2 > 5": False,
        "7 - 2 >= 5": True,
        "7 == 5 or 7 != 5": True,
        "18446744073709551616 > 1": True,
        f"'{'x' * 200}' == 'x'": False,
    }.items():
        found = value(text)
        assert found == wanted, text
        assert type(found) is type(wanted), text
    for zero in ("0 * -1", "-0.0"):
        assert math.copysign(1.0, float(str(value(zero)))) == 1.0


def test_a_list_in_functions_counts_by_its_numbers() -> None:
    formula, problems = compiled("count(l) * 100 + max(l, 7) * 10 + avg(l)", "l", lists=("l",))
    assert (problems, formula.names) == ([], ("l",))
    assert formula.evaluate({"l": [1.0, 3.0]}) == 272.0
    with pytest.raises(MessageError, match="no number is there"):
        formula.evaluate({"l": []})
    for text in ("abs(l)", "l if l else 1", "l > 1", "not l", "sum(abs(l))", "1 if l and 1 else 0"):
        _, problems = compiled(text, "l", lists=("l",))
        wanted = f"formula: {text!r}: l is a list of numbers; say sum(l), avg, min, max or count"
        assert problems == [wanted]


def test_a_formula_is_no_longer_and_no_deeper_than_can_be_read() -> None:
    too_long = "too long: at most 200 parts, 20 within each other; make it two formulas"
    for text, is_right in (
        (f"sum({','.join(['1'] * 196)})", True),
        (f"sum({','.join(['1'] * 197)})", False),
        (f"{'-' * 18}1", True),
        (f"{'-' * 19}1", False),
    ):
        assert compiled(text)[1] == ([] if is_right else [f"formula: {text!r}: {too_long}"])
    for text in ("18446744073709551617", f"'{'x' * 201}'"):
        assert compiled(text)[1] == [f"formula: {text!r}: {text[:40]} cannot be used in a formula"]


def test_a_formula_stands_where_it_is_said_and_names_what_it_uses_once() -> None:
    said: list[tuple[str, str]] = []
    made = Formula("b + a + b + pi + max(c)", ["a", "b", "c"], lambda *each: said.append(each), key="when")
    assert (sorted(made.names), said) == (["a", "b", "c"], [])
    Formula("a + zz", [], lambda *each: said.append(each), key="when")
    assert said == [
        ("when", "'a + zz': nothing is called a; there are none"),
        ("when", "'a + zz': nothing is called zz; there are none"),
    ]


def test_lists_are_for_functions_and_may_stand_beside_numbers() -> None:
    formula, problems = compiled("sum(phases, x) + count(phases)", "phases", "x", lists=("phases",))
    assert not problems
    assert formula.evaluate({"phases": [1.0, 2.0], "x": 4.0}) == 9.0
    _, problems = compiled("phases * 2", "phases", lists=("phases",))
    assert "phases * 2 is a list of numbers, as phases is; say sum(phases * 2), avg, min" in problems[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sum(volts * amps)", 52.0 * 10.0 - 51.0 * 2.0),
        ("-sum(volts * -amps / 2)", 209.0),
        ("max(volts - 50)", 2.0),
        ("sum((volts if 1 else amps) * 2)", 206.0),
        ("count(volts * amps)", 2.0),
        ("count(missing) + avg(missing + volts)", 1.0 + 59.0),
    ],
)
def test_arithmetic_over_lists_is_done_number_by_number(text: str, expected: float) -> None:
    lists = ("volts", "amps", "missing")
    formula, problems = compiled(text, *lists, lists=lists)
    assert not problems
    values = {"volts": [52.0, 51.0], "amps": [10.0, -2.0], "missing": [7.0, None]}
    assert formula.evaluate(values) == expected


def test_lists_of_different_lengths_are_not_paired() -> None:
    formula, _ = compiled("sum(a * b)", "a", "b", lists=("a", "b"))
    with pytest.raises(MessageError, match="lists of 2 and 3 numbers, expected as many in both"):
        formula.evaluate({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})


def test_a_list_whose_numbers_close_up_is_paired_with_no_other() -> None:
    _, problems = compiled("sum(a * b)", "a", "b", lists=("a", "b"), loose=("b",))
    assert "pairs the numbers of two lists, and the path of b leaves out missing values" in problems[0]
    for text in ("sum(b * 2)", "sum(b * b)", "sum(b) * sum(a)"):
        assert compiled(text, "a", "b", lists=("a", "b"), loose=("b",))[1] == []


@each_row(
    ("text", "problem"),
    [
        ("a +", "is not a formula"),
        ("a; b", "is not a formula"),
        ("a = 1", "is not a formula"),
        ("ab + 1", "nothing is called ab; did you mean abc?"),
        ("zz", "nothing is called zz; there are abc, d"),
        ("eval('1')", "there is no function eval(); there are abs, min"),
        ("abc.real", "a point between names"),
        ("abc[0]", "square brackets"),
        ("[abc][0]", "square brackets"),
        ("(abc).__class__.__bases__", "a point between names"),
        ("(lambda: 1)()", "a function is a name"),
        ("max(*abc)", "cannot be used in a formula"),
        ("max(abc, key=d)", "a function is a name"),
        ("abc ^ 2", "a power is **"),
        ("abc | 1", "say: or"),
        ("f'{abc}'", "cannot be used in a formula"),
        ("[x for x in abc]", "cannot be used in a formula"),
        ("10 ** 400 * 1" + "0" * 30, "cannot be used in a formula"),
        ("1j", "cannot be used in a formula"),
        ("None", "cannot be used in a formula"),
        ("(abc := 1)", "cannot be used in a formula"),
        ("+".join(["abc"] * 200), "too long"),
        ("(" * 15 + "abc" + "+1)" * 15 + "+(" + "-" * 25 + "d)", "too long"),
        ("__import__('os')", "there is no function __import__()"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(text: str, problem: str) -> None:
    _, problems = compiled(text, "abc", "d")
    assert problems
    assert problems[0].startswith("formula: ")
    assert problem in problems[0]
    assert len(problems[0]) < 1_500


@each_row(
    ("text", "values", "problem"),
    [
        ("1 / a", {"a": 0.0}, "a division by zero"),
        ("a ** 17", {"a": 2.0}, f"an exponent of 17; at most {MAX_EXPONENT:g}"),
        ("(-8) ** 0.5", {}, "no real number"),
        ("sqrt(a)", {"a": -1.0}, "sqrt"),
        ("a + 1", {"a": "text"}, "is a text, expected a number"),
        ("a < 1", {"a": "text"}, "is a text, expected a number"),
        ("a * 1e308 * 1e308", {"a": 1.0}, "no finite number"),
        ("signed(a, 16)", {"a": 70000.0}, "does not fit into 16 bits"),
        ("bit(a, 1)", {"a": 0.5}, "not a whole number"),
        ("a ** 16.5", {"a": 2.0}, f"an exponent of 16.5; at most {MAX_EXPONENT:g}"),
        ("bit(a, 64)", {"a": 1.0}, "bit 64; expected 0 to 63"),
        ("bit(a, -1)", {"a": 1.0}, "bit -1; expected 0 to 63"),
        ("signed(a, 16)", {"a": 65536.0}, "65536 does not fit into 16 bits"),
        ("signed(a, 16)", {"a": -32769.0}, "-32769 does not fit into 16 bits"),
        ("max()", {}, "no number is there"),
        ("clip(a, 1)", {"a": 1.0}, "clip"),
    ],
)
def test_what_has_no_value_is_an_error_of_the_message(
    text: str, values: dict[str, object], problem: str
) -> None:
    formula, problems = compiled(text, *values)
    assert not problems
    with pytest.raises(MessageError) as caught:
        formula.evaluate(values)
    assert problem in str(caught.value)


@given(text=st.text(alphabet="abc01+-*/%()., '<>=!&|^[]{}:\n_", max_size=40))
def test_no_text_raises_anything_but_what_is_promised(text: str) -> None:
    formula, problems = compiled(text, "a", "b", "c")
    if problems:
        return
    try:
        found = formula.evaluate({"a": 1.5, "b": -2.0, "c": 0.0})
    except MessageError:
        return
    assert isinstance(found, str | bool) or math.isfinite(found)


@given(number=st.integers(-(1 << 31), (1 << 31) - 1))
def test_signed_undoes_what_an_unsigned_register_did(number: int) -> None:
    assert signed(number % (1 << 32), 32) == number


@pytest.mark.parametrize(
    ("bits", "read", "number"), [(1, 1, -1), (1, 0, 0), (64, (1 << 64) - (1 << 12), -(1 << 12))]
)
def test_signed_takes_one_bit_to_sixty_four(bits: int, read: int, number: int) -> None:
    assert signed(read, bits) == number


@pytest.mark.parametrize("bits", [0, 65])
def test_signed_takes_no_other_size(bits: int) -> None:
    with pytest.raises(ValueError, match=f"{bits} bits; expected 1 to 64"):
        signed(0, bits)
