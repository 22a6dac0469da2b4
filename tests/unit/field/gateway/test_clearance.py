"""Clearances as the gateway applies them: to what a setpoint leads to, also for loads and sources."""

from __future__ import annotations

import pytest

from heron_mqtt.field.gateway.clearance import (
    NO_CLEARANCE,
    apply_clearance,
    expected_p_mw,
    make_plan,
    tracking_error_mw,
)
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.messages import Clearance
from support.rows import each_row


@each_row(
    ("p_mw", "available_mw", "expected_mw"),
    [
        (-0.05, -0.03, -0.03),  # a load draws no more than its demand
        (-0.02, -0.03, -0.02),  # and less when it is told to shed
        (0.05, 0.03, 0.03),  # a source gives no more than there is
        (0.02, 0.03, 0.02),
        (0.05, 0.0, 0.0),  # at night
        (-0.05, 0.0, 0.0),  # a load without demand
        (0.0, 0.03, 0.0),  # a source that is told to give nothing
        (0.0, -0.03, 0.0),  # a load that is told to shed all of it
        (-0.04, None, -0.04),
        (0.04, None, 0.04),
    ],
)
def test_a_plan_says_what_a_setpoint_leads_to(
    p_mw: float, available_mw: float | None, expected_mw: float
) -> None:
    wanted = SetpointRequest(p_mw, 0.01, available_mw, reach_mw=available_mw)
    assert expected_p_mw(wanted) == expected_mw
    assert make_plan({"x": wanted}).by_prefix() == {"p_": {"x": expected_mw}, "q_": {"x": 0.01}}


@each_row(
    ("told_mw", "offered_mw", "measured_mw", "error_mw"),
    [
        (0.04, 0.01, 0.04, 0.0),  # more sun than the data have
        (0.04, 0.01, 0.02, 0.0),
        (0.04, 0.01, 0.005, -0.005),  # less of it
        (0.04, 0.01, 0.05, 0.01),  # more than it was told
        (0.01, 0.04, 0.02, 0.01),
        (-0.04, -0.01, -0.02, 0.0),  # a load with more demand than the data have
        (-0.04, -0.01, -0.05, -0.01),
        (-0.04, None, -0.03, 0.01),  # a battery
    ],
)
def test_between_what_the_data_offer_and_the_setpoint_a_device_does_as_it_was_told(
    told_mw: float, offered_mw: float | None, measured_mw: float, error_mw: float
) -> None:
    wanted = SetpointRequest(told_mw, 0.0, offered_mw, reach_mw=offered_mw)
    assert tracking_error_mw(wanted, measured_mw) == pytest.approx(error_mw, abs=1e-12)


def test_a_consumer_that_may_draw_more_than_its_demand_is_planned_with_what_it_is_told() -> None:
    wanted = SetpointRequest(-0.02, 0.0, -0.0018)
    assert expected_p_mw(wanted) == -0.02
    allowed = {"heat_pump": wanted}
    clearance = Clearance.model_validate({"p_heat_pump": -0.01, "q_heat_pump": 0.0, "limit": "x"})
    apply_clearance(allowed, clearance)
    assert allowed["heat_pump"].p_mw == -0.01


def test_a_load_that_sheds_partly_is_told_what_was_cleared_of_it() -> None:
    allowed = {"load": SetpointRequest(-0.05, -0.01, -0.04, reach_mw=-0.04)}
    clearance = Clearance.model_validate(
        {"p_load": -0.03, "q_load": -0.0075, "factor": 0.5, "limit": "vm_min_pu 0.9"}
    )
    reasons = apply_clearance(allowed, clearance)
    assert allowed == {"load": SetpointRequest(-0.03, -0.0075, -0.04, reach_mw=-0.04)}
    assert reasons == {"load": "vm_min_pu 0.9 (-0.04 -> -0.03 MW)"}


def test_a_load_is_never_cleared_for_more_than_it_planned_nor_for_the_other_side() -> None:
    for cleared_mw, left_mw in ((-9.0, -0.04), (0.02, 0.0)):
        allowed = {"load": SetpointRequest(-0.05, 0.0, -0.04, reach_mw=-0.04)}
        fields = {"p_load": cleared_mw, "q_load": 0.0, "limit": "x"}
        apply_clearance(allowed, Clearance.model_validate(fields))
        assert expected_p_mw(allowed["load"]) == left_mw


def test_without_a_clearance_everything_is_told_zero_and_why() -> None:
    allowed = {"ess": SetpointRequest(0.02, -0.01), "pv": SetpointRequest(0.0, 0.0)}
    reasons = apply_clearance(allowed, None)
    assert allowed == {"ess": SetpointRequest(0.0, 0.0), "pv": SetpointRequest(0.0, 0.0)}
    assert reasons == {"ess": f"{NO_CLEARANCE} (0.02 -> 0 MW)"}, "what was nothing is not reduced"


def test_a_clearance_that_names_no_limit_changes_nothing() -> None:
    allowed = {"ess": SetpointRequest(0.02, -0.01)}
    assert apply_clearance(allowed, Clearance()) == {}
    assert allowed == {"ess": SetpointRequest(0.02, -0.01)}


@each_row(
    ("planned", "cleared", "left"),
    [
        (*(0.5, 2.0), 0.5),
        (*(0.5, 0.25), 0.25),
        (*(0.5, -0.25), 0.0),
        (*(-0.5, -2.0), -0.5),
        (*(-0.5, -0.25), -0.25),
        (*(-0.5, 0.25), 0.0),
        (*(0.0, 0.25), 0.0),
        (*(0.0, -0.25), 0.0),
    ],
)
def test_what_is_left_is_on_the_side_of_what_was_planned_and_no_larger(
    planned: float, cleared: float, left: float
) -> None:
    for wanted, fields in (
        (SetpointRequest(planned), {"p_x": cleared, "q_x": 0.0}),
        (SetpointRequest(0.0, planned), {"p_x": 0.0, "q_x": cleared}),
    ):
        allowed = {"x": wanted}
        apply_clearance(allowed, Clearance.model_validate({**fields, "limit": "x"}))
        assert allowed["x"].p_mw + allowed["x"].q_mvar == left


def test_what_a_clearance_does_not_name_is_told_zero() -> None:
    allowed = {
        "ess": SetpointRequest(0.02, 0.01),
        "pv": SetpointRequest(0.03, 0.0),
        "load": SetpointRequest(-0.02, 0.01),
        "pump": SetpointRequest(-0.01, -0.01),
    }
    fields = {"p_ess": 0.02, "q_ess": 0.005, "limit": ""}
    reasons = apply_clearance(allowed, Clearance.model_validate(fields))
    nothing = dict.fromkeys(("pv", "load", "pump"), SetpointRequest(0.0, 0.0))
    assert allowed == {"ess": SetpointRequest(0.02, 0.005), **nothing}
    assert reasons == {
        "load": "the check of all together (-0.02 -> 0 MW)",
        "pump": "the check of all together (-0.01 -> 0 MW)",
        "ess": "the check of all together (0.02 -> 0.02 MW)",
        "pv": "the check of all together (0.03 -> 0 MW)",
    }
