"""The sequence tracker against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging.core.sequence import Arrival, SequenceTracker

MAX_GAP = 100_000


def _observe(tracker: SequenceTracker, *numbers: int) -> list[Arrival]:
    return [tracker.observe("MG1", "b", "c", n) for n in numbers]


@given(st.lists(st.integers(0, 30), max_size=60))
def test_duplicates_and_losses_are_those_of_a_full_memory(numbers: list[int]) -> None:
    tracker = SequenceTracker()
    heard: set[int] = set()
    for n in numbers:
        arrival = tracker.observe("MG1", "b", "c", n)
        assert (arrival is Arrival.DUPLICATE) == (n in heard)
        if heard and arrival is not Arrival.DUPLICATE:
            assert (arrival is Arrival.AFTER_GAP) == (n > max(heard) + 1)
            assert (arrival is Arrival.LATE) == (n < max(heard))
        heard.add(n)
        # lost: not heard, between the first number ever heard and the highest one
        first = numbers[0]
        assert tracker.lost == len([m for m in range(first, max(heard)) if m not in heard])


def test_the_first_number_heard_starts_a_stream_without_a_gap() -> None:
    tracker = SequenceTracker()
    assert _observe(tracker, 1_000_000, 1_000_001) == [Arrival.EXPECTED, Arrival.EXPECTED]
    assert tracker.lost == 0


def test_senders_boots_and_channels_are_streams_of_their_own() -> None:
    tracker = SequenceTracker()
    for key in [("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x")]:
        assert tracker.observe(*key, 5) is Arrival.EXPECTED
        assert tracker.observe(*key, 5) is Arrival.DUPLICATE


def test_the_largest_gap_is_counted_whole_in_bounded_memory_and_time() -> None:
    tracker = SequenceTracker(max_missing=10)
    top = MAX_GAP + 1
    assert _observe(tracker, 0, top) == [Arrival.EXPECTED, Arrival.AFTER_GAP]
    assert tracker.lost == MAX_GAP
    assert _observe(tracker, top - 10) == [Arrival.LATE]
    assert _observe(tracker, top - 11) == [Arrival.DUPLICATE]  # later than is remembered
    assert tracker.lost == MAX_GAP - 1


@pytest.mark.parametrize("seq", [MAX_GAP + 2, 10**15])
def test_a_jump_beyond_the_largest_gap_is_a_miscount_and_nothing_is_lost(seq: int) -> None:
    tracker = SequenceTracker()
    assert _observe(tracker, 0, seq, seq + 1) == [Arrival.EXPECTED, Arrival.AFTER_JUMP, Arrival.EXPECTED]
    assert tracker.lost == 0


def test_what_was_lost_before_a_jump_stays_counted_and_later_losses_are_counted_on() -> None:
    tracker = SequenceTracker()
    _observe(tracker, 0, 3, 10**15, 10**15 + 3)
    assert tracker.lost == 2 + 2


def test_the_streams_remembered_are_bounded_and_the_quietest_goes_first() -> None:
    tracker = SequenceTracker(max_streams=2)
    tracker.observe("one", "b", "c", 7)
    tracker.observe("two", "b", "c", 7)
    tracker.observe("one", "b", "c", 8)
    tracker.observe("three", "b", "c", 7)
    assert tracker.observe("one", "b", "c", 8) is Arrival.DUPLICATE
    assert tracker.observe("two", "b", "c", 7) is Arrival.EXPECTED  # forgotten: begins anew


def test_as_much_is_remembered_as_is_agreed() -> None:
    tracker = SequenceTracker()
    _observe(tracker, 0, 1_002)
    assert _observe(tracker, 1, 2) == [Arrival.DUPLICATE, Arrival.LATE], "a thousand numbers"
    for n in range(20_000):
        tracker.observe(f"s{n}", "b", "c", 0)
    assert tracker.stream("MG1", "b", "c") is None
    assert tracker.stream("s0", "b", "c") is not None, "twenty thousand streams"


def test_of_numbers_from_before_the_first_one_the_newest_are_remembered() -> None:
    tracker = SequenceTracker(max_missing=3)
    assert _observe(tracker, 10, 4, 6, 7, 8, 9) == [
        *(Arrival.EXPECTED, Arrival.LATE, Arrival.DUPLICATE),
        *(Arrival.LATE, Arrival.LATE, Arrival.LATE),
    ]


def test_numbers_from_before_the_first_one_heard_are_late_not_lost() -> None:
    tracker = SequenceTracker()
    assert _observe(tracker, 5, 3, 4, 3) == [Arrival.EXPECTED, Arrival.LATE, Arrival.LATE, Arrival.DUPLICATE]
    assert tracker.lost == 0


def test_a_stream_that_is_followed_elsewhere_is_not_forgotten_with_its_gap() -> None:
    tracker = SequenceTracker(max_streams=3)
    _observe(tracker, 0)
    followed = tracker.stream("MG1", "b", "c")
    assert followed is not None
    assert not followed.is_next(2)
    assert not followed.is_next(0)
    for n in range(10):
        assert followed.is_next(n + 1)
        tracker.observe(f"other{n}", "b", "c", 0)
    assert tracker.stream("MG1", "b", "c") is None
    tracker.keep("MG1", "b", "c", followed)
    assert _observe(tracker, 13) == [Arrival.AFTER_GAP]
    assert tracker.lost == 2
    tracker.observe("other8", "b", "c", 1)
    tracker.keep("MG1", "b", "c", followed)
    tracker.observe("new", "b", "c", 0)
    assert [tracker.stream(name, "b", "c") is None for name in ("MG1", "other8", "other9")] == [
        False,
        False,
        True,
    ]
    tracker.keep("other9", "b", "c", followed)
    assert tracker.stream("other8", "b", "c") is None, "there are never more than three"
