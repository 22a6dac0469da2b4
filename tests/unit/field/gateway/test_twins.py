"""The bounding of a step's setpoints: what of it is explained, and what no number can be put on."""

from __future__ import annotations

import math

import pytest

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import Band
from heron_mqtt.field.gateway.twins import clamp_setpoints
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import DT_S, ESS


@pytest.fixture
def agent() -> GridAgent:
    return GridAgent("MG1", {"a": Battery(ESS), "b": Battery(ESS)}, step_s=DT_S)


def test_a_bound_that_the_agent_has_kept_by_itself_is_told_of_those_that_are_explained(
    agent: GridAgent,
) -> None:
    wanted = {name: SetpointRequest(0.05, asked_p_mw=9.0) for name in "ab"}
    allowed, reasons = clamp_setpoints(agent, wanted, explained=["a"])
    assert allowed == {name: SetpointRequest(0.05) for name in "ab"}
    assert reasons == {"a": "nameplate"}
    for unexplained in (SetpointRequest(0.05, asked_p_mw=0.05), SetpointRequest(0.05)):
        assert clamp_setpoints(agent, {"a": unexplained}, explained=["a"])[1] == {}


def test_what_the_agent_has_kept_is_told_before_what_has_bounded_it_since_and_each_once(
    agent: GridAgent,
) -> None:
    wanted = {"a": SetpointRequest(0.05, 1.0, asked_p_mw=9.0)}
    allowed, reasons = clamp_setpoints(agent, wanted, {"a": Band(-0.01, 0.01)}, explained=["a"])
    assert allowed["a"].p_mw == 0.01
    assert reasons == {"a": "nameplate, band of limited authority, apparent power"}
    assert clamp_setpoints(agent, {"a": SetpointRequest(8.0, asked_p_mw=9.0)}, explained=["a"])[1] == {
        "a": "nameplate"
    }


def test_a_band_bounds_its_device_alone(agent: GridAgent) -> None:
    wanted = {name: SetpointRequest(0.05) for name in "ab"}
    allowed, reasons = clamp_setpoints(agent, wanted, {"b": Band(-0.01, 0.01)})
    assert [allowed[name].p_mw for name in "ab"] == [0.05, 0.01]
    assert reasons == {"b": "band of limited authority"}


@pytest.mark.parametrize(
    ("told_mw", "taken_mw"),
    [
        (math.nan, 0.0),
        (math.inf, 0.0),
        (-math.inf, 0.0),
        (None, None),
        (0.0, 0.0),
        (-0.02, -0.02),
        (0.03, 0.03),
    ],
)
def test_what_no_number_can_be_put_on_is_nothing(
    agent: GridAgent, told_mw: float | None, taken_mw: float | None
) -> None:
    wanted = {"a": SetpointRequest(0.01, 0.0, told_mw, reach_mw=told_mw)}
    allowed, _ = clamp_setpoints(agent, wanted)
    assert (allowed["a"].p_available_mw, allowed["a"].reach_mw) == (taken_mw, taken_mw)
