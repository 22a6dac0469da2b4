"""Battery: energy balance, limits with efficiency, standby loss at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from powergrid.devices import Battery, BatterySpec
from powergrid.scenario import PolicyTable
from support.device_strategies import battery_specs, devices_with_steps
from support.rows import each_row

HOUR_S = 3600.0
NAMEPLATE: dict[str, Any] = {"max_e_mwh": 2.0, "max_p_charge_mw": 1.0, "max_p_discharge_mw": 1.0}


def battery(**fields: Any) -> Battery:
    return Battery(BatterySpec(**(NAMEPLATE | fields)))


def stored_mwh(device: Battery) -> float:
    return device.state.soc * device.spec.max_e_mwh


@given(devices_with_steps(battery_specs()))
def test_terminal_energy_losses_and_stored_energy_balance(case: Any) -> None:
    spec, steps = case
    device = Battery(spec)
    for p_mw, q_mvar, dt_s, _ in steps:
        before_mwh = stored_mwh(device)
        out = device.step(p_mw, q_mvar, dt_s)
        terminal_mwh = out.p_mw * dt_s / HOUR_S
        residual = stored_mwh(device) - before_mwh + terminal_mwh + out.loss_mwh
        assert abs(residual) <= 1e-12 * max(spec.max_e_mwh, abs(terminal_mwh), out.loss_mwh)


@given(devices_with_steps(battery_specs()))
def test_conversion_loses_its_share_and_standby_never_more_than_rated(case: Any) -> None:
    spec, steps = case
    device = Battery(spec)
    for p_mw, q_mvar, dt_s, _ in steps:
        out = device.step(p_mw, q_mvar, dt_s)
        terminal_mwh = out.p_mw * dt_s / HOUR_S
        if terminal_mwh >= 0.0:
            conversion_mwh = terminal_mwh / spec.efficiency_discharge - terminal_mwh
        else:
            conversion_mwh = -terminal_mwh * (1.0 - spec.efficiency_charge)
        standby_mwh = out.loss_mwh - conversion_mwh
        tolerance = 1e-12 * max(spec.max_e_mwh, abs(terminal_mwh), out.loss_mwh)
        rated_mwh = spec.standby_loss_mw * dt_s / HOUR_S
        assert -tolerance <= standby_mwh <= rated_mwh + tolerance
        if device.state.soc > spec.min_soc + 1e-12:
            assert standby_mwh == pytest.approx(rated_mwh, abs=tolerance)


@given(devices_with_steps(battery_specs()))
def test_no_sequence_of_setpoints_leaves_the_limits(case: Any) -> None:
    spec, steps = case
    device = Battery(spec)
    s_max = max(spec.max_p_charge_mw, spec.max_p_discharge_mw) if spec.s_max_mva is None else spec.s_max_mva
    for p_mw, q_mvar, dt_s, _ in steps:
        out = device.step(p_mw, q_mvar, dt_s)
        assert -spec.max_p_charge_mw <= out.p_mw <= spec.max_p_discharge_mw
        assert spec.min_soc <= device.state.soc <= spec.max_soc
        assert out.soc == device.state.soc
        assert out.p_mw**2 + out.q_mvar**2 <= s_max**2 * (1.0 + 1e-12)


@given(devices_with_steps(battery_specs()))
def test_ramp_is_kept_wherever_the_cells_can_follow(case: Any) -> None:
    spec, steps = case
    device = Battery(spec)
    for p_mw, q_mvar, dt_s, _ in steps:
        before = device.state
        unramped = Battery(spec.model_copy(update={"ramp_mw_per_s": None}))
        unramped.restore(before.p_mw, before.soc)
        low, high = unramped.feasible(dt_s)
        out = device.step(p_mw, q_mvar, dt_s)
        if spec.ramp_mw_per_s is not None:
            reach = spec.ramp_mw_per_s * dt_s
            within = abs(out.p_mw - before.p_mw) <= reach * (1.0 + 1e-12) + 1e-15
            stopped_by_the_cells = out.p_mw in (low, high)
            assert within or stopped_by_the_cells


@given(devices_with_steps(battery_specs()))
def test_cycling_never_yields_free_energy(case: Any) -> None:
    """What was given cannot exceed what was stored or taken, each after its conversions."""
    spec, steps = case
    device = Battery(spec)
    start_mwh = stored_mwh(device)
    given_mwh = taken_mwh = 0.0
    for p_mw, q_mvar, dt_s, _ in steps:
        terminal_mwh = device.step(p_mw, q_mvar, dt_s).p_mw * dt_s / HOUR_S
        given_mwh += max(0.0, terminal_mwh)
        taken_mwh += max(0.0, -terminal_mwh)
    into_cells_mwh = spec.efficiency_charge * taken_mwh
    bound = spec.efficiency_discharge * (start_mwh - stored_mwh(device) + into_cells_mwh)
    assert given_mwh <= bound + 1e-12 * len(steps) * max(spec.max_e_mwh, taken_mwh)


def test_discharging_to_the_floor_gives_the_stored_energy_times_the_efficiency() -> None:
    device = battery(efficiency_discharge=0.9, min_soc=0.1, initial_soc=0.5)
    given_mwh = sum(device.step(1.0, 0.0, 900.0).p_mw * 0.25 for _ in range(10))
    assert given_mwh == pytest.approx((0.5 - 0.1) * 2.0 * 0.9, rel=1e-12)
    assert device.state.soc == 0.1
    assert device.feasible(900.0)[1] == 0.0


def test_charging_to_the_ceiling_takes_the_missing_energy_over_the_efficiency() -> None:
    device = battery(efficiency_charge=0.8, max_soc=0.9, initial_soc=0.5)
    taken_mwh = -sum(device.step(-1.0, 0.0, 900.0).p_mw * 0.25 for _ in range(10))
    assert taken_mwh == pytest.approx((0.9 - 0.5) * 2.0 / 0.8, rel=1e-12)
    assert device.state.soc == 0.9
    assert device.feasible(900.0)[0] == 0.0


def test_one_step_moves_the_charge_by_the_stated_formula() -> None:
    device = battery(efficiency_charge=0.8, efficiency_discharge=0.5, standby_loss_mw=0.02)
    assert device.step(0.4, 0.0, HOUR_S).soc == pytest.approx(0.5 - (0.4 / 0.5 + 0.02) / 2.0, rel=1e-14)
    device.reset()
    out = device.step(-0.4, 0.0, HOUR_S)
    assert out.soc == pytest.approx(0.5 + (0.4 * 0.8 - 0.02) / 2.0, rel=1e-14)
    assert out.loss_mwh == pytest.approx(0.4 * 0.2 + 0.02, rel=1e-14)
    assert out.cost == 0.0
    assert out.running is None


def test_standby_loss_empties_the_cells_to_the_floor_and_ceases_there() -> None:
    device = battery(standby_loss_mw=0.3, min_soc=0.4, initial_soc=0.5)
    assert device.step(0.0, 0.0, HOUR_S / 2).soc == pytest.approx(0.425)
    partly = device.step(0.0, 0.0, HOUR_S)
    assert partly.soc == 0.4
    assert partly.loss_mwh == pytest.approx(0.05)
    asleep = device.step(0.0, 0.0, HOUR_S)
    assert (asleep.soc, asleep.loss_mwh, asleep.p_mw) == (0.4, 0.0, 0.0)


def test_standby_loss_takes_precedence_over_a_discharge() -> None:
    device = battery(standby_loss_mw=0.1, efficiency_discharge=0.9, min_soc=0.3, initial_soc=0.5)
    out = device.step(1.0, 0.0, HOUR_S)
    assert out.p_mw == pytest.approx((0.2 * 2.0 - 0.1) * 0.9, rel=1e-12)
    assert out.soc == 0.3


def test_charging_at_the_floor_with_less_than_the_standby_loss_stores_nothing() -> None:
    device = battery(standby_loss_mw=0.1, efficiency_charge=0.8, min_soc=0.3, initial_soc=0.3)
    out = device.step(-0.05, 0.0, HOUR_S)
    assert (out.p_mw, out.soc) == (-0.05, 0.3)
    assert out.loss_mwh == pytest.approx(0.05, rel=1e-12)


def test_a_full_battery_takes_just_its_standby_loss() -> None:
    device = battery(standby_loss_mw=0.1, efficiency_charge=0.8, initial_soc=1.0)
    out = device.step(-1.0, 0.0, HOUR_S)
    assert out.p_mw == pytest.approx(-0.1 / 0.8, rel=1e-12)
    assert out.soc == 1.0


def test_the_cells_win_over_the_ramp() -> None:
    device = battery(ramp_mw_per_s=1e-4, min_soc=0.0)
    device.restore(1.0, soc=0.01)
    out = device.step(1.0, 0.0, HOUR_S)
    assert out.p_mw == pytest.approx(0.02)
    assert out.soc == 0.0


def test_ramp_limits_a_swing_from_charging_to_discharging() -> None:
    device = battery(ramp_mw_per_s=0.001)
    device.restore(-0.5, soc=0.5)
    assert device.step(1.0, 0.0, 60.0).p_mw == pytest.approx(-0.44)


def test_reactive_power_gets_what_active_power_leaves() -> None:
    device = battery(s_max_mva=1.0)
    out = device.step(0.6, 5.0, 60.0)
    assert (out.p_mw, out.clipped) == (0.6, True)
    assert out.q_mvar == pytest.approx(0.8)
    assert device.step(-0.6, -5.0, 60.0).q_mvar == pytest.approx(-0.8)
    assert device.step(0.6, 0.3, 60.0).clipped is False


def test_the_inverter_bounds_active_power_and_defaults_to_the_larger_limit() -> None:
    assert battery(s_max_mva=0.7).feasible(60.0) == (-0.7, 0.7)
    assert battery(max_p_charge_mw=0.5, max_p_discharge_mw=0.8).spec.rated_s_mva == 0.8


@pytest.mark.parametrize(("soc", "direction"), [(0.05, 1.0), (0.98, -1.0)])
def test_a_restored_charge_outside_the_band_is_kept_and_not_driven_further_out(
    soc: float, direction: float
) -> None:
    device = battery(min_soc=0.1, max_soc=0.9, standby_loss_mw=0.0)
    device.restore(0.0, soc=soc)
    assert device.state.soc == soc
    out = device.step(direction, 0.0, 900.0)
    assert (out.p_mw, out.soc) == (0.0, soc)
    back = device.step(-direction, 0.0, 60.0)
    assert back.p_mw == -direction
    assert abs(back.soc - 0.5) < abs(soc - 0.5)  # type: ignore[operator]


def test_standby_loss_does_not_draw_from_cells_restored_below_the_floor() -> None:
    device = battery(min_soc=0.1, standby_loss_mw=0.1)
    device.restore(0.0, soc=0.05)
    assert device.step(0.0, 0.0, 900.0).soc == 0.05


def test_restoring_power_alone_keeps_the_charge() -> None:
    device = battery()
    device.step(1.0, 0.0, 900.0)
    soc = device.state.soc
    device.restore(0.3)
    assert (device.state.p_mw, device.state.soc) == (0.3, soc)


@pytest.mark.parametrize("soc", [-0.01, 1.01, float("nan"), float("inf")])
def test_restoring_an_impossible_charge_is_refused_and_moves_nothing(soc: float) -> None:
    device = battery()
    before = device.state
    with pytest.raises(ValueError, match=r"^soc must be within \[0, 1\]"):
        device.restore(0.1, soc=soc)
    assert device.state is before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_soc": 0.6, "max_soc": 0.5}, "min_soc must be below max_soc, got 0.6 and 0.5"),
        ({"min_soc": 0.5, "max_soc": 0.5}, "min_soc must be below max_soc"),
        (
            {"min_soc": 0.6, "initial_soc": 0.5},
            r"initial_soc must be within \[min_soc, max_soc\] = \[0.6, 1.0\]",
        ),
        ({"max_soc": 0.4, "initial_soc": 0.5}, "initial_soc must be within"),
        ({"max_p_charge_mw": 0.0, "max_p_discharge_mw": 0.0}, "must not both be 0"),
        ({"efficiency_charge": 0.0}, "efficiency_charge"),
        ({"efficiency_discharge": 95.0}, "efficiency_discharge"),
    ],
)
def test_a_contradictory_nameplate_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        battery(**fields)


def test_a_discharge_only_battery_never_charges() -> None:
    device = battery(max_p_charge_mw=0.0)
    assert device.feasible(900.0)[0] == 0.0
    assert device.step(-1.0, 0.0, 900.0).p_mw == 0.0


def test_what_is_derated_by_nothing_is_the_same_and_by_something_is_worse_both_ways() -> None:
    spec = battery(efficiency_charge=0.9, efficiency_discharge=0.8).spec
    assert spec.derated(1.0) is spec
    worse = spec.derated(0.5)
    assert (worse.efficiency_charge, worse.efficiency_discharge) == (0.45, 0.4)


def test_its_own_policy_charges_and_discharges_with_a_share_of_its_rated_power() -> None:
    device = battery(max_p_charge_mw=0.5, max_p_discharge_mw=0.8)
    policy = PolicyTable(charge_below=30.0, discharge_above=45.0, battery_share=0.25)
    assert device.usual_p_mw(30.0, policy, 900.0, None) == -0.125
    assert device.usual_p_mw(45.0, policy, 900.0, None) == 0.2
    assert device.usual_p_mw(40.0, policy, 900.0, None) == 0.0


POLICY = PolicyTable(charge_below=30.0, discharge_above=45.0, battery_share=0.5)


@pytest.mark.parametrize(
    ("price", "p_mw"), [(29.9, -0.5), (30.0, -0.5), (30.1, 0.0), (44.9, 0.0), (45.0, 0.5)]
)
def test_its_own_policy_acts_at_the_price_that_is_said_and_beyond(price: float, p_mw: float) -> None:
    assert battery().usual_p_mw(price, POLICY, 900.0, None) == p_mw


def test_power_that_would_explain_another_charge_is_positive_where_less_was_measured() -> None:
    assert battery().missing_mw(0.5, 0.4, 1800.0) == pytest.approx(0.4)
    assert battery().missing_mw(0.5, 0.6, HOUR_S) == pytest.approx(-0.2)


@each_row(
    ("fields", "feasible"),
    [
        ({}, (-1.0, 1.0)),
        ({"initial_soc": 0.0}, (-1.0, 0.0)),
        ({"initial_soc": 1.0}, (0.0, 1.0)),
        ({"max_p_charge_mw": 0.3, "max_p_discharge_mw": 0.7}, (-0.3, 0.7)),
        ({"max_p_charge_mw": 0.3, "s_max_mva": 0.5}, (-0.3, 0.5)),
        ({"max_p_discharge_mw": 0.3, "s_max_mva": 0.5}, (-0.5, 0.3)),
        ({"initial_soc": 0.1, "efficiency_discharge": 0.5, "standby_loss_mw": 0.04}, (-1.0, 0.08)),
        ({"initial_soc": 0.9, "efficiency_charge": 0.5, "standby_loss_mw": 0.04}, (-0.48, 1.0)),
        ({"initial_soc": 0.3, "min_soc": 0.25}, (-1.0, 0.1)),
        ({"initial_soc": 0.7, "max_soc": 0.75}, (-0.1, 1.0)),
        ({"ramp_mw_per_s": 1e-4}, (-0.36, 0.36)),
    ],
)
def test_what_can_be_held_for_an_hour_is_what_cells_and_nameplate_allow(
    fields: dict[str, float], feasible: tuple[float, float]
) -> None:
    device = battery(**fields)
    assert device.feasible(HOUR_S) == pytest.approx(feasible)
    assert device.project(-9.0, HOUR_S) == pytest.approx(feasible[0])
    assert device.project(9.0, HOUR_S) == pytest.approx(feasible[1])


def test_a_setpoint_that_is_not_followed_is_told_for_either_power() -> None:
    device = battery(s_max_mva=1.0)
    for p_mw, q_mvar, clipped in ((0.6, 0.8, False), (0.6, 0.9, True), (1.1, 0.0, True), (-1.0, 0.0, False)):
        device.reset()
        out = device.step(p_mw, q_mvar, 60.0)
        assert (out.clipped, out.running, out.cost) == (clipped, None, 0.0), (p_mw, q_mvar)


@pytest.mark.parametrize("call", ["step", "project", "feasible"])
def test_a_profile_is_refused_by_whatever_is_asked(call: str) -> None:
    asked = {"step": (1.0, 0.0, 60.0, 0.0), "project": (1.0, 60.0, 0.0), "feasible": (60.0, 0.0)}[call]
    text = "p_available_mw must be None for a battery, which follows no profile, got 0.0"
    with pytest.raises(ValueError, match=f"^{text}$"):
        getattr(battery(), call)(*asked)


def test_a_restored_charge_may_be_empty_or_full_and_is_a_plain_float() -> None:
    device = battery()
    for soc in (0, 1):
        device.restore(0.25, soc=soc)
        assert device.state == (0.25, float(soc))
        assert type(device.state.soc) is float
    for soc in (-0.001, 1.001):
        with pytest.raises(ValueError, match=rf"^soc must be within \[0, 1\], got {soc}$"):
            device.restore(0.1, soc=soc)


@pytest.mark.parametrize(
    "fields",
    [
        {"min_soc": 0.5, "initial_soc": 0.5},
        {"max_soc": 0.5, "initial_soc": 0.5},
        {"max_p_charge_mw": 0.0},
        {"max_p_discharge_mw": 0.0},
    ],
)
def test_a_nameplate_may_be_at_its_own_bounds(fields: dict[str, Any]) -> None:
    assert battery(**fields).state == (0.0, 0.5)


def test_a_charge_outside_its_band_comes_back_without_a_jump() -> None:
    device = battery(min_soc=0.2, max_soc=0.8)
    for soc, p_mw, after in (
        (0.1, -0.4, 0.3),
        (0.9, 0.4, 0.7),
        (0.1, 0.0, 0.1),
        (0.9, 0.0, 0.9),
        (0.1, -0.04, 0.12),
    ):
        device.restore(0.0, soc=soc)
        assert device.step(p_mw, 0.0, HOUR_S).soc == pytest.approx(after)


@pytest.mark.parametrize(
    "none",
    [{"max_p_charge_mw": 0.0}, {"max_p_discharge_mw": 0.0}, {"initial_soc": 0.9}, {"initial_soc": 0.1}],
)
def test_no_power_is_never_a_negative_zero(none: dict[str, float]) -> None:
    device = battery(**none)
    zeros = [*device.feasible(HOUR_S), *(device.step(p, 0.0, HOUR_S).p_mw for p in (-1e-3, 1e-3, 0.0, -0.0))]
    assert all(math.copysign(1.0, zero) == 1.0 for zero in zeros if zero == 0.0)
    assert 0.0 in zeros


@pytest.mark.parametrize("nothing", [None, "", []])
def test_what_is_no_number_is_no_reactive_power_of_zero(nothing: Any) -> None:
    with pytest.raises(TypeError):
        battery().step(0.0, nothing, HOUR_S)
