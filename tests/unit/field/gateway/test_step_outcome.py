"""StepOutcome: what a step takes from a device, what is said of it, and what counts as evidence."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.step_outcome import StepOutcome
from heron_mqtt.messages import Observation
from support.field_rig import DT_S, Rig, nothing

GATE_MW = 0.0025  # 5 % of the nameplate


def test_remarks_of_a_step_stand_side_by_side_and_end_with_it() -> None:
    outcome = StepOutcome(None, {"a": 1.0})  # type: ignore[arg-type]  # no model takes a step here
    outcome.begin_step({"a": "nameplate"})
    outcome.remark("a", "emergency stop")
    outcome.remark("b", "emergency stop")
    assert outcome.remarks == {"a": "nameplate, emergency stop", "b": "emergency stop"}
    outcome.residuals_mw["a"] = 1.0
    outcome.begin_step({})
    assert (outcome.remarks, outcome.residuals_mw, outcome.steady) == ({}, {}, {"a": 0})


async def test_steps_with_new_telemetry_within_the_gate_are_counted_in_a_row() -> None:
    rig = await Rig("full").open()
    steady = []
    for off_mw in (0.0, GATE_MW, -GATE_MW, 0.0026, 0.0, -0.0026, 0.0):
        rig.answer = lambda rig, setpoint, off=off_mw: rig.measure(ack=setpoint, p_mw=0.005 + off)
        rig.step(0.005)
        steady.append(rig.gateway._outcome.steady["ess"])
        assert rig.gateway.residuals()["ess"] == pytest.approx(off_mw)
    assert steady == [1, 2, 3, 0, 1, 0, 1]
    assert rig.link.stats.deviations == 2
    assert rig.link.stats.residual_mw == pytest.approx([0.0, GATE_MW, -GATE_MW, 0.0026, 0.0, -0.0026, 0.0])
    assert rig.link.stats.tracking_error_mw == pytest.approx(rig.link.stats.residual_mw)


async def test_what_was_measured_before_an_earlier_step_is_no_new_evidence() -> None:
    rig = await Rig("shadow").open()
    for _ in range(3):
        rig.step(0.0)
    assert rig.gateway._outcome.steady["ess"] == 1
    rig.measure()
    rig.step(0.0)
    assert rig.gateway._outcome.steady["ess"] == 2
    assert len(rig.link.stats.residual_mw) == 4, "each step is compared all the same"
    rig.say("status", state="fault")
    rig.step(0.0)
    assert len(rig.link.stats.residual_mw) == 4, "there is nothing to compare it with"
    assert rig.gateway.residuals() == {}


@pytest.mark.parametrize(
    ("given_mw", "stopped", "deviations", "said"),
    [
        (0.0, True, 0, "emergency stop at the device (0.02 -> 0 MW)"),
        (0.0, None, 1, "not followed by the device (0.02 -> 0 MW)"),
        (0.01, True, 1, "not followed by the device (0.02 -> 0.01 MW)"),  # it does not obey its stop either
        (0.02, True, 0, None),
    ],
)
async def test_a_device_that_goes_to_0_for_a_stop_after_it_has_answered_has_not_deviated(
    given_mw: float, stopped: bool | None, deviations: int, said: str | None
) -> None:
    rig = await Rig("full").open()
    rig.answer = lambda rig, setpoint: (
        None if setpoint["p_mw"] == 0.0 else rig.measure(ack=setpoint, p_mw=given_mw, stopped=stopped)
    )
    rig.step(0.02)
    assert rig.link.stats.deviations == deviations
    assert rig.gateway.reasons().get("ess") == said


def stood_in(rig: Rig, *, was_sent: bool, unsent: str | None = None) -> str | None:
    """Let the model stand in; return what is said of it."""
    rig.agent.observe(Observation(dt_s=DT_S, episode=1, step=0), 50.0)
    outcome = rig.gateway._outcome
    outcome.steady["ess"] = 3
    outcome.stand_in("ess", rig.link, SetpointRequest(0.01), 0, was_sent=was_sent, unsent=unsent)
    assert outcome.steady["ess"] == 0
    return rig.fallback


@pytest.mark.parametrize(
    ("state", "silent_s", "options", "why"),
    [
        ("online", 0.0, {"was_sent": True}, "no telemetry before the deadline"),
        ("online", 6.0, {"was_sent": True}, "no telemetry before the deadline"),  # stale
        ("fault", 0.0, {"was_sent": True}, "device fault"),
        ("offline", 0.0, {"was_sent": True}, "device offline"),
        ("online", 0.0, {"was_sent": False}, "device silent"),
        ("online", 6.0, {"was_sent": False}, "device stale"),
        ("online", 0.0, {"was_sent": False, "unsent": "two devices"}, "two devices"),
    ],
)
async def test_why_a_model_stands_in_is_said(
    state: str, silent_s: float, options: dict[str, Any], why: str
) -> None:
    rig = await Rig("full").open()
    rig.answer = nothing
    rig.step()
    rig.link._acks.is_expected = True
    rig.say("status", state=state, run="none")
    rig.clock_s += silent_s
    assert stood_in(rig, **options) == why


async def test_an_answer_that_was_refused_is_said_and_waiting_is_over() -> None:
    rig = await Rig("full").open()
    rig.answer = nothing
    rig.step()
    rig.clock_s += 0.5
    rig.say("telemetry", p_mw="?")
    assert stood_in(rig, was_sent=False) == "device silent"
    assert rig.link.stats.fallback_delay_s == 0.0, "of the step itself, at once"
    rig.link._acks.is_expected = True
    assert stood_in(rig, was_sent=True) == "its telemetry was refused"
    assert rig.link.stats.fallback_delay_s == 0.5
    assert not rig.link.expects_answer
    assert stood_in(rig, was_sent=True) == "its telemetry was refused"
