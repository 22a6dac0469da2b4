"""Confirmation: what confirms a setpoint, by an answer or by a power, and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.answers import SetpointAnswer
from heron_mqtt.field.vendor.confirmation import Confirmation

TOPICS = {"p_mw": ("box/power",), "ack_seq": ("box/ack",)}


class Reader:
    """Reads an answer: ``yes``, ``no``; anything else of its topic is an error."""

    table = SimpleNamespace(topic="box/answer")

    def read(
        self, topic: str, payload: bytes, values: dict[str, Any], before: dict[str, Any] | None = None
    ) -> SetpointAnswer | None:
        if topic != self.table.topic:
            return None
        if payload not in {b"yes", b"no"}:
            raise MessageError("neither yes nor no")
        return SetpointAnswer(payload == b"yes", "" if payload == b"yes" else "it is full")


def begun(by: str, *readers: Reader) -> tuple[Confirmation, list[str]]:
    """Return what waits for setpoint 7, whose power counts from 10 s; and the problems that it reports."""
    problems: list[str] = []
    mapping: Any = SimpleNamespace(confirmed_by=by, answers=readers, topics_of=TOPICS.__getitem__)
    confirmation = Confirmation(mapping, lambda topic, problem: problems.append(problem))
    confirmation.begin(7, 10.0)
    return confirmation, problems


async def came(confirmation: Confirmation) -> bool:
    try:
        await confirmation.wait(0.001)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("by", ["power", "sent"])
async def test_a_power_confirms_that_was_measured_once_the_device_has_settled(by: str) -> None:
    confirmation, _ = begun(by)
    for at_s, is_measured in ((10.5, False), (9.9, True)):
        confirmation.take_fields({"p_mw": 1.0, "ack_seq": 7}, at_s, is_measured=is_measured)
        assert not await came(confirmation), at_s
    confirmation.count_from(20.0)
    confirmation.take_fields({"p_mw": 1.0}, 10.0, is_measured=True)
    assert not await came(confirmation)
    confirmation.take_fields({"p_mw": 1.0}, 20.0, is_measured=True)
    assert await came(confirmation)
    assert confirmation.topics == ["box/power"]


async def test_an_acknowledgement_confirms_by_its_number_alone() -> None:
    confirmation, _ = begun("answer")
    for fields in ({"p_mw": 1.0}, {"ack_seq": 6}, {"ack_seq": None}):
        confirmation.take_fields(fields, 20.0, is_measured="p_mw" in fields)
        assert not await came(confirmation), fields
    confirmation.take_fields({"ack_seq": 7}, 20.0, is_measured=False)
    assert await came(confirmation)
    assert confirmation.topics == ["box/ack"]
    confirmation.begin(None, 10.0)
    confirmation.take_fields({"ack_seq": None}, 20.0, is_measured=False)
    assert not await came(confirmation), "a setpoint without a number is acknowledged by nothing"


async def test_of_several_answers_a_rejection_counts_and_what_cannot_be_read_is_reported() -> None:
    confirmation, problems = begun("answer", Reader(), Reader())
    confirmation.take_answer("box/other", b"no", {}, 20.0)
    confirmation.take_answer("box/answer", b"?", {}, 20.0)
    assert not await came(confirmation)
    assert problems == ["box/answer: neither yes nor no"] * 2
    for payload in (b"yes", b"no", b"yes"):
        confirmation.take_answer("box/answer", payload, {}, 20.0)
    assert await came(confirmation)
    assert confirmation.answer == SetpointAnswer(False, "it is full")
    assert confirmation.topics == ["box/answer"] * 2


async def test_what_comes_before_or_after_the_wait_confirms_nothing() -> None:
    confirmation, problems = begun("answer", Reader())
    confirmation.end()
    confirmation.take_answer("box/answer", b"yes", {}, 20.0)
    confirmation.take_answer("box/answer", b"?", {}, 20.0)
    confirmation.take_fields({"ack_seq": 7}, 20.0, is_measured=False)
    assert not await came(confirmation)
    assert (confirmation.answer, problems) == (None, [])
    confirmation.begin(8, 0.0)
    confirmation.take_answer("box/answer", b"no", {}, 20.0)
    confirmation.begin(9, 0.0)
    assert confirmation.answer is None
    assert not await came(confirmation)


async def settled(confirmation: Confirmation) -> bool:
    try:
        await confirmation.wait_for_power(0.001)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("by_field", [False, True])
async def test_a_power_of_before_the_answer_is_not_of_the_setpoint(by_field: bool) -> None:
    """Until it has answered, the device may not have looked at what it was sent."""
    confirmation, _ = begun("answer", *[] if by_field else [Reader()])
    confirmation.count_from(11.0)
    confirmation.take_fields({"p_mw": 1.0}, 11.5, is_measured=True)
    assert not await settled(confirmation)
    if by_field:
        confirmation.take_fields({"ack_seq": 7}, 12.0, is_measured=False)
    else:
        confirmation.take_answer("box/answer", b"yes", {}, 12.0)
    assert await came(confirmation)
    assert not await settled(confirmation)
    confirmation.take_fields({"p_mw": 2.0}, 12.0, is_measured=True)
    assert await settled(confirmation), "what comes with the answer is of it"
