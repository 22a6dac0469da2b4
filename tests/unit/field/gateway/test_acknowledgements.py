"""Acknowledgements: which telemetry answers which setpoint, and what counts without an answer."""

from __future__ import annotations

import pytest

from heron_mqtt.field.gateway.acknowledgements import Acknowledgements
from heron_mqtt.messages import Telemetry


def sent(*seqs: int, renewals: int = 0) -> Acknowledgements:
    """Return what has noted setpoints of boot ``b1`` at 10 s, 11 s, ... and so many renewals of the last."""
    acks = Acknowledgements()
    for at_s, seq in enumerate(seqs, start=10):
        acks.note_number(seq)
        acks.note_sent("b1", seq, float(at_s))
    for seq in range(renewals):
        acks.note_number(seqs[-1] + 1 + seq)
    return acks


def answer(seq: int | None, boot: str | None = "b1") -> Telemetry:
    return Telemetry(p_mw=0.0, ack_seq=seq, ack_boot=boot)


@pytest.mark.parametrize(
    ("seq", "boot", "expected"),
    [
        *((None, "b1", False), (3, "b1", False), (4, "b1", True), (4, None, True), (4, "b2", False)),
        *((6, "b1", True), (7, "b1", False)),  # a renewal of it; one that was never sent
    ],
)
def test_an_answer_names_the_newest_setpoint_or_a_renewal_of_it(
    seq: int | None, boot: str | None, expected: bool
) -> None:
    assert sent(3, 4, renewals=2).is_answer(answer(seq, boot)) is expected


def test_nothing_is_an_answer_before_anything_was_sent() -> None:
    acks = Acknowledgements()
    acks.note_number(5)
    assert not acks.is_answer(answer(5))
    assert not acks.note_late_answer(answer(5))


def test_a_setpoint_that_was_given_up_is_waited_for_again_after_its_late_answer() -> None:
    acks = sent(3)
    acks.give_up()
    acks.note_sent("b1", 4, 11.0)
    acks.note_number(4)
    acks.give_up()
    assert (acks.is_expected, acks.unanswered_since) == (False, 10.0)
    assert not acks.note_late_answer(answer(3)), "of an earlier one than that which was given up last"
    assert acks.note_late_answer(answer(4))
    assert (acks.is_expected, acks.unanswered_since) == (True, None)
    assert not acks.note_late_answer(answer(4)), "once"


def test_the_time_of_an_answer_is_that_of_its_setpoint_alone() -> None:
    acks = sent(3)
    assert acks.note_answer(10.5) == acks.round_trip_s == 0.5
    acks.note_sent("b1", 4, 12.0)
    assert acks.round_trip_s is None


def test_telemetry_without_an_answer_is_of_now_if_it_came_since_or_the_device_goes_on_speaking() -> None:
    acks = sent(3)
    assert [acks.is_of_now(at_s) for at_s in (9.0, 10.0, 10.1)] == [False, False, True]
    acks.give_up()
    for heard, is_of_now in ((0, False), (1, False), (2, True)):
        acks.heard_unanswered = heard
        acks.note_sent("b1", 4, 20.0)
        assert acks.is_of_now(15.0) is is_of_now
    acks.unanswered_since = None
    acks.note_sent("b1", 5, 20.0)
    assert not acks.is_of_now(15.0), "it answers again: counted anew"
