"""How late messages are, without comparing clocks; and the newest points of a device."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.app.live_view.delays import NEWEST, SENDERS, WINDOW_S, Delays, MinimumDelays
from heron_mqtt.app.live_view.trace import APART_S, POINTS, DeviceTrace

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def sent(at_s: float, clock_off_s: float = 0.0) -> str:
    return (BEGIN + timedelta(seconds=at_s + clock_off_s)).isoformat(timespec="microseconds")


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=20),
)
def test_a_wrong_clock_of_the_sender_changes_no_delay(off_s: float, delays_s: list[float]) -> None:
    quickest, right = MinimumDelays(), MinimumDelays()
    for n, delay_s in enumerate([0.0, *delays_s]):
        told = quickest.later_s("MG1", sent(n, off_s), n + delay_s)
        assert told == pytest.approx(right.later_s("MG1", sent(n), n + delay_s), abs=1e-3)
        assert told == pytest.approx(delay_s, abs=1e-3)


def test_a_sender_that_is_no_name_is_not_remembered() -> None:
    quickest = MinimumDelays()
    assert quickest.later_s("x" * 200, sent(0.0), 0.0) == 0.0
    assert quickest.later_s("x" * 201, sent(0.0), 0.0) is None
    assert len(quickest._senders) == 1


def test_a_drifting_clock_is_forgotten_after_two_windows() -> None:
    quickest = MinimumDelays()
    assert quickest.later_s("MG1", sent(0.0), 0.0) == 0.0
    late = quickest.later_s("MG1", sent(WINDOW_S), WINDOW_S + 1.0)
    assert late == pytest.approx(1.0)
    quickest.later_s("MG1", sent(2 * WINDOW_S), 2 * WINDOW_S + 1.0)
    assert quickest.later_s("MG1", sent(2 * WINDOW_S + 1), 2 * WINDOW_S + 2.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("sender", "sent_at"), [(None, sent(0)), ("MG1", None), ("MG1", "yesterday"), ("MG1", "2026-01-01T00:00")]
)
def test_who_does_not_say_when_has_no_delay(sender: object, sent_at: object) -> None:
    assert MinimumDelays().later_s(sender, sent_at, 1.0) is None


def test_senders_and_delays_that_are_remembered_are_bounded() -> None:
    quickest, delays = MinimumDelays(), Delays()
    for n in range(SENDERS + 5):
        delays.note(quickest.later_s(f"made-up-{n}", sent(0), 0.0))
    assert len(quickest._senders) <= SENDERS
    assert len(delays._newest_s) == NEWEST
    assert (delays.mean_s, delays.max_s) == (0.0, 0.0)


def test_a_trace_keeps_the_newest_points_in_order() -> None:
    trace = DeviceTrace()
    for n in range(POINTS + 10):
        trace.note(n * 1.0, None if n % 2 else 0.5, n / 1000)
    found = trace.as_json(100.0)
    assert found["t"] == [n + 100.0 for n in range(10, POINTS + 10)]
    assert found["told"][:2] == [0.5, None]
    assert found["done"][-1] == (POINTS + 9) / 1000


@given(st.integers(1, 3 * POINTS))
def test_the_last_value_of_a_burst_is_the_one_that_is_shown(n: int) -> None:
    trace = DeviceTrace()
    for k in range(n):
        trace.note(k * 1.0, 0.1, 0.0)
        trace.note(k * 1.0 + APART_S / 2, 0.2, 0.7)
    found = trace.as_json(0.0)
    assert len(found["t"]) == min(n, POINTS)
    assert (found["told"][-1], found["done"][-1], found["done"][0]) == (0.2, 0.7, 0.7)
