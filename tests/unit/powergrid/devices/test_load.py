"""Load: demand as a negative injection, shedding."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powergrid.devices import FlexibleLoadSpec, Load, LoadSpec
from support.device_strategies import devices_with_steps, load_specs


@given(devices_with_steps(load_specs))
def test_no_sequence_of_setpoints_sheds_more_than_agreed_or_exceeds_the_demand(case: Any) -> None:
    spec, steps = case
    device = Load(spec)
    for p_mw, q_mvar, dt_s, available in steps:
        out = device.step(p_mw, q_mvar, dt_s, available)
        assert -spec.max_p_mw <= out.p_mw <= 0.0
        if available is not None:
            demand = max(available, -spec.max_p_mw)
            assert demand <= out.p_mw <= demand * (1.0 - spec.max_shed_fraction)
        assert (out.soc, out.running, out.cost, out.loss_mwh) == (None, None, 0.0, 0.0)


@given(devices_with_steps(load_specs))
def test_shedding_keeps_the_power_factor(case: Any) -> None:
    spec, steps = case
    device = Load(spec)
    for p_mw, q_mvar, dt_s, available in steps:
        out = device.step(p_mw, q_mvar, dt_s, available)
        if available is None or available in (0.0, out.p_mw):
            assert out.q_mvar == q_mvar
        else:
            assert out.q_mvar == pytest.approx(q_mvar * (out.p_mw / available), rel=1e-12, abs=1e-300)


def test_a_firm_load_draws_its_demand_whatever_is_asked() -> None:
    device = Load(LoadSpec(max_p_mw=1.0))
    for asked in (0.0, -0.2, -5.0, 3.0):
        out = device.step(asked, -0.1, 900.0, -0.4)
        assert (out.p_mw, out.q_mvar, out.clipped) == (-0.4, -0.1, True)
    assert device.step(-0.4, -0.1, 900.0, -0.4).clipped is False


def test_a_sheddable_load_gives_up_its_part_and_reactive_power_with_it() -> None:
    device = Load(LoadSpec(max_p_mw=1.0, max_shed_fraction=0.25))
    assert device.feasible(900.0, -0.8) == pytest.approx((-0.8, -0.6))
    out = device.step(0.0, -0.4, 900.0, -0.8)
    assert (out.p_mw, out.q_mvar) == pytest.approx((-0.6, -0.3))


def test_a_load_may_be_shed_whole_without_negative_zeros() -> None:
    device = Load(LoadSpec(max_p_mw=1.0, max_shed_fraction=1.0))
    for q_mvar in (-0.4, 0.4):
        out = device.step(0.0, q_mvar, 900.0, -0.8)
        assert (str(out.p_mw), str(out.q_mvar), out.clipped) == ("0.0", "0.0", False)
    assert str(device.feasible(900.0, -0.0)) == "(0.0, 0.0)"


def test_a_purely_reactive_demand_is_drawn() -> None:
    assert Load(LoadSpec(max_p_mw=1.0)).step(0.0, -0.4, 900.0, 0.0).q_mvar == -0.4


def test_a_demand_above_the_nameplate_is_cut_and_says_clipped() -> None:
    out = Load(LoadSpec(max_p_mw=1.0)).step(-2.0, -0.4, 900.0, -2.0)
    assert (out.p_mw, out.q_mvar, out.clipped) == (-1.0, -0.2, True)


def test_without_a_demand_the_load_draws_what_it_is_told() -> None:
    device = Load(LoadSpec(max_p_mw=1.0))
    assert device.feasible(900.0) == (-1.0, 0.0)
    out = device.step(-0.3, -0.1, 900.0)
    assert (out.p_mw, out.q_mvar, out.clipped) == (-0.3, -0.1, False)


def test_a_positive_demand_is_refused_with_the_sign_convention() -> None:
    with pytest.raises(ValueError, match=r"its demand as an injection and must be <= 0, got 0\.4"):
        Load(LoadSpec(max_p_mw=1.0)).step(0.0, 0.0, 900.0, 0.4)


@pytest.mark.parametrize(
    ("factor", "left_mw"), [(1.0, -0.8), (0.9, -0.72), (0.75, -0.6), (0.5, -0.6), (0.0, -0.6)]
)
def test_a_part_of_a_plan_is_never_less_than_what_cannot_be_shed(factor: float, left_mw: float) -> None:
    for spec in (
        LoadSpec(max_p_mw=1.0, max_shed_fraction=0.25),
        FlexibleLoadSpec(max_p_mw=1.0, max_shed_fraction=0.25, max_rebound_mw=0.5, max_backlog_mwh=1.0),
    ):
        assert spec.part_mw(-0.8, factor) == pytest.approx(left_mw)


@given(load_specs, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_part_that_is_cleared_is_what_the_load_draws_when_it_is_told_so(
    spec: LoadSpec, demand: float, factor: float
) -> None:
    planned_mw = -demand * spec.max_p_mw
    part_mw = spec.part_mw(planned_mw, factor)
    for told_mw in (part_mw, planned_mw * factor):
        assert Load(spec).step(told_mw, 0.0, 900.0, planned_mw).p_mw == pytest.approx(part_mw, abs=1e-12)


def test_its_own_policy_sheds_nothing_and_an_action_is_one_of_what_may_be_shed() -> None:
    policy: Any = None
    assert Load(LoadSpec(max_p_mw=0.5, max_shed_fraction=0.5)).usual_p_mw(999.0, policy, 900.0, -0.2) == -0.5
    assert LoadSpec(max_p_mw=0.5).action_range_mw is None
    assert LoadSpec(max_p_mw=0.5, max_shed_fraction=0.1).action_range_mw == (-0.5, -0.25, 0.0)


@pytest.mark.parametrize(
    ("p_mw", "offered", "q_mvar"),
    [(-0.4, -0.8, -0.1), (-0.8, -0.8, -0.2), (0.0, -0.8, 0.0), (0.0, 0.0, -0.2)],
)
def test_reactive_power_is_shed_in_the_same_part(p_mw: float, offered: float, q_mvar: float) -> None:
    device = Load(LoadSpec(max_p_mw=1.0, max_shed_fraction=1.0))
    done = device.step(p_mw, -0.2, 900.0, offered)
    assert (done.p_mw, done.q_mvar, done.clipped) == (p_mw, pytest.approx(q_mvar), False)
    assert device.state == (p_mw,)


def test_before_its_first_step_a_load_takes_nothing() -> None:
    assert Load(LoadSpec(max_p_mw=1.0)).state.p_mw == 0.0
