"""CounterRate: how fast a counter of energy rises, and when that is not known."""

from __future__ import annotations

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.counter_rate import GAP, READINGS_AT_MOST, CounterRate


def test_a_rate_needs_two_readings_so_far_apart_as_was_asked_for() -> None:
    counter = CounterRate("h", 10.0)
    assert [counter.add(100.0, 0.0), counter.add(101.0, 9.9)] == [None, None]
    assert counter.add(102.0, 10.0) == pytest.approx(720.0)


@pytest.mark.parametrize(("per", "rate"), [("s", 0.5), ("min", 30.0), ("h", 1800.0)])
def test_the_rate_is_in_its_unit_of_time(per: str, rate: float) -> None:
    counter = CounterRate(per, 1.0)
    counter.add(7.0, 5.0)
    assert counter.add(8.0, 7.0) == pytest.approx(rate)


def test_coarse_steps_of_a_counter_are_evened_out_over_the_window() -> None:
    counter = CounterRate("h", 20.0)
    rates = [counter.add(float(int(0.3 * t)), float(t)) for t in range(60)]
    assert rates[:20] == [None] * 20
    assert all(rate == pytest.approx(1080.0, rel=0.2) for rate in rates[20:] if rate is not None)
    assert None not in rates[20:]


def test_a_counter_that_stands_still_has_a_rate_of_0() -> None:
    counter = CounterRate("h", 5.0)
    counter.add(3.0, 0.0)
    assert counter.add(3.0, 5.0) == 0.0


def test_a_reading_that_is_not_newer_tells_nothing() -> None:
    counter = CounterRate("h", 1.0)
    counter.add(1.0, 10.0)
    assert counter.add(2.0, 10.0) is None
    assert counter.add(0.5, 9.0) is None, "an old reading, not a counter that went back"
    assert counter.add(2.0, 11.0) == pytest.approx(3600.0)


def test_a_counter_that_goes_back_is_measured_anew() -> None:
    counter = CounterRate("h", 1.0)
    counter.add(100.0, 0.0)
    with pytest.raises(MessageError, match="went from 100 back to 0: the rate starts again"):
        counter.add(0.0, 1.0)
    assert counter.add(1.0, 2.0) == pytest.approx(3600.0)


def test_one_whose_sign_is_turned_falls() -> None:
    counter = CounterRate("h", 1.0, direction=-1)
    counter.add(-100.0, 0.0)
    assert counter.add(-101.0, 1.0) == pytest.approx(-3600.0)
    with pytest.raises(MessageError, match="back"):
        counter.add(-100.0, 2.0)


def test_the_mean_of_an_outage_is_no_power() -> None:
    counter = CounterRate("h", 10.0)
    counter.add(0.0, 0.0)
    assert counter.add(1.0, GAP * 10.0) is not None
    assert counter.add(500.0, 2 * GAP * 10.0 + 0.1) is None
    assert counter.add(501.0, 2 * GAP * 10.0 + 12.6) == pytest.approx(288.0)


def test_readings_that_are_kept_are_bounded() -> None:
    counter = CounterRate("s", 1.0)
    rates = [counter.add(i * 1e-5, i * 1e-5) for i in range(200_000)]
    assert rates[-1] == pytest.approx(1.0)
    assert len(counter._readings) <= 1.1 * READINGS_AT_MOST
