"""FieldGateway: what a step takes from a device, what stands in for it, stops, leases, the end of a run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.messages import Clearance
from support.field_rig import LEASE_S, Answer, Rig, follow, nothing
from support.waiting import until


def reject(rig: Rig, setpoint: dict[str, Any]) -> None:
    rig.measure(ack=setpoint, rejected="too hot")


def ignore(rig: Rig, setpoint: dict[str, Any]) -> None:
    rig.clock_s += 0.1
    rig.measure()


def stuck(rig: Rig, setpoint: dict[str, Any]) -> None:
    rig.measure(ack=setpoint)


def garbage(rig: Rig, setpoint: dict[str, Any]) -> None:
    rig.say("telemetry", p_mw="?", ack_seq=setpoint["seq"])


def offset(rig: Rig, setpoint: dict[str, Any]) -> None:
    rig.measure(ack=setpoint, p_mw=setpoint["p_mw"] + 0.01)


# What a device does wrong; what the step takes from it; whether its model stands in; what infos say.
CASES: dict[str, tuple[Answer, float, bool, str]] = {
    "silence": (nothing, 0.02, True, "no telemetry before the deadline"),
    "garbage": (garbage, 0.02, True, "its telemetry was refused"),
    "reject_setpoints": (reject, 0.005, False, "rejected by the device: too hot"),
    "ignore_setpoints": (ignore, 0.005, False, "not acknowledged by the device; what it measures is used"),
    "stuck": (stuck, 0.005, False, "not followed by the device (0.02 -> 0.005 MW)"),
    "offset": (offset, 0.03, False, "not followed by the device (0.02 -> 0.03 MW)"),
}


@pytest.mark.parametrize("kind", CASES)
async def test_what_a_faulty_device_measures_is_the_truth_and_what_it_does_not_say_its_model_knows(
    kind: str,
) -> None:
    wrong, p_mw, stands_in, why = CASES[kind]
    rig = await Rig().open()
    rig.step(0.005)
    assert (rig.p_done_mw, rig.fallback, rig.bound) == (0.005, None, None)
    rig.answer = wrong
    rig.step(0.02)
    assert rig.p_done_mw == pytest.approx(p_mw)
    assert (rig.fallback if stands_in else rig.bound) == why
    assert rig.link.stats.fallbacks == int(stands_in)
    rig.answer = follow
    rig.say("status", state="online", run="none")
    rig.soc = 0.47
    rig.step(0.01)
    assert (rig.p_done_mw, rig.fallback, rig.bound) == (0.01, None, None)
    assert rig.agent.report().soc["ess"] == 0.47, "taken in again where it is"


async def test_a_device_that_never_acknowledges_is_followed_by_what_it_measures() -> None:
    rig = await Rig().open()
    rig.answer = nothing
    missed = 0
    for k in range(6):
        missed += rig.step(0.02)
        rig.clock_s += 1.0
        rig.p_mw = 0.001 * k
        rig.measure()
    assert missed == 1, "it is waited for once"
    rig.step(0.02)
    assert rig.p_done_mw == pytest.approx(0.005)
    assert rig.link.stats.fallbacks == 2, "a single message may be an old one, late"
    assert rig.link.stats.unacknowledged == 5
    rig.clock_s += 5.1
    rig.step(0.02)
    assert rig.fallback == "device silent for 5.1 s, longer than its lease"


async def test_a_device_that_falls_silent_is_not_taken_at_its_last_word() -> None:
    rig = await Rig().open()
    rig.step(0.005)
    rig.clock_s += 0.2
    rig.measure()  # periodic telemetry, a moment before it falls silent
    rig.answer = nothing
    rig.clock_s += 0.2
    rig.step(0.02)
    assert (rig.p_done_mw, rig.fallback) == (0.02, "no telemetry before the deadline")


async def test_one_message_that_was_long_on_its_way_does_not_pass_for_a_device_that_speaks() -> None:
    rig = await Rig().open()
    rig.step(0.005)
    rig.answer = nothing
    rig.clock_s += 0.2
    rig.step(0.02)
    rig.clock_s += 0.1
    rig.measure()
    rig.clock_s += 0.1
    for _ in range(3):
        rig.step(0.02)
        assert rig.fallback == "device silent"


async def test_a_device_gone_for_good_gets_no_setpoints() -> None:
    rig = await Rig().open()
    rig.step()
    rig.say("status", state="offline")
    before = len(rig.sent)
    rig.step()
    rig.gateway._renew()
    assert len(rig.sent) == before
    assert rig.fallback == "device offline"


async def test_a_device_of_another_kind_than_the_scenario_says_is_sent_nothing() -> None:
    rig = await Rig().open(birth=False)
    rig.say("status", state="online", run="none", kind="generator")
    rig.measure()
    rig.step()
    assert rig.sent == []
    assert rig.fallback == "its birth says that it is a generator, the scenario says a battery"
    assert [what for what in rig.reports if "generator" in what] == [f"{rig.fallback}: nothing is sent to it"]
    for kind in ("battery", "device", None):  # its program may name none
        rig.boot = f"b{kind}"
        rig.say("status", state="online", run="none", kind=kind)
        rig.measure()
        before = len(rig.sent)
        rig.step()
        assert len(rig.sent) == before + 1, kind


async def test_a_lease_that_is_over_is_not_renewed() -> None:
    rig = await Rig().open()
    rig.step()
    rig.clock_s += LEASE_S - 0.1
    rig.measure()
    rig.gateway.environment.heard(None)
    rig.gateway._renew()
    assert rig.sent[-1]["renewal"] is True
    rig.clock_s += LEASE_S  # stopped, or kept busy: the device has gone safe by itself
    rig.measure()
    rig.gateway.environment.heard(None)
    before = len(rig.sent)
    rig.gateway._renew()
    assert len(rig.sent) == before
    rig.step()
    assert rig.sent[-1]["renewal"] is False
    rig.gateway._renew()
    assert rig.sent[-1]["renewal"] is True


async def test_what_lacks_of_a_device_is_named_with_the_topic_on_which_it_is_expected() -> None:
    rig = await Rig().open(birth=False)
    assert rig.gateway.absent("none", 1) == ["ess (no birth for this episode on devices/MG1/ess/status)"]
    rig.say("status", state="online", run="none", episode=1)
    assert rig.gateway.absent("none", 1) == ["ess (nothing on devices/MG1/ess/telemetry)"]
    rig.measure()
    assert rig.gateway.absent("none", 1) == []


async def test_fallbacks_and_ages_are_in_the_report() -> None:
    rig = await Rig().open()
    rig.step()
    rig.answer = nothing
    for _ in range(3):
        rig.clock_s += 1.0
        rig.step()
    report = rig.gateway.report()["ess"]
    assert (report["fallbacks"], report["longest_fallback"]) == (3, 3)
    assert report["age_s"]["p99"] == 3.0, "the age of what is known, also while its model stands in"
    assert report["setpoints"] == 4
    keys = {"authority", "telemetry", "age_s", "lost", "duplicated", "late", "fallbacks", "time_to_safe_s"}
    assert report.keys() >= keys | {"tracking_error_mw", "residual_mw"}


async def test_time_to_safe_is_the_longest_that_the_device_told() -> None:
    rig = await Rig().open()
    for seconds in (3.02, 3.4, 3.1):
        rig.measure(safe=True, safe_after_s=seconds)
    assert rig.gateway.report()["ess"]["time_to_safe_s"] == 3.4


async def test_a_rejection_with_an_overlong_reason_is_a_rejection_with_its_beginning() -> None:
    rig = await Rig().open()
    rig.step(0.005)
    rig.answer = lambda rig, setpoint: rig.measure(ack=setpoint, rejected="too hot " * 200)
    rig.step(0.02)
    assert rig.link.stats.rejected == 1
    assert rig.bound == f"rejected by the device: {('too hot ' * 200)[:500]}"


async def test_a_fault_with_an_overlong_reason_is_a_fault_with_its_beginning() -> None:
    rig = await Rig().open()
    rig.say("status", state="fault", reason="fuse " * 200)
    assert rig.link.health == "fault"
    assert rig.link.status is not None
    assert rig.link.status.reason == ("fuse " * 200)[:500]


@pytest.mark.parametrize(("level", "granted"), [("shadow", True), ("full", False)])
async def test_an_overlong_reason_of_an_answer_to_a_request_is_cut_and_the_answer_given(
    level: str, granted: bool
) -> None:
    rig = await Rig("full").open()
    rig.gateway.authority._held["ess"].level = "limited" if granted else "shadow"
    said: list[dict[str, Any]] = []
    rig.broker.subscribe("devices/MG1/ess/authority_state", said.append)
    asked = {"type": "authority_request", "level": level, "who": "a" * 200, "why": "b" * 500, "seq": 7}
    rig.broker.publish("devices/MG1/ess/authority", asked)
    answer = said[-1]
    assert (answer["granted"], answer["request_seq"]) == (granted, 7)
    if granted:
        assert answer["reason"] == f"asked by {'a' * 200}: {'b' * 500}"[:500]
    else:
        assert answer["reason"].startswith("gate ")


async def test_an_overlong_stop_is_a_stop_with_the_beginning_of_its_reason() -> None:
    rig = await Rig().open()
    press(rig, True, who="w" * 300, why="y" * 900)
    assert rig.gateway.estop is not None
    assert (rig.gateway.estop.who, rig.gateway.estop.why) == ("w" * 200, "y" * 500)
    press(rig, False, who="r" * 300)
    assert rig.gateway.estop is not None, "no valid release"
    press(rig, False, who="r" * 200)
    assert rig.gateway.estop is None
    assert rig.gateway._stop._register.released_by == "r" * 200


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of models that stand in, and of devices that are back."""
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [line for line in said if "stands in" in line or "back in step" in line]


async def test_a_row_of_fallbacks_is_one_warning_and_its_end_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = await Rig().open()
    rig.step()
    for first in (1, 5):
        caplog.clear()
        rig.answer = nothing
        for _ in range(3):
            rig.step()
        began = f"MG1/ess: its model stands in from step {first}: no telemetry before the deadline"
        assert warnings_of(caplog) == [began]
        rig.clock_s += 0.1
        rig.measure(ack=rig.sent[-1])  # late: it is there again
        rig.answer = follow
        rig.step()
        back = f"MG1/ess: back in step {first + 3}, after 3 steps"
        assert warnings_of(caplog) == [began, back]
        rig.step()
        assert warnings_of(caplog) == [began, back]
        rig.step_number = 4


# -- emergency stop --------------------------------------------------------------------------------


def press(rig: Rig, active: bool, **more: Any) -> None:
    rig.broker.publish("estop", {"type": "estop", "active": active, "who": "ann", **more}, retain=True)


async def test_a_stop_sends_nothing_but_zero_until_it_is_released() -> None:
    rig = await Rig().open()
    rig.step(0.02)
    press(rig, True)
    rig.gateway._renew()
    assert len(rig.sent) == 1, "nothing is renewed"
    for _ in range(3):
        rig.step(0.04)
        assert (rig.sent[-1]["p_mw"], rig.sent[-1]["q_mvar"]) == (0.0, 0.0)
        assert rig.bound == "emergency stop"
        assert rig.p_done_mw == 0.0
    press(rig, False)
    rig.step(0.04)
    assert rig.sent[-1]["p_mw"] == 0.04


async def test_a_stop_that_comes_while_setpoints_are_cleared_is_kept() -> None:
    rig = await Rig().open()
    rig.step(0.0)
    allowed = rig.gateway.clamp_setpoints({"ess": SetpointRequest(0.04, 0.01)})
    rig.gateway.clear(allowed, Clearance())
    press(rig, True)
    rig.gateway.send(allowed, dt_s=900.0, episode=1, step=1)
    assert (rig.sent[-1]["p_mw"], rig.sent[-1]["q_mvar"]) == (0.0, 0.0)
    assert allowed["ess"].p_mw == 0.0
    assert rig.bound == "emergency stop"


async def test_a_gateway_that_connects_later_hears_of_a_stop_in_force() -> None:
    rig = Rig()
    press(rig, True)
    await rig.open()
    rig.step(0.04)
    assert [setpoint["p_mw"] for setpoint in rig.sent] == [0.0]


async def test_whatever_is_no_valid_release_is_a_stop() -> None:
    rig = await Rig().open()
    rig.broker.publish("estop", {"type": "estop", "active": "yes"})
    assert rig.gateway.estop is not None
    assert "no valid release" in rig.gateway.estop.why
    rig.step(0.04)
    assert rig.sent[-1]["p_mw"] == 0.0


# -- leases ----------------------------------------------------------------------------------------


async def test_a_step_longer_than_a_third_of_the_lease_is_renewed_and_not_applied_again() -> None:
    rig = Rig()
    await rig.open()
    rig.step(0.02)
    for n in range(2, 5):
        rig.clock_s += 0.9
        await asyncio.sleep(0)
        assert len(rig.sent) == n - 1, "not before a third of the lease is over"
        rig.clock_s += 0.1
        rig.gateway._renewals_changed.set()  # the clock of this test has no timers
        await until(lambda n=n: len(rig.sent) >= n, "a renewal")
        rig.gateway.environment.heard(None)
    assert not rig.sent[0].get("renewal")
    assert all(setpoint["renewal"] and setpoint["p_mw"] == 0.02 for setpoint in rig.sent[1:])
    assert [setpoint["seq"] for setpoint in rig.sent] == list(range(len(rig.sent)))
    assert rig.link.stats.setpoints == 1


async def test_a_closed_gateway_renews_nothing() -> None:
    rig = await Rig().open()
    rig.step(0.02)
    renewing = rig.gateway._renewing
    assert renewing is not None
    rig.gateway.close()
    await asyncio.wait([renewing])
    assert renewing.cancelled()
    assert [(s["p_mw"], s.get("release", False)) for s in rig.sent] == [(0.02, False), (0.0, True)]
    rig.gateway._renew()
    assert len(rig.sent) == 2


@pytest.mark.parametrize(
    "request_fields",
    [
        {"type": "authority_request", "level": "shadow", "who": "ann"},
        {"type": "take", "p_mw": 0.005, "for_s": 60.0, "who": "ann"},
    ],
    ids=["authority", "take"],
)
async def test_a_closed_gateway_takes_no_requests_and_grants_nothing(request_fields: dict[str, Any]) -> None:
    rig = await Rig("full").open()
    said: list[str] = []
    rig.broker.subscribe("devices/MG1/ess/authority_state", lambda m: said.append(m["level"]))
    rig.gateway.close()
    said.clear()
    leaf = "take" if request_fields["type"] == "take" else "authority"
    rig.broker.publish(f"devices/MG1/ess/{leaf}", request_fields)
    assert said == [], "no answer"
    assert rig.gateway.authority.history("ess") == ()
    assert rig.gateway.authority.level("ess") == "full"
    assert rig.gateway.authority.in_hand("ess") is None


async def test_a_closed_gateway_hears_of_no_stop_and_of_no_device() -> None:
    rig = await Rig("full").open()
    rig.gateway.close()
    heard = rig.link.stats.telemetry
    press(rig, True)
    rig.measure()
    assert rig.gateway.estop is None
    assert rig.link.stats.telemetry == heard


@pytest.mark.parametrize("word", ["lost", "finished"])
async def test_nothing_is_renewed_once_the_run_is_over(word: str) -> None:
    """An environment that was killed must not leave devices holding its last word for ever."""
    rig = await Rig().open()
    rig.gateway.environment.serve("env1")
    rig.step(0.02)
    rig.gateway._renew()
    assert len(rig.sent) == 2
    rig.broker.publish("run/state", {"type": "run_state", "state": word, "boot": "env0"})
    rig.gateway._renew()
    assert len(rig.sent) == 3, "the end of another environment"
    rig.broker.publish("run/state", {"type": "run_state", "state": word})
    sent = [s for s in rig.sent[3:] if not s.get("release")]
    rig.gateway._renew()
    rig.step(0.02)
    rig.gateway._renew()
    assert sent == [], "nothing but a release"
    assert rig.fallback == f"the environment is {word}"
    told = {"type": "run_state", "state": "running", "boot": "env1", "episode": 1, "step": 2}
    rig.broker.publish("run/state", told)  # without a number it may be a replay
    rig.step(0.02)
    assert rig.fallback == f"the environment is {word}"
    told |= {"seq": 7, "sender": "operator"}
    rig.broker.publish("run/state", told)
    before = len(rig.sent)
    rig.gateway.environment.heard("env1")
    rig.step(0.02)
    rig.gateway._renew()
    assert len(rig.sent) == before + 2, "a run that goes on is a run"


async def test_a_step_in_which_all_is_simulated_sends_and_renews_nothing() -> None:
    rig = await Rig().open()
    assert not rig.gateway.skip_simulated(1, 0), "the device is driven"
    rig.step(0.02)
    assert rig.gateway._leases.due_s is not None
    rig.ask("simulated")
    assert rig.gateway.skip_simulated(1, 2)
    assert rig.gateway._leases.due_s is None, "what it was told before is not renewed"
    assert rig.gateway.reasons() == {}
    press(rig, True, who="op")
    assert not rig.gateway.skip_simulated(1, 3), "a stop holds for models, too"


# -- clearance -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clearance", "p_mw", "why"),
    [
        (Clearance(), 0.04, None),
        (None, 0.0, "no clearance before the deadline (0.04 -> 0 MW)"),
        (
            Clearance.model_validate({"p_ess": 0.01, "q_ess": 0.0, "factor": 0.25, "limit": "vm_max_pu 1.1"}),
            0.01,
            "vm_max_pu 1.1 (0.04 -> 0.01 MW)",
        ),
        (Clearance.model_validate({"p_ess": 9.0, "q_ess": 9.0, "limit": "x"}), 0.04, None),
        (Clearance.model_validate({"p_ess": -0.04, "q_ess": 0.0, "limit": "x"}), 0.0, "x (0.04 -> 0 MW)"),
    ],
)
async def test_a_clearance_only_ever_takes_away(
    clearance: Clearance | None, p_mw: float, why: str | None
) -> None:
    rig = await Rig().open()
    rig.step(0.04)
    allowed = rig.gateway.clamp_setpoints(rig.agent.wanted())
    rig.gateway.clear(allowed, clearance)
    assert allowed["ess"].p_mw == p_mw
    assert rig.bound == why


async def test_a_device_that_starts_again_after_its_answer_is_awaited_again() -> None:
    rig = await Rig().open()
    rig.answer = nothing
    rig.gateway.send({"ess": SetpointRequest(0.005)}, dt_s=900.0, episode=1, step=0)
    assert not rig.gateway.answered()
    rig.measure(ack=rig.sent[-1])
    assert rig.gateway.answered()
    rig.boot = "b2"
    rig.measure()
    assert not rig.gateway.answered()
