"""The arithmetic that all devices share, and what a kind that overrides nothing does."""

from __future__ import annotations

import math
from typing import Any

import pytest

from powergrid.devices import DEVICES, BatterySpec, Device, LoadSpec, Pv, PvSpec, make_device
from powergrid.devices.base import clip, clip_q, finite, hours, no_profile
from powergrid.devices.formulas import SCALAR, FormulaDevice
from support.rows import each_row


@pytest.mark.parametrize(
    ("value", "clipped"),
    [(-2.0, -1.0), (-1.0, -1.0), (-0.5, -0.5), (-0.0, 0.0), (0.0, 0.0), (2.0, 2.0), (2.5, 2.0)],
)
def test_a_number_is_clipped_to_the_nearest_and_never_a_negative_zero(value: float, clipped: float) -> None:
    assert clip(value, -1.0, 2.0) == clipped
    assert math.copysign(1.0, clip(value, -1.0, 2.0)) == math.copysign(1.0, clipped)
    assert str(clip(-1.0, -0.0, 1.0)) == str(clip(1.0, -1.0, -0.0)) == "0.0"


@each_row(
    ("q_mvar", "p_mw", "clipped"),
    [
        (0.0, 5.0, 0.0),
        (-0.0, 0.0, 0.0),
        (1.0, 3.0, 1.0),
        (9.0, 3.0, 4.0),
        (-9.0, -3.0, -4.0),
        (9.0, 5.0, 0.0),
        (9.0, -5.0, 0.0),
        (9.0, 0.0, 5.0),
        (0.5, 4.0, 0.5),
    ],
)
def test_reactive_power_is_what_fits_beside_active_power(q_mvar: float, p_mw: float, clipped: float) -> None:
    assert str(clip_q(q_mvar, p_mw, 5.0)) == str(clipped)


def test_a_step_is_given_in_hours_and_has_a_length() -> None:
    assert (hours(3600.0), hours(900), hours(1e-6)) == (1.0, 0.25, 1e-6 / 3600.0)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"^dt_s must be a finite number of seconds > 0, got {wrong}$"):
            hours(wrong)


def test_a_number_is_finite_and_plain() -> None:
    assert str(finite("x", -0.0)) == "0.0"
    assert type(finite("x", 3)) is float
    with pytest.raises(ValueError, match=r"^x must be a finite number, got nan$"):
        finite("x", math.nan)
    no_profile("thing", None)
    with pytest.raises(
        ValueError, match=r"^p_available_mw must be None for a thing, which follows no profile, got 0\.0$"
    ):
        no_profile("thing", 0.0)


def test_what_a_kind_does_not_say_costs_nothing_explains_nothing_and_is_not_dispatched() -> None:
    device: Any = make_device(LoadSpec(max_p_mw=1.0))
    assert device.follow(device.state, -0.5, 900.0, 7.0) == 7.0
    assert device.missing_mw(0.5, 0.4, 900.0) == 0.0
    policy: Any = None
    assert FormulaDevice.usual(device, device.state, 50.0, policy, 900.0, None, SCALAR) == 0.0
    battery = make_device(BatterySpec(max_e_mwh=1.0, max_p_charge_mw=0.5, max_p_discharge_mw=0.5))
    assert Device.usual_p_mw(battery, 50.0, policy, 900.0, None) == 0.0
    for call in (lambda: device.preview(0.0, 900.0), lambda: device.economic_p_mw(50.0)):
        with pytest.raises(NotImplementedError, match=r"^Load is not dispatched$"):
            call()


def test_only_the_generator_is_dispatched_and_each_kind_has_its_emulator() -> None:
    assert {name for name in DEVICES if DEVICES[name].is_dispatched} == {"generator"}
    scripts = {name: DEVICES[name].script for name in DEVICES if DEVICES[name].script is not None}
    assert scripts == {"generator": "genset", "pv": "pv_inverter", "load": "load_meter"}


@pytest.mark.parametrize(
    ("spec", "offered", "text"),
    [
        (PvSpec(max_p_mw=1.0), -0.1, "p_available_mw of a pv must be >= 0, got -0.1"),
        (
            LoadSpec(max_p_mw=1.0),
            0.1,
            "p_available_mw of a load is its demand as an injection and must be <= 0, got 0.1",
        ),
    ],
)
def test_a_profile_of_the_wrong_sign_is_told_with_the_right_one(spec: Any, offered: float, text: str) -> None:
    device = make_device(spec)
    before = device.state
    for call in (
        lambda: device.feasible(60.0, offered),
        lambda: device.project(0.0, 60.0, offered),
        lambda: device.step(0.0, 0.0, 60.0, offered),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == text
    assert device.state is before
    assert device.feasible(60.0, 0.0) == (0.0, 0.0)


def test_a_question_that_was_asked_before_is_answered_anew_where_anything_differs() -> None:
    device = Pv(PvSpec(max_p_mw=1.0))
    assert device.project(0.5, 60.0, 0.8) == 0.5
    assert device.project(0.9, 60.0, 0.8) == 0.8
    assert device.project(0.9, 60.0, 0.7) == 0.7
    assert device.project(0.9, 60.0) == 0.9
    with pytest.raises(ValueError, match="dt_s"):
        device.project(0.9, 0.0)
    done = device.step(0.9, 0.0, 60.0, 0.7)
    assert (done.p_mw, done.clipped, done.soc, done.running, done.cost, done.loss_mwh) == (
        0.7,
        True,
        None,
        None,
        0.0,
        0.0,
    )
    assert device.step(0.9, 0.0, 60.0, 0.7) == done
    device.restore(0.25, 0.5)
    assert device.state == (0.25,)
