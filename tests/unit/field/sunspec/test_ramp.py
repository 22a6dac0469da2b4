"""How long the way to more power takes, from where the inverter is on the way that it was told before."""

from __future__ import annotations

from heron_mqtt.field.sunspec.ramp import MAX_RAMP_S, REMEMBERED, IncreaseRamp
from support.rows import each_row


class Ramp:
    """A ramp of 5 percent a second, with a clock that a test moves."""

    def __init__(self, percent_s: int = 5) -> None:
        self.now_s = 100.0
        self.ramp = IncreaseRamp(percent_s, lambda: self.now_s)

    def told(self, held: float | None, wanted: float, *, written: bool = True) -> int | None:
        takes_s = self.ramp.time_to(held, wanted)
        if written:
            self.ramp.note_written()
        return takes_s


@each_row(
    ("held", "wanted", "takes_s"),
    [
        (None, 0.0, 0),
        (None, 100.0, 0),  # nothing is held: it may be anywhere above
        (20.0, 20.0, None),
        (0.0, 0.0, None),
        (20.0, 60.0, 8),
        (20.0, 60.1, 9),
        (20.0, 20.1, 1),
        (60.0, 20.0, 0),
        (60.0, 59.9, 0),
        (-50.0, -20.0, 6),
        (-10.0, 10.0, 4),
    ],
)
def test_an_increase_takes_whole_seconds_and_less_power_is_not_delayed(
    held: float | None, wanted: float, takes_s: int | None
) -> None:
    assert Ramp().told(held, wanted) == takes_s


def test_the_longest_way_is_what_its_register_holds() -> None:
    assert MAX_RAMP_S == 65_534
    assert Ramp(1).told(0.0, 65_534.0) == 65_534
    assert Ramp(1).told(0.0, 65_535.0) == 65_534
    assert Ramp(1).told(60.0, 20.0) == 0, "and the shortest is none"


def test_a_way_counts_from_when_it_was_written_once_and_by_the_time_that_is_over() -> None:
    ramp = Ramp()
    assert ramp.told(20.0, 60.0, written=False) == 8
    ramp.now_s += 4.0  # it was not written: it has not moved
    assert ramp.told(60.0, 70.0, written=False) == 10
    ramp = Ramp()
    assert ramp.told(20.0, 60.0) == 8
    ramp.now_s += 4.0
    ramp.ramp.note_written()  # the same again is written anew, and its way goes on
    assert ramp.told(60.0, 60.0) is None
    assert ramp.told(60.0, 70.0) == 6, "it is at 40 percent"
    ramp.now_s += 3.0
    assert ramp.told(70.0, 71.0) == 4, "at 55, half way from 40 to 70"
    ramp.now_s += 1000.0
    assert ramp.told(71.0, 76.0) == 1, "at its target, and no further"


def test_a_way_that_takes_no_time_is_at_its_end_at_once_written_or_not() -> None:
    ramp = Ramp()
    assert ramp.told(80.0, 30.0, written=False) == 0
    assert ramp.told(30.0, 40.0) == 2


def test_what_is_held_may_be_one_that_was_told_before_the_newest() -> None:
    ramp = Ramp()
    assert ramp.told(20.0, 60.0) == 8
    ramp.now_s += 2.0  # at 30
    for wanted, takes_s in ((65.0, 7), (66.0, 8), (67.0, 8)):
        assert ramp.told(60.0, wanted, written=False) == takes_s  # from 30: none of them was written
    assert ramp.told(60.0, 68.0, written=False) == 8
    assert ramp.told(60.0, 69.0, written=False) == 2, f"of more than {REMEMBERED} it is taken as there"


def test_a_share_that_is_told_again_is_the_newest_way_to_it() -> None:
    ramp = Ramp()
    assert ramp.told(20.0, 60.0) == 8
    ramp.now_s += 100.0
    assert ramp.told(60.0, 0.0) == 0
    assert ramp.told(0.0, 60.0) == 12
    ramp.now_s += 6.0  # at 30
    assert ramp.told(60.0, 61.0) == 7


def test_nothing_told_is_nothing_written() -> None:
    ramp = Ramp()
    ramp.ramp.note_written()
    assert ramp.told(10.0, 20.0) == 2
