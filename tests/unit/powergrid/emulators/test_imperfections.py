"""What makes an emulator differ from its model: the formulas, and that a seed repeats it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powergrid.devices import BatterySpec, GeneratorSpec
from powergrid.emulators.imperfections import Imperfections
from powergrid.scenario import EmulatorTable
from support.rows import each_row

SUBSTEPS = 18_000  # of 0.05 s: a dead time in whole seconds ends with one


def device(seed: int = 0, p_mw: float = 0.0, **table: Any) -> Imperfections:
    return Imperfections(EmulatorTable(**table), random.Random(seed), p_mw)


def integrated(before: float, target: float, dead_s: float, lag_s: float, dt_s: float) -> tuple[float, float]:
    """Return mean and last power of dP/dt = (T(t) - P) / lag (midpoint rule); T steps after ``dead_s``."""
    h, p, energy = dt_s / SUBSTEPS, before, 0.0
    for i in range(SUBSTEPS):
        goal = before if (i + 0.5) * h < dead_s else target
        if lag_s == 0.0:
            p = goal
            energy += p * h
            continue
        middle = p + 0.5 * h * (goal - p) / lag_s
        energy += middle * h
        p += h * (goal - middle) / lag_s
    return energy / dt_s, p


@each_row("dead_s", [0.0, 30.0, 899.0])
@each_row("lag_s", [0.0, 5.0, 200.0, 5000.0])
def test_dead_time_and_lag_give_the_mean_that_integration_gives(dead_s: float, lag_s: float) -> None:
    box = device(p_mw=-0.03, response_delay_s=dead_s, lag_s=lag_s)
    mean, last = integrated(-0.03, 0.05, dead_s, lag_s, 900.0)
    assert box.respond(0.05, 900.0) == pytest.approx(mean, abs=1e-5)
    assert box.p_mw == pytest.approx(last, abs=1e-5)


def test_a_dead_time_of_more_than_the_step_moves_nothing() -> None:
    box = device(p_mw=0.01, response_delay_s=10.0)
    assert box.respond(0.05, 5.0) == 0.01
    assert box.p_mw == 0.01


def test_a_ramp_bounds_what_a_step_reaches() -> None:
    box = device(ramp_mw_per_s=0.001, response_delay_s=2.0)
    box.respond(1.0, 10.0)
    assert box.p_mw == pytest.approx(0.008)
    box.respond(-1.0, 10.0)
    assert box.p_mw == pytest.approx(0.0)


powers = st.floats(-1.0, 1.0)


@given(
    powers, powers, st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.one_of(st.none(), st.floats(1e-4, 1.0))
)
def test_the_response_stays_between_where_it_was_and_where_it_shall_be(
    before: float, target: float, dead_s: float, lag_s: float, ramp: float | None
) -> None:
    box = device(p_mw=before, response_delay_s=dead_s, lag_s=lag_s, ramp_mw_per_s=ramp)
    mean = box.respond(target, 60.0)
    low, high = min(before, target) - 1e-12, max(before, target) + 1e-12
    assert low <= mean <= high
    assert low <= box.p_mw <= high


@given(powers, powers, st.floats(0.1, 3600.0))
def test_an_ideal_device_does_exactly_what_it_is_told(before: float, target: float, dt_s: float) -> None:
    box = device(p_mw=before)
    assert box.respond(target, dt_s) == target
    assert box.measure(target) == target
    assert box.answer_delay_s() == 0.0
    assert box.rng.getstate() == random.Random(0).getstate()  # and takes no randomness for it


def test_noise_has_the_size_that_was_asked_for_and_rounding_the_step() -> None:
    box = device(noise_mw=0.002)
    errors = [box.measure(0.05) - 0.05 for _ in range(4000)]
    assert sum(errors) / len(errors) == pytest.approx(0.0, abs=2e-4)
    assert (sum(e * e for e in errors) / len(errors)) ** 0.5 == pytest.approx(0.002, rel=0.1)
    shown = device(noise_mw=0.002, quantum_mw=0.001).measure(0.05)
    assert shown / 0.001 == pytest.approx(round(shown / 0.001), abs=1e-9)


def test_answers_come_within_delay_and_jitter() -> None:
    box = device(answer_delay_s=0.1, jitter_s=0.05)
    delays = [box.answer_delay_s() for _ in range(500)]
    assert 0.1 <= min(delays) < 0.105
    assert 0.145 < max(delays) <= 0.15


def test_the_same_seed_repeats_every_number_and_another_does_not() -> None:
    def told(seed: int) -> list[float]:
        box = device(seed, noise_mw=0.001, jitter_s=0.1, lag_s=3.0)
        return [
            x
            for i in range(20)
            for x in (box.respond(0.01 * i, 10.0), box.measure(0.01), box.answer_delay_s())
        ]

    assert told(7) == told(7)
    assert told(7) != told(8)


def test_a_real_battery_may_lose_more_than_its_nameplate_says_and_other_devices_are_as_they_are() -> None:
    nameplate = BatterySpec(max_e_mwh=1.0, max_p_charge_mw=0.5, max_p_discharge_mw=0.5, efficiency_charge=0.9)
    real = nameplate.derated(0.5)
    assert isinstance(real, BatterySpec)
    assert real.efficiency_charge == pytest.approx(0.45)
    assert real.efficiency_discharge == pytest.approx(0.5 * nameplate.efficiency_discharge)
    generator = GeneratorSpec(max_p_mw=1.0)
    assert generator.derated(0.5) is generator
