"""Hardware in a stop: at rest by a known power, told again while it has power, and what it is left with."""

from __future__ import annotations

import itertools

import pytest

from heron_mqtt.field.device.rest_watch import RestWatch

NOT_0 = "an emergency stop is in force, and its power is not 0: the stop is sent again"


def watch() -> tuple[RestWatch, list[str]]:
    """Return a watch of hardware of -5 to 10 kW that was told of a stop at 100 s, and what it reports."""
    reported: list[str] = []
    made = RestWatch((-0.005, 0.01), reported.append)
    made.note_told(100.0)
    return made, reported


def test_at_rest_is_a_known_power_next_to_0() -> None:
    made, _ = watch()
    powers = (0.0, 0.0005, -0.0005, 0.00051, -0.00051, None)
    assert [made.is_at_rest(p_mw) for p_mw in powers] == [True, True, True, False, False, None]


def test_hardware_that_keeps_its_power_is_told_again_at_longer_and_longer_intervals() -> None:
    made, reported = watch()
    told_s = [100]
    for now_s in range(100, 500):
        if made.must_be_told_again(0.004, float(now_s)):
            made.note_told(float(now_s))
            told_s.append(now_s)
    pauses = [later - earlier for earlier, later in itertools.pairwise(told_s)]
    assert pauses[:6] == [5, 10, 20, 40, 60, 60]
    assert reported == [NOT_0]
    assert not made.must_be_told_again(0.0, 500.0)
    made.note_told(500.0)
    assert [now_s for now_s in range(500, 507) if made.must_be_told_again(0.004, float(now_s))] == [505]
    assert reported == [NOT_0, NOT_0], "it was at rest in between"


def test_what_is_measured_before_it_settles_is_no_reason_to_tell_it_again() -> None:
    made, reported = watch()
    assert not made.must_be_told_again(0.004, 107.9, settle_s=3.0)
    assert reported == []
    assert made.must_be_told_again(0.004, 108.0, settle_s=3.0)


def test_hardware_whose_power_is_not_known_is_reported_with_why_and_not_told_again() -> None:
    made, reported = watch()
    assert not any(made.must_be_told_again(None, 100.0 + s, why_unknown="no answer") for s in range(100))
    unknown = "an emergency stop is in force, and whether it is at 0 is not known: its power: no answer"
    assert reported == [unknown]
    assert made.must_be_told_again(0.004, 205.0)
    assert reported == [unknown, NOT_0]


def test_a_new_stop_begins_anew() -> None:
    made, reported = watch()
    assert made.must_be_told_again(0.004, 105.0)
    made.forget()
    made.note_told(200.0)
    assert made.must_be_told_again(0.004, 205.0)
    assert reported == [NOT_0, NOT_0]


@pytest.mark.parametrize(
    ("p_mw", "has_taken_it", "left"),
    [
        (0.0005, True, None),
        (0.0, False, " that it has not taken, and it gave 0 kW when it was measured last"),
        (-0.003, True, ", and it gave -3 kW when it was measured last"),
        (None, True, ", and its power is not known"),
        (None, False, " that it has not taken, and its power is not known"),
    ],
)
def test_what_it_is_left_with_says_the_power_that_was_measured_last(
    p_mw: float | None, has_taken_it: bool, left: str | None
) -> None:
    made, _ = watch()
    said = made.left_with(p_mw, has_taken_it=has_taken_it)
    assert said == (None if left is None else f"an emergency stop is in force{left}")


def test_what_a_stop_keeps_at_rest_is_said_with_its_power() -> None:
    made, _ = watch()
    text = "an emergency stop is in force: the device stays at 0 and is not handed back"
    assert made.kept(0.0002) == f"{text} (0.2 kW when it was measured last)"
