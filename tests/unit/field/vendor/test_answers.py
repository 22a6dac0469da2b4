"""AnswerReader: what a device says of a setpoint that it was sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.field.vendor.answers import AnswerReader, SetpointAnswer
from heron_mqtt.field.vendor.outgoing import RenderedValue
from heron_mqtt.field.vendor.tables import AnswerTable

WRITER: Any = SimpleNamespace(names=["v"], value={"v": object()}.get)


def answer(payload: str, was: RenderedValue, **table: Any) -> SetpointAnswer | None:
    problems: list[str] = []
    reader = AnswerReader(
        AnswerTable.model_validate({"topic": "ack", **table}),
        WRITER,
        lambda *each: problems.append(str(each)),
    )
    assert not problems
    return reader.read("ack", payload.encode(), {"v": was})


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
