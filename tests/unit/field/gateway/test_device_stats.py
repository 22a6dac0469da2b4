"""DeviceStats: the counts and figures of one device in the summary."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.gateway.device_stats import MAX_SAMPLES, DeviceStats, percentile


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.0, 1.0))
def test_a_percentile_is_a_sample_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-9


def test_what_was_never_measured_is_none() -> None:
    told = DeviceStats().as_dict()
    assert told["age_s"] == told["round_trip_s"] == {"p50": None, "p99": None}
    assert told["time_to_safe_s"] is told["tracking_error_mw"] is told["residual_mw"] is None


def test_fallbacks_are_counted_with_the_longest_row_of_them_and_the_longest_wait() -> None:
    record = DeviceStats()
    assert [record.fell_back(w) for w in (0.3, 0.0, 0.0)] == [1, 2, 3]
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


def test_samples_are_bounded_and_the_newest_are_kept() -> None:
    record = DeviceStats()
    for k in range(MAX_SAMPLES + 10):
        record.sample(record.age_s, float(k))
    assert len(record.age_s) <= MAX_SAMPLES
    assert record.age_s[-1] == MAX_SAMPLES + 9
    assert math.isfinite(record.as_dict()["age_s"]["p99"])
