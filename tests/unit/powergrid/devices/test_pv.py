"""PV: curtailment, active power before reactive power, irradiance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powergrid.devices import Pv, PvSpec
from support.device_strategies import devices_with_steps, pv_specs


@given(devices_with_steps(pv_specs))
def test_no_sequence_of_setpoints_leaves_sun_setpoint_or_inverter(case: Any) -> None:
    spec, steps = case
    device = Pv(spec)
    s_max = spec.max_p_mw if spec.s_max_mva is None else spec.s_max_mva
    for p_mw, q_mvar, dt_s, available in steps:
        out = device.step(p_mw, q_mvar, dt_s, available)
        assert 0.0 <= out.p_mw <= min(spec.max_p_mw, s_max)
        assert available is None or out.p_mw <= available
        assert out.p_mw <= max(0.0, p_mw)
        assert out.p_mw**2 + out.q_mvar**2 <= s_max**2 * (1.0 + 1e-12)
        assert (out.soc, out.running, out.cost, out.loss_mwh) == (None, None, 0.0, 0.0)


@given(devices_with_steps(pv_specs))
def test_reactive_power_never_costs_active_power(case: Any) -> None:
    spec, steps = case
    device = Pv(spec)
    for p_mw, q_mvar, dt_s, available in steps:
        with_q = device.step(p_mw, q_mvar, dt_s, available)
        without_q = device.step(p_mw, 0.0, dt_s, available)
        assert with_q.p_mw == without_q.p_mw


def test_the_setpoint_curtails_and_the_sun_limits() -> None:
    device = Pv(PvSpec(max_p_mw=1.0))
    curtailed = device.step(0.3, 0.0, 900.0, 0.8)
    assert (curtailed.p_mw, curtailed.clipped) == (0.3, False)
    limited = device.step(1.0, 0.0, 900.0, 0.8)
    assert (limited.p_mw, limited.clipped) == (0.8, True)


def test_a_small_inverter_clips_the_modules() -> None:
    device = Pv(PvSpec(max_p_mw=1.0, s_max_mva=0.7))
    assert device.feasible(900.0, 0.9) == (0.0, 0.7)
    assert device.feasible(900.0) == (0.0, 0.7)


def test_reactive_power_is_what_is_left_and_there_at_night() -> None:
    device = Pv(PvSpec(max_p_mw=0.8, s_max_mva=1.0))
    assert device.step(0.8, 1.0, 900.0, 0.8).q_mvar == pytest.approx(0.6)
    assert device.step(0.8, -2.0, 900.0, 0.0).q_mvar == -1.0


def test_no_sun_gives_plain_zero() -> None:
    assert str(Pv(PvSpec(max_p_mw=0.8)).feasible(900.0, -0.0)) == "(0.0, 0.0)"


def test_irradiance_and_cell_temperature_give_the_modules_power() -> None:
    device = Pv(PvSpec(max_p_mw=2.0, temperature_coefficient_per_k=-0.004))
    assert device.available_mw(1000.0) == 2.0
    assert device.available_mw(500.0) == 1.0
    assert device.available_mw(1000.0, 50.0) == pytest.approx(1.8)
    assert device.available_mw(0.0, -10.0) == 0.0
    assert device.available_mw(1000.0, 400.0) == 0.0


@given(pv_specs, st.floats(0.0, 1500.0), st.floats(-60.0, 120.0))
def test_any_weather_gives_a_power_that_the_plant_accepts(
    spec: PvSpec, irradiance: float, cell_c: float
) -> None:
    device = Pv(spec)
    available = device.available_mw(irradiance, cell_c)
    out = device.step(available, 0.0, 900.0, available)
    assert out.p_mw == min(available, spec.max_p_mw, device.spec.rated_s_mva)


@pytest.mark.parametrize(
    ("irradiance", "cell_c", "message"),
    [
        (-1.0, 25.0, "irradiance_w_per_m2 must be >= 0, got -1"),
        (float("nan"), 25.0, "irradiance_w_per_m2 must be a finite number"),
        (800.0, float("inf"), "cell_temperature_c must be a finite number"),
    ],
)
def test_impossible_weather_is_refused(irradiance: float, cell_c: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pv(PvSpec(max_p_mw=1.0)).available_mw(irradiance, cell_c)


def test_it_gives_all_it_can_by_its_own_policy_and_remembers_its_power() -> None:
    policy: Any = None
    device = Pv(PvSpec(max_p_mw=0.8, s_max_mva=1.0))
    assert device.usual_p_mw(-999.0, policy, 900.0, 0.3) == 0.8
    done = device.step(0.5, 0.9, 900.0, 0.6)
    assert (done.p_mw, done.q_mvar, done.clipped) == (0.5, pytest.approx(0.75**0.5), True)
    assert device.state == (0.5,)
    assert device.step(0.5, 0.8, 900.0, 0.6).clipped is False
    assert device.feasible(900.0, 0.9) == (0.0, 0.8)


def test_the_module_is_rated_at_25_degrees_and_1000_w_per_m2() -> None:
    device = Pv(PvSpec(max_p_mw=1.0, temperature_coefficient_per_k=-0.05))
    assert device.available_mw(1000.0, 25.0) == 1.0
    assert device.available_mw(100.0) == pytest.approx(0.1)
    assert device.available_mw(1000.0, 35.0) == pytest.approx(0.5)
    assert device.available_mw(1000.0, 45.0) == pytest.approx(0.0, abs=1e-15)
    assert device.available_mw(1000.0, 46.0) == 0.0
    with pytest.raises(ValueError, match=r"^irradiance_w_per_m2 must be >= 0, got -0\.5$"):
        device.available_mw(-0.5)
