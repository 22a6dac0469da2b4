"""Generator: commitment rules, ramp, cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from powergrid.devices import Generator, GeneratorSpec
from support.device_strategies import devices_with_steps, generator_specs
from support.rows import each_row

HOUR_S = 3600.0


def generator(**fields: Any) -> Generator:
    return Generator(GeneratorSpec(**({"min_p_mw": 0.4, "max_p_mw": 2.0} | fields)))


@given(devices_with_steps(generator_specs()))
def test_no_sequence_of_setpoints_leaves_the_limits(case: Any) -> None:
    spec, steps = case
    device = Generator(spec)
    s_max = spec.max_p_mw if spec.s_max_mva is None else spec.s_max_mva
    for arguments in steps:
        out = device.step(*arguments)
        if out.running:
            assert spec.min_p_mw <= out.p_mw <= spec.max_p_mw
            assert out.p_mw**2 + out.q_mvar**2 <= s_max**2 * (1.0 + 1e-12)
        else:
            assert (out.p_mw, out.q_mvar) == (0.0, 0.0)
        assert out.soc is None


@given(devices_with_steps(generator_specs()))
def test_ramp_is_kept_through_runs_starts_and_stops(case: Any) -> None:
    spec, steps = case
    device = Generator(spec)
    for p_mw, q_mvar, dt_s, _ in steps:
        before = device.state
        out = device.step(p_mw, q_mvar, dt_s)
        if spec.ramp_mw_per_s is None:
            continue
        reach = spec.ramp_mw_per_s * dt_s * (1.0 + 1e-12) + 1e-14
        # A start comes in at min_p_mw, a stop leaves from it: the jump to and from 0 is not a ramp.
        start = before.p_mw if before.running else spec.min_p_mw
        end = out.p_mw if out.running else spec.min_p_mw
        if before.running or out.running:
            assert abs(end - start) <= reach


@given(devices_with_steps(generator_specs()))
def test_every_run_and_every_pause_lasts_its_minimum(case: Any) -> None:
    spec, steps = case
    device = Generator(spec)
    lasted_s: float | None = None  # unknown until the first switch
    running: bool | None = device.state.running
    for p_mw, q_mvar, dt_s, _ in steps:
        out = device.step(p_mw, q_mvar, dt_s)
        if out.running != running:
            minimum_s = spec.min_up_s if running else spec.min_down_s
            assert lasted_s is None or lasted_s >= minimum_s - 1e-5
            running, lasted_s = out.running, 0.0
        if lasted_s is not None:
            lasted_s += dt_s


@given(devices_with_steps(generator_specs()))
def test_cost_is_fuel_while_running_plus_each_switch(case: Any) -> None:
    spec, steps = case
    device = Generator(spec)
    for p_mw, q_mvar, dt_s, _ in steps:
        was_running = device.state.running
        out = device.step(p_mw, q_mvar, dt_s)
        p = out.p_mw
        per_h = spec.cost_a_usd_per_h + spec.cost_b_usd_per_mwh * p + spec.cost_c_usd_per_mw2h * p * p
        expected = per_h * dt_s / HOUR_S if out.running else 0.0
        if out.running and not was_running:
            expected += spec.start_cost_usd
        if was_running and not out.running:
            expected += spec.stop_cost_usd
        assert out.cost == pytest.approx(expected, rel=1e-12)


@given(generator_specs(), st.floats(-50.0, 500.0), st.floats(0.0, 1.0))
def test_no_power_earns_more_than_the_economic_one(spec: GeneratorSpec, price: float, where: float) -> None:
    device = Generator(spec)
    best = device.economic_p_mw(price)
    other = min(spec.max_p_mw, spec.min_p_mw + where * (spec.max_p_mw - spec.min_p_mw))

    def profit(p_mw: float) -> float:
        return price * p_mw - device.cost_per_h(p_mw)

    assert spec.min_p_mw <= best <= spec.max_p_mw
    assert profit(best) >= profit(other) - 1e-9


@given(generator_specs(), st.floats(0.0, 10.0))
def test_marginal_cost_is_the_slope_of_the_cost(spec: GeneratorSpec, p_mw: float) -> None:
    device = Generator(spec)
    slope = (device.cost_per_h(p_mw + 0.5) - device.cost_per_h(p_mw - 0.5)) / 1.0
    assert device.marginal_cost(p_mw) == pytest.approx(slope, rel=1e-9, abs=1e-9)


def test_marginal_cost_equals_the_price_at_the_economic_power() -> None:
    device = generator(cost_b_usd_per_mwh=20.0, cost_c_usd_per_mw2h=10.0)
    assert device.economic_p_mw(44.0) == pytest.approx(1.2)
    assert device.marginal_cost(1.2) == pytest.approx(44.0)
    assert (device.economic_p_mw(-5.0), device.economic_p_mw(500.0)) == (0.4, 2.0)


def test_a_constant_marginal_cost_switches_between_the_limits() -> None:
    device = generator(cost_b_usd_per_mwh=20.0)
    assert [device.economic_p_mw(price) for price in (19.0, 20.0, 21.0)] == [0.4, 0.4, 2.0]


def test_a_price_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^price must be a finite number, got nan"):
        generator().economic_p_mw(float("nan"))


@each_row(
    ("setpoint", "expected"), [(-1.0, 0.0), (0.0, 0.0), (0.2, 0.0), (0.21, 0.4), (0.4, 0.4), (9.0, 2.0)]
)
@each_row("initial_running", [True, False])
def test_a_setpoint_in_the_gap_goes_to_the_nearer_of_off_and_minimum(
    initial_running: bool, setpoint: float, expected: float
) -> None:
    out = generator(initial_running=initial_running).step(setpoint, 0.0, 900.0)
    assert out.p_mw == expected
    assert out.running is (expected > 0.0)


def test_without_a_minimum_only_zero_and_below_mean_off() -> None:
    device = generator(min_p_mw=0.0)
    assert device.step(1e-9, 0.0, 900.0).running is True
    assert device.step(0.0, 0.0, 900.0).running is False


def test_a_start_comes_in_at_the_minimum_and_ramps_on() -> None:
    device = generator(ramp_mw_per_s=0.001)
    assert device.feasible(100.0) == (0.0, 0.5)
    assert device.step(2.0, 0.0, 100.0).p_mw == 0.5
    assert device.step(2.0, 0.0, 100.0).p_mw == pytest.approx(0.6)


def test_two_half_steps_reach_as_far_as_a_whole_one() -> None:
    halves, whole = generator(ramp_mw_per_s=0.001), generator(ramp_mw_per_s=0.001)
    halves.step(2.0, 0.0, 300.0)
    assert halves.step(2.0, 0.0, 300.0).p_mw == pytest.approx(whole.step(2.0, 0.0, 600.0).p_mw)


def test_a_stop_waits_until_the_ramp_reaches_the_minimum() -> None:
    device = generator(ramp_mw_per_s=0.001, initial_running=True, initial_p_mw=0.75)
    powers = [device.step(0.0, 0.0, 100.0) for _ in range(5)]
    assert [out.p_mw for out in powers] == pytest.approx([0.65, 0.55, 0.45, 0.0, 0.0])
    assert [out.running for out in powers] == [True, True, True, False, False]


def test_a_unit_that_must_stay_up_goes_to_its_minimum_and_says_clipped() -> None:
    device = generator(min_up_s=1800.0)
    device.step(1.0, 0.0, 900.0)
    assert device.feasible(900.0) == (0.4, 2.0)
    held = device.step(0.0, 0.0, 900.0)
    assert (held.p_mw, held.running, held.clipped) == (0.4, True, True)
    assert device.step(0.0, 0.0, 900.0).running is False


def test_a_unit_that_must_stay_down_does_not_start() -> None:
    device = generator(min_down_s=1800.0, initial_running=True)
    device.step(0.0, 0.0, 900.0)
    assert device.feasible(900.0) == (0.0, 0.0)
    held = device.step(1.0, 0.5, 900.0)
    assert (held.p_mw, held.q_mvar, held.running, held.clipped) == (0.0, 0.0, False, True)
    assert device.step(1.0, 0.0, 900.0).running is True


def test_minimum_times_survive_rounding_of_short_steps() -> None:
    device = generator(min_up_s=1.0)
    for _ in range(10):
        assert device.step(1.0, 0.0, 0.1).running is True
    assert device.step(0.0, 0.0, 0.1).running is False

    device = generator(min_down_s=1.0, initial_running=True)
    for _ in range(10):
        assert device.step(0.0, 0.0, 0.1).running is False
    assert device.step(1.0, 0.0, 0.1).running is True


def test_start_and_stop_are_paid_once_and_pauses_cost_nothing() -> None:
    device = generator(cost_a_usd_per_h=8.0, cost_b_usd_per_mwh=50.0, start_cost_usd=7.0, stop_cost_usd=3.0)
    costs = [device.step(p, 0.0, 900.0).cost for p in (0.0, 1.0, 1.0, 0.0, 0.0)]
    assert costs == pytest.approx([0.0, 7.0 + 14.5, 14.5, 3.0, 0.0])


def test_a_running_unit_gives_reactive_power_within_its_rating() -> None:
    device = generator(s_max_mva=2.5)
    out = device.step(2.0, -9.0, 900.0)
    assert out.q_mvar == pytest.approx(-1.5)
    assert out.clipped
    assert generator().step(2.0, 1.0, 900.0).q_mvar == 0.0


def test_reset_starts_as_the_spec_says() -> None:
    assert generator().state.p_mw == 0.0
    assert generator(initial_running=True).state.p_mw == 0.4
    assert generator(initial_running=True, initial_p_mw=1.5, min_up_s=9.0).feasible(1.0)[0] == 0.0


@pytest.mark.parametrize(
    ("p_mw", "running", "state"),
    [
        (0.01, None, (False, 0.0)),
        (0.39, None, (True, 0.4)),
        (1.1, None, (True, 1.1)),
        (2.01, None, (True, 2.0)),
        (-0.02, None, (False, 0.0)),
        (0.1, True, (True, 0.4)),
        (1.0, False, (False, 0.0)),
    ],
)
def test_restore_reads_running_from_the_power_unless_told(
    p_mw: float, running: bool | None, state: tuple[bool, float]
) -> None:
    device = generator()
    device.restore(p_mw, running=running)
    assert (device.state.running, device.state.p_mw) == state


def test_restore_of_an_idling_unit_without_a_minimum_keeps_it_running() -> None:
    device = generator(min_p_mw=0.0, initial_running=True)
    device.restore(0.0)
    assert device.state.running is True


def test_restore_counts_anew_only_after_a_switch_that_the_model_missed() -> None:
    device = generator(min_up_s=1800.0, initial_running=True)
    device.restore(1.0)
    assert device.state.time_in_state_s == 1800.0
    device.restore(0.0)
    assert device.state.time_in_state_s == 0.0
    device.restore(1.0, running=True, time_in_state_s=600)
    assert device.state.time_in_state_s == 600.0


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_restoring_an_impossible_time_is_refused_and_moves_nothing(bad: float) -> None:
    device = generator()
    before = device.state
    with pytest.raises(ValueError, match=r"^time_in_state_s must be"):
        device.restore(1.0, time_in_state_s=bad)
    assert device.state is before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_p_mw": 3.0}, "min_p_mw must not exceed max_p_mw, got 3.0 and 2.0"),
        ({"s_max_mva": 1.0}, "s_max_mva must be at least max_p_mw = 2.0, got 1.0"),
        ({"initial_p_mw": 1.0}, r"initial_p_mw must be within \[0.0, 0.0\] with initial_running = false"),
        ({"initial_p_mw": 0.1, "initial_running": True}, r"initial_p_mw must be within \[0.4, 2.0\]"),
        ({"initial_running": 1}, "initial_running"),
    ],
)
def test_a_contradictory_nameplate_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        generator(**fields)


def test_a_generators_nameplate_reaches_from_off_to_its_largest_power() -> None:
    spec = GeneratorSpec(max_p_mw=0.1, min_p_mw=0.02)
    assert spec.power_range_mw == (0.0, 0.1)
    assert spec.action_range_mw == (0.0, 0.05, 0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"min_p_mw": 2.0},
        {"s_max_mva": 2.0},
        {"initial_p_mw": 0.0},
        {"initial_running": True, "initial_p_mw": 0.4},
        {"initial_running": True, "initial_p_mw": 2.0},
    ],
)
def test_a_nameplate_may_be_at_its_own_bounds(fields: dict[str, Any]) -> None:
    device = generator(**fields)
    assert device.state == (device.spec.initial_p_mw or 0.0, device.spec.initial_running, 0.0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"initial_p_mw": 0.1}, "[0.0, 0.0] with initial_running = false, got 0.1"),
        ({"initial_p_mw": 0.39, "initial_running": True}, "[0.4, 2.0] with initial_running = true, got 0.39"),
        ({"initial_p_mw": 2.1, "initial_running": True}, "[0.4, 2.0] with initial_running = true, got 2.1"),
    ],
)
def test_a_power_to_begin_with_that_cannot_be_is_told_with_what_can(
    fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        generator(**fields)
    assert f"initial_p_mw must be within {text}" in str(caught.value)


@pytest.mark.parametrize(("up_s", "down_s"), [(900.0, 60.0), (60.0, 900.0)])
@pytest.mark.parametrize("running", [True, False])
def test_after_a_reset_it_may_switch_at_once_whatever_lasts_longer(
    up_s: float, down_s: float, running: bool
) -> None:
    device = generator(min_up_s=up_s, min_down_s=down_s, initial_running=running)
    for _ in range(2):
        assert device.state.time_in_state_s == 900.0
        assert device.step(0.0 if running else 1.0, 0.0, 60.0).running is not running
        assert device.state.time_in_state_s == 60.0
        device.reset()


def test_how_long_it_runs_or_rests_is_counted_from_the_switch() -> None:
    device = generator(initial_running=True)
    seen = [
        (device.step(p, 0.0, dt_s).running, device.state)
        for p, dt_s in ((1, 60), (2, 30), (0, 20), (0, 5), (1, 7))
    ]
    assert [state for _, state in seen] == [
        *((1.0, True, 60.0), (2.0, True, 90.0), (0.0, False, 20.0), (0.0, False, 25.0), (1.0, True, 7.0))
    ]
    assert [type(state.time_in_state_s) for _, state in seen] == [float] * 5


def test_a_unit_that_rests_gives_no_reactive_power_and_says_that_it_was_asked_for_some() -> None:
    device = generator(s_max_mva=2.5)
    rests = device.step(0.0, 0.5, 60.0)
    assert (rests.p_mw, rests.q_mvar, rests.running, rests.clipped) == (0.0, 0.0, False, True)
    assert device.step(0.0, 0.0, 60.0).clipped is False
    runs = device.step(1.0, 0.5, 60.0)
    assert (runs.q_mvar, runs.clipped, runs.soc, runs.loss_mwh) == (0.5, False, None, 0.0)


def test_a_look_ahead_says_power_and_cost_with_the_switch_and_moves_nothing() -> None:
    device = generator(cost_a_usd_per_h=8.0, cost_b_usd_per_mwh=50.0, start_cost_usd=7.0, stop_cost_usd=3.0)
    before = device.state
    assert device.preview(1.0, 900.0) == (1.0, pytest.approx(7.0 + 14.5))
    assert device.preview(0.0, 900.0) == (0.0, 0.0)
    assert device.state is before
    device.step(1.0, 0.0, 900.0)
    assert device.preview(1.0, 1800.0) == (1.0, pytest.approx(29.0))
    assert device.preview(0.1, 900.0) == (0.0, 3.0)
    assert device.project(0.3, 900.0) == 0.4


@pytest.mark.parametrize("call", ["step", "project", "feasible"])
def test_a_profile_is_refused_by_whatever_is_asked(call: str) -> None:
    device = generator()
    asked = {"step": (1.0, 0.0, 60.0, 0.0), "project": (1.0, 60.0, 0.0), "feasible": (60.0, 0.0)}[call]
    text = "p_available_mw must be None for a generator, which follows no profile, got 0.0"
    with pytest.raises(ValueError, match=f"^{text}$"):
        getattr(device, call)(*asked)


@pytest.mark.parametrize(
    ("before", "now", "p_mw", "cost", "since_s"),
    [
        (True, True, 1.0, 14.5, 1000.0),
        (False, False, 0.0, 0.0, 1000.0),
        (False, True, 1.0, 7.0 + 14.5, 900.0),
        (True, False, 0.0, 3.0, 900.0),
    ],
)
def test_what_was_measured_costs_what_it_did_and_counts_from_its_own_switch(
    before: bool, now: bool, p_mw: float, cost: float, since_s: float
) -> None:
    device = generator(cost_a_usd_per_h=8.0, cost_b_usd_per_mwh=50.0, start_cost_usd=7.0, stop_cost_usd=3.0)
    begun = device.state._replace(running=before, time_in_state_s=100.0)
    device.restore(p_mw, running=now)
    assert device.follow(begun, p_mw, 900.0, 99.0) == pytest.approx(cost)
    assert device.state == (p_mw, now, since_s)


def test_restoring_tells_running_by_half_of_the_minimum_and_idling_by_what_it_did() -> None:
    device = generator()
    for p_mw, running in ((0.2, False), (0.2000001, True)):
        device.restore(p_mw)
        assert device.state.running is running
    for p_mw, began, running in (
        (0.0, True, True),
        (0.0, False, False),
        (0.1, False, True),
        (-0.1, True, False),
    ):
        device = generator(min_p_mw=0.0, initial_running=began)
        device.restore(p_mw)
        assert device.state.running is running, (p_mw, began)
    device = generator(initial_running=True)
    device.restore(0.0)
    assert device.state.running is False, "of one with a minimum 0 is off"
    device.restore(1.0, time_in_state_s=0.0)
    assert device.state == (1.0, True, 0.0)
    with pytest.raises(ValueError, match=r"^time_in_state_s must be >= 0, got -0\.5$"):
        device.restore(1.0, time_in_state_s=-0.5)


@pytest.mark.parametrize(
    ("p_mw", "feasible", "lowest"),
    [
        (1.0, (0.9, 1.1), 0.9),
        (0.5, (0.0, 0.6), 0.0),  # the ramp just reaches the minimum
        (0.55, (0.45, 0.65), 0.45),
        (2.0, (1.9, 2.0), 1.9),
    ],
)
def test_a_running_unit_reaches_as_far_as_its_ramp(
    p_mw: float, feasible: tuple[float, float], lowest: float
) -> None:
    device = generator(min_p_mw=0.4, ramp_mw_per_s=0.001, initial_running=True, initial_p_mw=p_mw)
    assert device.feasible(100.0) == pytest.approx(feasible)
    assert device.project(-5.0, 100.0) == pytest.approx(lowest)


def test_a_unit_that_waits_to_start_or_to_stop_may_at_the_second() -> None:
    device = generator(min_up_s=100.0, min_down_s=100.0, initial_running=True)
    for running in (True, False):
        device.state = device.state._replace(
            p_mw=1.0 if running else 0.0, running=running, time_in_state_s=99.9
        )
        held = device.feasible(60.0)
        assert held == ((0.4, 2.0) if running else (0.0, 0.0))
        device.state = device.state._replace(time_in_state_s=100.0)
        assert device.feasible(60.0) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("planned_mw", "factor", "told_mw"),
    [
        (0.01, 0.5, 0.005),
        (0.02, 0.51, 0.02),
        (0.02, 0.5, 0.0),
        (0.1, 0.2, 0.02),
        (0.1, 1.0, 0.1),
        (0.0, 0.5, 0.0),
    ],
)
def test_a_part_of_a_plan_below_its_minimum_is_none_or_the_minimum(
    planned_mw: float, factor: float, told_mw: float
) -> None:
    assert GeneratorSpec(max_p_mw=0.1, min_p_mw=0.02).part_mw(planned_mw, factor) == pytest.approx(told_mw)
