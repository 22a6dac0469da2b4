"""Hardware in a stop: at rest by a known power, told again while it has power, and what it is left with."""

from __future__ import annotations

import itertools

import pytest

from heron_mqtt.field.device.hardware_rest import HardwareRest, PowerSeen

NOT_0 = "an emergency stop is in force, and its power is not 0: the stop is sent again"


class Told:
    """Hardware of -5 to 10 kW that was told of a stop at 100 s, by a clock that the test sets."""

    def __init__(self, settle_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.reported: list[str] = []
        nameplate = (-0.005, 0.01)
        self.rest = HardwareRest(nameplate, self.reported.append, lambda: self.now_s, settle_s=settle_s)
        self.rest.note_told()

    def is_due(self, p_mw: float | None, now_s: float, *, in_stop: bool = True) -> bool:
        """Measure a power, MW, None = that fails; return whether it is to be told again."""
        self.now_s = now_s
        if p_mw is None:
            self.rest.see_failure()
        else:
            self.rest.see(p_mw)
        return self.rest.must_be_told_again(in_stop=in_stop, why_unknown="no answer")


def test_at_rest_is_a_known_power_next_to_0() -> None:
    rest = Told().rest
    powers = (0.0, 0.0005, -0.0005, 0.00051, -0.00051)
    assert [rest.is_at_rest(p_mw) for p_mw in powers] == [True, True, True, False, False]


def test_what_was_seen_is_of_after_it_was_told() -> None:
    rest = Told().rest
    for see, seen in (
        (lambda: rest.see(0.0), PowerSeen.AT_REST),
        (lambda: rest.see(0.004), PowerSeen.POWER),
        (lambda: rest.see(0.0, 0.004), PowerSeen.POWER),
        (rest.see_failure, PowerSeen.UNKNOWN),
    ):
        see()
        assert rest.seen is seen
        rest.note_told()
        assert rest.seen is PowerSeen.NOTHING


def test_power_is_kept_while_it_is_told_again_until_it_is_measured_or_set() -> None:
    """The lease was free, and the device safe, from each telling to the next measurement."""
    rest = Told().rest
    assert not rest.keeps_power
    rest.see(0.004)
    for _ in range(2):
        rest.note_told()
        assert (rest.keeps_power, rest.has_power) == (True, False)
    rest.see(0.0)
    assert not rest.keeps_power
    rest.note_told()
    assert not rest.keeps_power
    rest.see(0.004)
    rest.see_nothing()
    assert not rest.keeps_power, "a setpoint took its place"


def test_hardware_that_keeps_its_power_is_told_again_at_longer_and_longer_intervals() -> None:
    it = Told()
    told_s = [100]
    for now_s in range(100, 500):
        if it.is_due(0.004, float(now_s)):
            it.rest.note_told()
            told_s.append(now_s)
    pauses = [later - earlier for earlier, later in itertools.pairwise(told_s)]
    assert pauses[:6] == [5, 10, 20, 40, 60, 60]
    assert it.reported == [NOT_0]
    assert not it.is_due(0.0, 500.0)
    assert not it.is_due(0.0, 505.0), "it stays at rest"
    it.rest.note_told()
    assert [now_s for now_s in range(505, 512) if it.is_due(0.004, float(now_s))] == [510]
    assert it.reported == [NOT_0, NOT_0], "it was at rest in between"


def test_what_is_measured_before_it_settles_is_no_reason_to_tell_it_again() -> None:
    it = Told(settle_s=3.0)
    assert not it.is_due(0.004, 107.9)
    assert it.reported == []
    assert it.is_due(0.004, 108.0)


def test_hardware_whose_power_is_not_known_is_reported_with_why_and_not_told_again() -> None:
    it = Told()
    assert not any(it.is_due(None, 100.0 + s) for s in range(100))
    unknown = "an emergency stop is in force, and whether it is at 0 is not known: its power: no answer"
    assert it.reported == [unknown]
    assert it.is_due(0.004, 205.0)
    assert it.reported == [unknown, NOT_0]


def test_a_new_stop_begins_anew() -> None:
    it = Told()
    assert it.is_due(0.004, 105.0)
    it.rest.forget()
    it.now_s = 200.0
    it.rest.note_told()
    assert it.is_due(0.004, 205.0)
    assert it.reported == [NOT_0, NOT_0]


@pytest.mark.parametrize("in_stop", [False, True])
def test_power_long_after_it_was_at_0_is_left_to_what_has_set_it_but_not_in_a_stop(in_stop: bool) -> None:
    it = Told()
    assert not it.is_due(0.0, 101.0, in_stop=in_stop)
    assert it.is_due(0.004, 161.0, in_stop=in_stop) is in_stop
    assert it.rest.is_set_elsewhere is not in_stop
    said = "it holds no setpoint, and its power is not 0: something else has set it"
    assert it.reported == [NOT_0 if in_stop else said]
    assert not it.is_due(0.0, 170.0, in_stop=in_stop)
    assert not it.rest.is_set_elsewhere


@pytest.mark.parametrize(
    ("p_mw", "has_taken_it", "left"),
    [
        (0.0005, True, None),
        (0.0, False, " that it has not accepted, and it gave 0 kW when it was measured last"),
        (-0.003, True, ", and it gave -3 kW when it was measured last"),
        (None, True, ", and its power is not known"),
        (None, False, " that it has not accepted, and its power is not known"),
    ],
)
def test_what_it_is_left_with_says_the_power_that_was_measured_last(
    p_mw: float | None, has_taken_it: bool, left: str | None
) -> None:
    it = Told()
    it.is_due(p_mw, 100.0)
    said = it.rest.left_in_stop(has_taken_it=has_taken_it)
    assert said == (None if left is None else f"an emergency stop is in force{left}")


def test_what_a_stop_keeps_at_rest_is_said_with_its_power() -> None:
    it = Told()
    it.rest.see(0.0002)
    text = "an emergency stop is in force: the device stays at 0 and is not handed back"
    assert it.rest.kept == f"{text} (0.2 kW when it was measured last)"
