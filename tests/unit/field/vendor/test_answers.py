"""AnswerReader: what a device says of a setpoint that it was sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.answers import AnswerReader, SetpointAnswer
from heron_mqtt.field.vendor.payload_filling import RenderedValue
from heron_mqtt.field.vendor.tables import AnswerTable
from support.rows import each_row


def known_values(**quantities: str) -> Any:
    """Return what knows the values of a setpoint: name -> quantity."""
    values = {name: SimpleNamespace(table=SimpleNamespace(quantity=q)) for name, q in quantities.items()}
    return SimpleNamespace(names=list(values), get=values.get)


def reader(said: list[str], values: dict[str, str] | None = None, **table: Any) -> AnswerReader:
    return AnswerReader(
        AnswerTable.model_validate({"topic": "ack", **table}),
        known_values(**({"v": "p_mw", "n": "seq"} if values is None else values)),
        lambda key, text: said.append(f"{key}: {text}"),
    )


def answer(payload: str, was: RenderedValue, **table: Any) -> SetpointAnswer | None:
    problems: list[str] = []
    made = reader(problems, **table)
    assert not problems
    return made.read("ack", payload.encode(), {"v": was, "n": RenderedValue(7, "7")})


@pytest.mark.parametrize(
    ("was", "echo"),
    [
        (RenderedValue("1", "1"), "1"),  # a word may be a number, and be repeated as one
        (RenderedValue("1", "1"), "1.0"),
        (RenderedValue("1", "1"), '"1"'),
        (RenderedValue("on", "on"), '"ON"'),
        (RenderedValue(True, "true"), "true"),
        (RenderedValue(5.0, "5"), "5"),
        (RenderedValue(5.0, "5"), '"5"'),
    ],
)
def test_what_repeats_the_value_accepts_the_setpoint(was: RenderedValue, echo: str) -> None:
    assert answer(f'{{"e": {echo}}}', was, echo={"path": "e", "of": "v"}) == SetpointAnswer(True)
    assert answer('{"e": 7}', was, echo={"path": "e", "of": "v"}) is None  # of an earlier one


FIVE = RenderedValue(5.0, "5")


@each_row(
    ("sent", "tolerance", "echoed", "is_near"),
    [
        (5.0, 0.0, 5.0, True),
        (5.0, 0.0, 5.1, False),
        (5.0, 0.5, 5.5, True),
        (5.0, 0.5, 4.5, True),
        (5.0, 0.5, 5.501, False),
        (0.0, 0.0, 0.9e-9, True),  # the noise of a number that was written and read
        (0.0, 0.0, 1.1e-9, False),
        (1e6, 0.0, 1_000_000.0009, True),
        (1e6, 0.0, 1_000_000.0011, False),
        (-1e6, 0.0, -1_000_000.0009, True),
    ],
)
def test_a_repeated_number_may_be_off_by_the_tolerance(
    sent: float, tolerance: float, echoed: float, is_near: bool
) -> None:
    echo = {"path": "e", "of": "v", "tolerance": tolerance}
    said = answer(f'{{"e": {echoed!r}}}', RenderedValue(sent, str(sent)), echo=echo)
    assert said == (SetpointAnswer(True) if is_near else None)


def test_another_value_in_the_answer_of_this_number_is_a_rejection() -> None:
    table: dict[str, Any] = {"id": {"path": "id"}, "echo": {"path": "e", "of": "v"}}
    assert answer('{"id": 7, "e": 5}', FIVE, **table) == SetpointAnswer(True)
    assert answer('{"id": 7, "e": 4}', FIVE, **table) == SetpointAnswer(False, "it took 4.0 for 5")
    assert answer('{"id": 6, "e": 5}', FIVE, **table) is None
    assert answer('{"e": 5}', FIVE, **table) is None
    assert answer('{"id": 7}', FIVE, **table) is None


def test_the_number_that_is_repeated_is_that_of_the_echo_whatever_stands_beside_it() -> None:
    table: dict[str, Any] = {
        "id": {"path": "id"},
        "echo": {"path": "e", "of": "v", "tolerance": 0.5},
        "success": {"path": "ok", "is": ["yes", 1]},
        "error": {"path": "why"},
    }
    for ok in ('"yes"', '"YES"', "1", '"1"'):
        assert answer(f'{{"id": 7, "e": 5.25, "ok": {ok}}}', FIVE, **table) == SetpointAnswer(True)
    for ok, shown in (('"no"', "'no'"), ("0", "'0'"), ("true", "'true'")):
        said = answer(f'{{"id": 7, "e": 5.25, "ok": {ok}}}', FIVE, **table)
        assert said == SetpointAnswer(False, f"success is {shown}")


def test_an_error_rejects_and_is_told_shortened() -> None:
    success: dict[str, Any] = {"success": {"path": "ok", "is": ["yes"]}, "error": {"path": "why"}}
    alone: dict[str, Any] = {"error": {"path": "why"}}
    long = "x" * 401
    for table in (success, alone):
        assert answer(f'{{"why": "{long[:400]}"}}', FIVE, **table) == SetpointAnswer(False, long[:400])
        assert answer(f'{{"why": "{long}"}}', FIVE, **table) == SetpointAnswer(False, long[:400])
    assert answer(f'{{"ok": "no", "why": "{long}"}}', FIVE, **success) == SetpointAnswer(False, long[:400])
    assert answer('{"ok": "yes", "why": "ignored"}', FIVE, **success) == SetpointAnswer(True)
    assert answer('{"other": 1}', FIVE, **success) is None, "no answer"
    assert answer('{"other": 1}', FIVE, **alone) == SetpointAnswer(True)


def test_an_answer_is_on_the_topic_of_the_values_that_were_sent() -> None:
    problems: list[str] = []
    made = reader(problems, topic="box/{unit}/ack/{v}")
    sent = {"v": FIVE}  # {unit} is none of them: it may be any
    assert made.read("box/9/ack/5", b"{}", sent) == SetpointAnswer(True)
    assert made.read("box/9/ack/6", b"{}", sent) is None
    assert made.read("box/9/other/5", b"{}", sent) is None
    assert made.read("other", b"not JSON", sent) is None
    assert problems == []


@pytest.mark.parametrize(
    "table",
    [
        {"topic": "ack/{n}"},
        {"topic": "ack/7", "id": {"path": "i"}},
        {"topic": "ack/7", "echo": {"path": "e", "of": "n"}},
    ],
)
def test_an_answer_that_repeats_what_was_not_sent_is_none(table: dict[str, Any]) -> None:
    """As of a stop of which only a part could be computed."""
    problems: list[str] = []
    made = reader(problems, **table)
    payload, seven = b'{"i": 7, "e": 7}', RenderedValue(7, "7")
    assert made.read("ack/7", payload, {"v": FIVE}) is None
    assert made.read("ack/7", payload, {"v": FIVE, "n": seven}) == SetpointAnswer(True)
    assert made.read("ack/7", payload, {}, before={"n": RenderedValue(6, "6")}) == SetpointAnswer(True)
    assert problems == []


@pytest.mark.parametrize(
    ("values", "table", "problem"),
    [
        (
            {"v": "p_mw"},
            {"id": {"path": "i", "of": "w"}},
            "id.of: 'w' is no value of the setpoint; there are v",
        ),
        ({}, {"echo": {"path": "i", "of": "w"}}, "echo.of: 'w' is no value of the setpoint; there are none"),
        (
            {"v": "p_mw", "w": "q_mvar"},
            {"echo": {"path": "i", "of": "x"}},
            "echo.of: 'x' is no value of the setpoint; there are v, w",
        ),
        *(
            (
                values,
                {"id": {"path": "i"}},
                "id.of: which value is repeated? give 'of', or one value with quantity = \"seq\"",
            )
            for values in ({"v": "p_mw"}, {"v": "seq", "w": "seq"})
        ),
        ({"v": "seq"}, {"error": {"column": 1}}, "error.column: format 'json' has none; leave it out"),
        (
            {"v": "seq"},
            {"topic": "a/#"},
            "topic: # takes in everything below: say + for each level that varies",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key(values: dict[str, str], table: dict[str, Any], problem: str) -> None:
    said: list[str] = []
    reader(said, values, **table)
    assert problem in said


def test_the_number_that_an_answer_repeats_is_found_by_its_name_or_is_the_only_one() -> None:
    sent = {"v": RenderedValue(3, "3"), "n": RenderedValue(7, "7")}
    for table, number in (({}, 7), ({"of": "v"}, 3)):
        said: list[str] = []
        made = reader(said, id={"path": "i", **table})
        assert made.read("ack", f'{{"i": {number}}}'.encode(), sent) == SetpointAnswer(True)
        assert made.read("ack", b'{"i": 5}', sent) is None
        assert said == []


def test_a_list_is_no_echo() -> None:
    with pytest.raises(MessageError, match=r"echo: e gave \[5\], expected a text"):
        answer('{"e": [5]}', FIVE, echo={"path": "e", "of": "v", "type": "numbers"})
