"""How long a device is used to say nothing, and when it is late."""

from __future__ import annotations

import math

import pytest

from heron_mqtt.field.vendor.heard_intervals import HeardIntervals


def heard(*at_s: float) -> HeardIntervals:
    intervals = HeardIntervals()
    for each in at_s:
        intervals.note(each)
    return intervals


def test_of_a_device_that_was_heard_a_few_times_only_nothing_is_concluded() -> None:
    assert heard().last_at == -math.inf
    assert (heard(1.0, 2.0, 3.0).longest_s, heard(1.0, 2.0, 3.0).late_at) == (None, math.inf)


def test_it_is_late_after_three_times_its_longest_silence() -> None:
    intervals = heard(0.0, 1.0, 3.0, 3.5)
    assert (intervals.last_at, intervals.longest_s, intervals.late_at) == (3.5, 2.0, 9.5)
    for n in range(50):
        intervals.note(4.5 + n)
    assert intervals.late_at == pytest.approx(53.5 + 3.0), "its last silences only"


def test_one_that_says_much_is_not_late_for_a_hiccup() -> None:
    assert heard(1.0, 1.0, 1.01, 1.02).late_at == pytest.approx(1.32)
