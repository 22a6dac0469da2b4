"""Assertions on signals: what does not hold is named with time, value and bound; gaps never pass."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.testing.signals import (
    Signal,
    SignalFailed,
    SignalSamples,
    ramps_no_faster_than,
    reaches_safe_within,
    reacts_within,
    settles_within,
    stays_inside,
)

DT_S = 60.0
VALUES = st.lists(st.floats(-10.0, 10.0, allow_nan=False), min_size=4, max_size=40)


def signal(*values: float) -> Signal:
    return Signal("MG1/ess p_mw", "MW", tuple(DT_S * i for i in range(len(values))), tuple(values))


HOLD: dict[str, Callable[[Signal], None]] = {
    "stays inside": lambda s: stays_inside(s, -10.0, 10.0),
    "settles": lambda s: settles_within(s, 0.0, 10.0, DT_S),
    "safe": lambda s: reaches_safe_within(s, DT_S, after_s=0.0, tolerance=10.0),
    "ramp": lambda s: ramps_no_faster_than(s, 20.0 / DT_S),
    "reacts": lambda s: reacts_within(
        s, s.t_s[-1], after_s=0.0, by=-1e-300 if min(s.values[1:]) < s.values[0] else 1e-300
    ),
}


@given(VALUES, st.floats(0.0, 10.0))
def test_stays_inside_is_what_it_says(values: list[float], limit: float) -> None:
    if all(abs(value) <= limit for value in values):
        stays_inside(signal(*values), -limit, limit)
    else:
        with pytest.raises(SignalFailed):
            stays_inside(signal(*values), -limit, limit)


@given(VALUES, st.floats(0.0, 0.5))
def test_a_ramp_is_the_change_from_each_sample_to_the_next(values: list[float], per_s: float) -> None:
    fastest = max(abs(b - a) / DT_S for a, b in itertools.pairwise(values))
    if fastest <= per_s:
        ramps_no_faster_than(signal(*values), per_s)
    elif fastest > per_s * 1.0001 + 1e-12:
        with pytest.raises(SignalFailed):
            ramps_no_faster_than(signal(*values), per_s)


@given(VALUES, st.integers(0, 39), st.floats(0.0, 10.0))
def test_settled_is_there_from_then_on_until_the_end(
    values: list[float], within: int, tolerance: float
) -> None:
    late = values[within:]
    settled = bool(late) and all(abs(value - 1.0) <= tolerance for value in late)
    if settled:
        settles_within(signal(*values), 1.0, tolerance, within * DT_S)
    else:
        with pytest.raises(SignalFailed):
            settles_within(signal(*values), 1.0, tolerance, within * DT_S)


@pytest.mark.parametrize("name", HOLD)
@given(values=VALUES, data=st.data())
def test_a_value_that_is_not_known_never_passes(name: str, values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    with pytest.raises(SignalFailed, match="not known"):
        HOLD[name](signal(*values)) if name != "reacts" else reacts_within(
            signal(*values), 1e9, after_s=0.0, by=1.0, until_s=DT_S * (len(values) - 1)
        )


@pytest.mark.parametrize("name", HOLD)
@given(values=VALUES, data=st.data())
def test_a_gap_never_passes(name: str, values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(values) - 2))
    whole = replace(signal(*values), longest_gap_s=1.5 * DT_S)
    times, kept = list(whole.t_s), list(whole.values)
    del times[place], kept[place]
    broken = replace(whole, t_s=tuple(times), values=tuple(kept))
    with pytest.raises(SignalFailed, match=r"nothing is known for 120 s"):
        HOLD[name](broken)


@pytest.mark.parametrize("name", ["stays inside", "ramp"])
def test_a_signal_that_ends_before_the_window_does_not_pass(name: str) -> None:
    asserted: dict[str, Callable[[Signal], None]] = {
        "ramp": lambda short: ramps_no_faster_than(short, 1.0, until_s=600.0),
        "stays inside": lambda short: stays_inside(short, -1.0, 1.0, until_s=600.0),
    }
    with pytest.raises(SignalFailed, match="nothing is known"):
        asserted[name](signal(0.0, 0.0, 0.0))


def test_nothing_at_all_passes_nothing() -> None:
    with pytest.raises(SignalFailed, match="no sample"):
        stays_inside(Signal("x", "", (), ()), 0.0, 1.0)
    with pytest.raises(SignalFailed, match="one sample"):
        ramps_no_faster_than(signal(1.0), 1.0)


def test_the_text_says_time_value_and_bound() -> None:
    with pytest.raises(SignalFailed) as caught:
        stays_inside(signal(0.0, 0.02, 0.061, 0.06), -0.05, 0.05)
    assert str(caught.value) == (
        "MG1/ess p_mw: stays inside -0.05 MW .. 0.05 MW, from 0 to 180 s: "
        "0.061 MW at 120 s is above 0.05 MW; 2 of 4 samples are outside"
    )
    with pytest.raises(SignalFailed, match=r"0.06 MW at 60 s: 0.001 MW/s"):
        ramps_no_faster_than(signal(0.0, 0.06), 0.0005)
    with pytest.raises(SignalFailed, match=r"0.01 MW at 180 s; it is away from there in 1 of 2 samples"):
        reaches_safe_within(signal(0.02, 0.02, 0.0, 0.01), 60.0, after_s=60.0)
    with pytest.raises(SignalFailed, match=r"it was 0.02 MW, and comes to 0.021 MW at 120 s at most"):
        reacts_within(signal(0.02, 0.02, 0.021), 60.0, after_s=60.0, by=0.01)


def test_a_reaction_in_the_other_direction_is_none() -> None:
    reacts_within(signal(0.0, 0.0, -0.02), 60.0, after_s=60.0, by=-0.01)
    with pytest.raises(SignalFailed):
        reacts_within(signal(0.0, 0.0, -0.02), 60.0, after_s=60.0, by=0.01)


def test_a_ramp_down_may_be_faster_than_up() -> None:
    ramps_no_faster_than(signal(0.0, 0.6, -0.6), 0.01, down_per_s=0.02)
    with pytest.raises(SignalFailed):
        ramps_no_faster_than(signal(0.0, 0.6, -0.6), 0.01)


@given(VALUES, st.floats(-5.0, 5.0))
def test_the_plot_is_well_formed_whatever_the_values(values: list[float], limit: float) -> None:
    from xml.etree import ElementTree as ET

    values[0] = math.nan
    with pytest.raises(SignalFailed) as caught:
        stays_inside(
            Signal("<&>", "", tuple(map(float, range(len(values)))), tuple(values)), limit, limit + 1.0
        )
    ET.fromstring(caught.value.svg)
    assert not re.search(r"nan|inf", caught.value.svg.partition("<path")[2])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Signal("x", "", (0.0, 1.0), (0.0,)),
        lambda: Signal("x", "", (1.0, 1.0), (0.0, 0.0)),
        lambda: Signal("x", "", (math.nan,), (0.0,)),
        lambda: stays_inside(signal(1.0, 1.0), 2.0, 1.0),
        lambda: reacts_within(signal(1.0, 1.0), 1.0, after_s=0.0, by=0.0),
        lambda: ramps_no_faster_than(signal(1.0, 1.0), -1.0),
        lambda: settles_within(signal(1.0, 1.0), 1.0, -1.0, 1.0),
    ],
)
def test_an_assertion_that_makes_no_sense_is_an_error_and_no_failure(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        wrong()


def test_samples_are_taken_in_order() -> None:
    taken = SignalSamples("x", "MW", longest_gap_s=2.0)
    taken.add(0.0, 1.0)
    taken.add(1.0, None)
    assert math.isnan(taken.signal().values[1])
    with pytest.raises(ValueError, match="does not come after"):
        taken.add(1.0, 2.0)
