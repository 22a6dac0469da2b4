"""DeviceStats: the counts and figures of one device in the summary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.gateway.device_stats import DeviceStats, percentile


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.0, 1.0))
def test_a_percentile_is_a_sample_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-9


def test_what_never_happened_is_0_and_what_was_never_measured_is_none() -> None:
    told = DeviceStats().as_dict()
    assert {key: value for key, value in told.items() if type(value) is int} == dict.fromkeys(
        (
            *("telemetry", "late", "rejected", "unacknowledged", "deviations", "refused", "flooded"),
            *("held", "setpoints", "fallbacks", "longest_fallback", "rejected_in_stop"),
        ),
        0,
    )
    assert told["fallback_delay_s"] is None
    assert told["age_s"] == told["round_trip_s"] == {"p50": None, "p99": None}
    assert told["time_to_safe_s"] is told["tracking_error_mw"] is told["residual_mw"] is None


def test_fallbacks_are_counted_with_the_longest_row_of_them_and_the_longest_wait() -> None:
    record = DeviceStats()
    assert [record.fell_back(w) for w in (0.0, 0.3, 0.1)] == [1, 2, 3]
    assert record.followed() == 3
    assert record.followed() == 0
    assert record.fell_back(0.1) == 1
    told = record.as_dict()
    assert (told["fallbacks"], told["longest_fallback"], told["fallback_delay_s"]) == (4, 3, 0.3)


def test_errors_are_told_as_their_mean_size() -> None:
    record = DeviceStats()
    for value in (-0.01, 0.03):
        record.sample(record.tracking_error_mw, value)
    assert record.as_dict()["tracking_error_mw"] == pytest.approx(0.02)


def test_of_too_many_samples_the_oldest_tenth_goes() -> None:
    record = DeviceStats()
    record.age_s = [float(k) for k in range(99_999)]
    record.sample(record.age_s, 99_999.0)
    assert len(record.age_s) == 100_000
    record.sample(record.age_s, 100_000.0)
    assert (len(record.age_s), record.age_s[0], record.age_s[-1]) == (90_001, 10_000.0, 100_000.0)


def test_ages_and_answers_are_told_by_their_median_and_what_99_of_100_do_not_exceed() -> None:
    record = DeviceStats()
    record.age_s = [float(k) for k in range(1, 101)]
    record.round_trip_s = [k / 2.0 for k in range(100, 0, -1)]
    told = record.as_dict()
    assert told["age_s"] == {"p50": 50.0, "p99": 99.0}
    assert told["round_trip_s"] == {"p50": 25.0, "p99": 49.5}
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0
