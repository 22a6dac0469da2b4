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


def every(period_s: float, times: int) -> list[float]:
    return [n * period_s for n in range(times)]


def test_of_a_device_that_was_heard_seldom_or_said_much_at_one_time_nothing_is_concluded() -> None:
    for at_s in ([], [1.0], every(1.0, 10), every(0.001, 400), every(0.2, 20), [*every(0.2, 40), 9.0]):
        assert (heard(*at_s).longest_s, heard(*at_s).late_at) == (None, math.inf), at_s
    assert heard().last_at == -math.inf


def test_it_is_late_after_three_times_its_longest_silence() -> None:
    intervals = heard(*every(1.0, 20), 21.0, 21.5)
    assert (intervals.last_at, intervals.longest_s, intervals.late_at) == (21.5, 2.0, 27.5)
    for n in range(50):
        intervals.note(22.5 + n)
    assert intervals.late_at == pytest.approx(71.5 + 3.0), "its last silences only"


def test_one_that_says_much_is_not_late_for_a_hiccup() -> None:
    assert heard(*every(0.01, 600)).late_at == pytest.approx(5.99 + 1.0)


def test_what_is_said_at_one_time_counts_once() -> None:
    bursts = [t + n * 0.001 for t in every(1.0, 12) for n in range(30)]
    assert heard(*bursts).longest_s == pytest.approx(1.0)
