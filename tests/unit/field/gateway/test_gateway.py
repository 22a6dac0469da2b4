"""FieldGateway: what a step takes from a device, what stands in for it, stops, leases, the end of a run."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from heron_mqtt.field.gateway import FieldGateway
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import SetpointLimits
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable
from heron_mqtt.messages import AuthorityRequest, Clearance, Level
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import (
    BAND,
    DT_S,
    ESS,
    LEASE_S,
    Answer,
    OpenMemoryBroker,
    Rig,
    follow,
    nothing,
)
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


async def test_what_a_stopped_device_rejects_is_counted_apart() -> None:
    rig = await Rig().open()
    rig.step(0.005)
    rig.broker.publish("estop", {"type": "estop", "active": True})

    def refuse(rig: Rig, setpoint: dict[str, Any]) -> None:
        rig.p_mw = 0.0
        rig.measure(ack=setpoint, rejected="emergency stop", stopped=True)

    rig.answer = refuse
    for _ in range(3):
        rig.step(0.02)
    assert (rig.link.stats.rejected, rig.link.stats.rejected_in_stop) == (0, 3)
    assert rig.bound == "emergency stop"
    rig.answer = reject
    rig.step(0.02)
    assert (rig.link.stats.rejected, rig.link.stats.rejected_in_stop) == (1, 3), "for another reason"


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
    assert rig.gateway._stop._register.release.who == "r" * 200


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of models that replace a device, and of devices that are back."""
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [line for line in said if "its model replaces it" in line or "back in step" in line]


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
        began = f"MG1/ess: its model replaces it from step {first}: no telemetry before the deadline"
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
        rig.gateway._renewal._nearer.set()  # the clock of this test has no timers
        await until(lambda n=n: len(rig.sent) >= n, "a renewal")
        rig.gateway.environment.heard(None)
    assert not rig.sent[0].get("renewal")
    assert all(setpoint["renewal"] and setpoint["p_mw"] == 0.02 for setpoint in rig.sent[1:])
    assert [setpoint["seq"] for setpoint in rig.sent] == list(range(len(rig.sent)))
    assert rig.link.stats.setpoints == 1


async def test_after_a_standstill_a_stop_that_waited_is_read_before_a_lease_is_renewed() -> None:
    """SIGSTOP for less than a lease, and a stop meanwhile: it is in the socket, and the timer is over."""
    rig = await Rig().open()
    rig.step(0.02)
    rig.clock_s += 1.0
    time.sleep(0.3)
    rig.gateway._renewal._nearer.set()  # the clock of this test has no timers
    asyncio.get_running_loop().call_later(
        0.01, lambda: rig.broker.publish("estop", {"type": "estop", "active": True})
    )
    await until(lambda: rig.gateway.estop is not None, "the stop")
    await asyncio.sleep(0.1)
    assert [setpoint["p_mw"] for setpoint in rig.sent] == [0.02], "nothing is renewed"


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
    assert rig.gateway.authority.manual_control("ess") is None


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


async def test_the_first_setpoint_has_its_renewal_waited_for_and_a_later_one_only_puts_that_off() -> None:
    rig = await Rig().open()
    await asyncio.sleep(0)
    assert rig.gateway._renewal._sleeps_until == math.inf, "nothing was sent"
    rig.step(0.02)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first = rig.gateway._renewal._sleeps_until
    assert first == rig.gateway._leases.due_at == pytest.approx(rig.clock_s + LEASE_S / 3)
    rig.clock_s += 0.5
    rig.step(0.02)
    await asyncio.sleep(0)
    assert rig.gateway._renewal._sleeps_until == first
    assert rig.gateway._leases.due_at == pytest.approx(first + 0.5)


async def test_a_step_in_which_all_is_simulated_sends_and_renews_nothing() -> None:
    rig = await Rig().open()
    assert not rig.gateway.skip_simulated(1, 0), "the device is driven"
    rig.step(0.02)
    assert rig.gateway._leases.due_at < math.inf
    rig.ask("simulated")
    assert rig.gateway.skip_simulated(1, 2)
    assert rig.gateway._leases.due_at == math.inf, "what it was told before is not renewed"
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


# -- a gateway of two devices ------------------------------------------------------------------------


class ReconnectingBroker(OpenMemoryBroker):
    """In memory, but its connection can be away and back."""

    def __init__(self) -> None:
        super().__init__()
        self.reconnected: list[Callable[[], None]] = []

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.reconnected.append(callback)
        return lambda: self.reconnected.remove(callback) if callback in self.reconnected else None


class Pair:
    """The gateway of two batteries, ``a`` and ``b``; the test is the devices and moves the clock."""

    def __init__(self, level: Level = "emulated", *, is_real: bool = False, **gateway: Any) -> None:
        self.clock_s = 1000.0
        self.notified = 0
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.broker = ReconnectingBroker()
        self.agent = GridAgent("MG1", {name: Battery(ESS) for name in "ab"}, step_s=DT_S)
        table = GatewayTable(**{"stale_after_s": 5.0, "band": BAND, **gateway})
        settings = DeviceSettings(authority=level, is_real=is_real, gateway=table)
        self.gateway = FieldGateway(
            "MG1",
            self.agent,
            dict.fromkeys("ab", settings),
            dict.fromkeys("ab", ESS.power_range_mw),
            self.broker,
            MessageStamper("MG1", "test"),
            notify=self._notify,
            lease_s=LEASE_S,
            monotonic=lambda: self.clock_s,
        )
        self._level: Level = level

    def _notify(self) -> None:
        self.notified += 1

    async def open(self, *, is_heard: bool = True) -> Pair:
        self.broker.subscribe("devices/+/+/setpoint", lambda m: self.sent.append((m.channel[12], dict(m))))
        await self.gateway.open()
        self.gateway.environment.serve("e1")
        for name in "ab" if is_heard else "":
            self.gateway.authority._held[name].level = self._level
            self.say(name, "status", state="online")
            self.measure(name)
        self.notified = 0
        return self

    def say(self, name: str, leaf: str, **fields: Any) -> None:
        self.broker.publish(f"devices/MG1/{name}/{leaf}", {"type": leaf, **fields})

    def measure(self, name: str, p_mw: float = 0.0, **fields: Any) -> None:
        self.say(name, "telemetry", **{"p_mw": p_mw, "soc": 0.5, **fields})

    def ack(self, name: str, **fields: Any) -> None:
        setpoint = next(sent for to, sent in reversed(self.sent) if to == name)
        self.measure(name, setpoint["p_mw"], ack_seq=setpoint["seq"], ack_boot=setpoint["boot"], **fields)

    def send(self, *p_mw: float, step: int = 0, dt_s: float | None = DT_S) -> dict[str, SetpointRequest]:
        allowed = {name: SetpointRequest(p) for name, p in zip("ab", p_mw, strict=False)}
        self.gateway.send(allowed, dt_s=dt_s, episode=3, step=step)
        return allowed

    def step(self, *p_mw: float, step: int = 0) -> None:
        """Take a step in which each device answers at once."""
        self.agent.observe(None, None)
        wanted = {name: SetpointRequest(p) for name, p in zip("ab", p_mw, strict=True)}
        allowed = self.gateway.clamp_setpoints(wanted)
        self.gateway.send(allowed, dt_s=DT_S, episode=3, step=step)
        for name in {to for to, sent in self.sent if sent["step"] == step}:
            self.ack(name)
        self.gateway.settle(allowed)

    def model(self, name: str) -> Any:
        return self.agent.devices[name].state

    @property
    def told(self) -> list[tuple[str, float]]:
        return [(name, setpoint["p_mw"]) for name, setpoint in self.sent]


def named(tasks: str) -> int:
    return sum(task.get_name() == tasks for task in asyncio.all_tasks())


async def test_renewals_are_one_task_and_none_where_there_is_no_device() -> None:
    pair = await Pair().open()
    for _ in range(2):
        pair.gateway.begin()
    assert named("renewals of MG1") == 1
    pair.gateway.close()
    await asyncio.sleep(0)
    assert named("renewals of MG1") == 0
    alone = FieldGateway(
        *("MG2", GridAgent("MG2", {}), {}, {}, InMemoryBroker(), MessageStamper("MG2", "test")),
        notify=lambda: None,
        lease_s=LEASE_S,
    )
    alone.begin()
    assert named("renewals of MG2") == 0
    alone.close()


async def test_a_closed_gateway_hears_of_no_reconnection_and_of_no_environment() -> None:
    pair = await Pair().open()
    assert len(pair.broker.reconnected) == 1
    for _ in range(2):
        pair.gateway.close()
    assert pair.broker.reconnected == []
    pair.broker.publish("run/state", {"type": "run_state", "state": "lost", "boot": "e1"})
    assert pair.gateway.environment.left_s == LEASE_S


async def test_a_gateway_that_was_displaced_gives_its_leases_back_and_renews_nothing() -> None:
    pair = await Pair("full").open()
    pair.send(0.01, 0.02)
    assert pair.gateway._leases.due_at < math.inf
    pair.gateway.abandon()
    assert [(name, sent["release"]) for name, sent in pair.sent[2:]] == [("a", True), ("b", True)]
    assert pair.gateway._leases.due_at == math.inf


async def test_nobody_is_displaced_and_a_setpoint_wants_no_reactive_power_unless_that_is_asked_for() -> None:
    pair = await Pair("full").open()
    pair.send(0.01, 0.02)
    assert [(sent["take_over"], sent["q_mvar"]) for _, sent in pair.sent] == [(False, 0.0)] * 2


async def test_a_real_device_lacks_what_its_gate_wants_until_it_was_heard_well_and_often() -> None:
    pair = await Pair("limited", is_real=True, gate_steps=2).open(is_heard=False)
    gateway = pair.gateway
    lacking = {name: f"nothing on devices/MG1/{name}/telemetry" for name in "ab"}
    assert gateway.lacks("r", 1) == lacking
    assert gateway.absent("r", 1) == [f"{name} ({why})" for name, why in lacking.items()]
    assert not gateway.is_complete("r", 1)
    assert not gateway.can_begin_in_shadow("a")
    pair.say("a", "status", state="online")
    assert gateway.can_begin_in_shadow("a")
    pair.measure("a")
    one = "1 of 2 plausible messages in a row on devices/MG1/a/telemetry"
    assert gateway.lacks("r", 1) == {**lacking, "a": one}
    pair.measure("a")
    assert gateway.lacks("r", 1) == {"b": lacking["b"]}
    for _ in range(2):
        pair.measure("b")
    assert gateway.lacks("r", 1) == {"b": "no birth on devices/MG1/b/status, retained"}
    pair.say("b", "status", state="online")
    assert gateway.lacks("r", 1) == {}
    assert gateway.is_complete("r", 1)
    pair.clock_s += 5.1
    assert gateway.lacks("r", 1) == dict.fromkeys("ab", "it is stale")


async def test_a_device_that_is_sent_nothing_lacks_nothing() -> None:
    for level in ("simulated", "shadow"):
        pair = await Pair(level).open(is_heard=False)  # type: ignore[arg-type]
        assert pair.gateway.lacks("r", 1) == {}
        assert pair.gateway.is_complete("r", 1)


async def test_hardware_that_answers_where_an_emulator_is_expected_is_told_nothing() -> None:
    pair = await Pair().open()  # it follows no episodes
    pair.say("b", "status", state="online", run="r", episode=1)
    assert pair.gateway.lacks("r", 1) == {
        "a": "a real device answers where an emulator is expected: set external = true"
    }
    assert not pair.gateway.can_begin_in_shadow("a"), "it is not known to be real"
    allowed = pair.send(0.01, 0.02)
    assert pair.told == [("b", 0.02)]
    pair.gateway.settle(allowed)
    assert pair.agent.report().fallbacks["a"] == (
        "a real device answers where an emulator is expected: set external = true"
    )
    pair.gateway.authority._held["a"].level = "full"
    pair.send(0.01, 0.02, step=1)
    assert pair.told[1:] == [("a", 0.01), ("b", 0.02)], "full is for hardware"


@pytest.mark.parametrize(
    ("level", "is_real", "run", "is_put"),
    [
        ("full", True, None, True),
        ("full", True, "r", True),
        ("full", False, None, True),
        ("emulated", False, "r", False),  # it begins afresh, as its model does
        ("shadow", True, None, False),  # it is sent nothing
    ],
)
async def test_an_episode_begins_where_the_hardware_is(
    level: Level, is_real: bool, run: str | None, is_put: bool
) -> None:
    pair = await Pair(level, is_real=is_real).open()
    pair.gateway.taken_up()
    pair.say("a", "status", state="online", run=run)
    pair.measure("a", 0.01, soc=0.3)
    pair.gateway._to_reseed.add("a")
    pair.gateway.begin_episode()
    assert (pair.model("a").soc == 0.3) is is_put
    assert ("a" in pair.gateway.taken_up()) is is_put
    assert pair.gateway.taken_up() == {}
    assert pair.gateway._to_reseed == set()
    pair.measure("a", 0.01, soc=0.4)
    pair.clock_s += 5.1
    pair.gateway.begin_episode()
    assert pair.gateway.taken_up() == {}, "what is stale says nothing of now"


async def test_an_episode_and_each_step_let_devices_rise() -> None:
    for rises in ("begin_episode", "clamp_setpoints"):
        pair = await Pair("full", is_real=True, gate_steps=1).open()
        pair.gateway.authority._held["a"].level = "shadow"
        if rises == "begin_episode":
            pair.gateway.begin_episode()
        else:
            pair.gateway.clamp_setpoints({})
        assert pair.gateway.authority.level("a") == "limited"
        assert pair.gateway.levels() == {"a": "limited", "b": "full"}


async def test_a_step_in_which_all_is_simulated_is_a_step_without_remarks() -> None:
    pair = await Pair("full").open()
    pair.gateway.clamp_setpoints({"a": SetpointRequest(1.0)})
    assert pair.gateway.reasons() == {"a": "nameplate"}
    for held in pair.gateway.authority._held.values():
        held.level = held.ceiling = "simulated"
    assert pair.gateway.skip_simulated(3, 17)
    assert (pair.gateway.reasons(), pair.gateway.residuals(), pair.gateway.levels()) == ({}, {}, {})
    assert (pair.gateway._at, pair.gateway.authority.step) == ((3, 17), 17)


async def test_bounds_of_a_simulated_device_are_not_remarked_and_a_band_holds_for_its_device_alone() -> None:
    pair = await Pair("full").open()
    held = pair.gateway.authority._held
    held["a"].level = held["a"].ceiling = "simulated"
    held["b"].level = "limited"
    allowed = pair.gateway.clamp_setpoints({name: SetpointRequest(0.04) for name in "ab"})
    assert [allowed[name].p_mw for name in "ab"] == [0.04, BAND.p_max_mw]
    assert pair.gateway.reasons() == {"b": "band of limited authority"}
    allowed = pair.gateway.clamp_setpoints({name: SetpointRequest(9.0) for name in "ab"})
    assert allowed["a"].p_mw == 0.05
    assert pair.gateway.reasons().keys() == {"b"}


async def test_without_the_length_of_the_step_nothing_is_sent() -> None:
    pair = await Pair().open()
    for name in "ab":
        pair.say(name, "status", state="online", run="r", episode=1)
    pair.send(0.01, 0.02, dt_s=None)
    assert (pair.told, pair.gateway._leases.due_at) == ([], math.inf)


async def test_what_is_left_of_the_sign_of_life_is_the_lease_however_short() -> None:
    pair = await Pair("full").open()
    pair.clock_s += LEASE_S - 0.5
    pair.gateway._renewal._sleeps_until = math.inf  # as its task does, which this clock does not wake
    pair.send(0.01, 0.02)
    assert [sent["lease_s"] for _, sent in pair.sent] == [0.5, 0.5]
    assert pair.gateway._renewal._nearer.is_set(), "its end is waited for"
    assert pair.gateway._leases.due_at == pytest.approx(pair.clock_s + 0.5 / 3)
    assert [(sent["episode"], sent["step"], sent["dt_s"]) for _, sent in pair.sent] == [(3, 0, DT_S)] * 2
    pair.clock_s += 0.5
    allowed = pair.send(0.01, 0.02, step=1)
    assert len(pair.sent) == 2
    pair.gateway.settle(allowed)
    silent = "the environment has been silent for longer than 3 s"
    assert pair.agent.report().fallbacks == {"a": silent, "b": silent}


async def test_what_comes_while_setpoints_are_cleared_only_ever_takes_away() -> None:
    for level, soc, p_mw, sent_mw in (
        ("full", 0.1, 0.04, 0.0),  # empty: it can give nothing
        ("full", 0.1, -0.04, -0.04),
        ("full", 0.9, -0.04, 0.0),  # full: it can take nothing
        ("full", 0.9, 0.04, 0.04),
        ("full", 0.5, 0.0, 0.0),
        ("limited", 0.5, 0.04, BAND.p_max_mw),
        ("limited", 0.5, -0.04, BAND.p_min_mw),
        ("limited", 0.5, 0.004, 0.004),
        ("limited", 0.1, 0.04, 0.0),
        ("limited", 0.9, -0.04, 0.0),
    ):
        pair = await Pair(level).open()  # type: ignore[arg-type]
        pair.measure("a", boot="b1")
        pair.measure("a", boot="b2", soc=soc)  # it was born again, and is taken up
        allowed = pair.send(p_mw, 0.0)
        assert pair.told[0] == ("a", pytest.approx(sent_mw)), (level, soc, p_mw)
        assert allowed["a"].p_mw == pytest.approx(sent_mw)


@pytest.mark.parametrize(
    ("low_mw", "high_mw", "p_mw", "sent_mw"),
    [
        (-0.05, -0.01, -0.02, -0.02),
        (-0.05, -0.01, 0.04, 0.0),
        (-0.05, -0.01, 0.0, 0.0),  # not to where the device would rather be
        (0.01, 0.05, 0.02, 0.02),
        (0.01, 0.05, -0.04, 0.0),
        (0.01, 0.05, 0.0, 0.0),
    ],
)
async def test_what_has_been_cleared_grows_to_no_side(
    low_mw: float, high_mw: float, p_mw: float, sent_mw: float
) -> None:
    class Pressed(GridAgent):
        """A ramp that leaves no way to 0."""

        def limits(self, device: str) -> SetpointLimits:
            return SetpointLimits(-0.05, 0.05, 0.05, low_mw, high_mw)

    pair = await Pair("full").open()
    pair.gateway._twins = Pressed("MG1", {name: Battery(ESS) for name in "ab"})
    pair.send(p_mw, 0.0)
    assert pair.told[0] == ("a", sent_mw)


async def test_a_setpoint_of_a_device_that_is_sent_nothing_is_left_as_it_is() -> None:
    pair = await Pair("shadow").open()
    pair.measure("a", boot="b1")
    pair.measure("a", boot="b2", soc=0.1)
    allowed = {"a": SetpointRequest(0.04), "x": SetpointRequest(0.03)}
    pair.gateway.send(allowed, dt_s=DT_S, episode=3, step=0)
    assert allowed == {"a": SetpointRequest(0.04), "x": SetpointRequest(0.03)}


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_a_step_is_answered_once_every_device_has(order: str) -> None:
    pair = await Pair("full").open()
    assert pair.gateway.answered(), "nobody was asked"
    pair.send(0.01, 0.02)
    for name in order:
        assert not pair.gateway.answered()
        pair.ack(name)
    assert pair.gateway.answered()
    pair.send(0.01, 0.02, step=1)
    pair.ack(order[0])
    assert not pair.gateway.answered()
    pair.say(order[1], "status", state="fault")
    assert pair.gateway.answered(), "who says that it cannot is not waited for"
    pair.say(order[1], "status", state="online")
    pair.clock_s += 5.1
    assert pair.gateway.links[order[1]].health == "stale"
    assert not pair.gateway.answered(), "it may still answer"
    pair.gateway.authority._held[order[1]].level = "shadow"
    assert pair.gateway.answered(), "it is driven no more"


async def test_a_simulated_device_is_its_model_and_a_shadowed_one_is_compared_with_it() -> None:
    pair = await Pair("full").open()
    held = pair.gateway.authority._held
    for name, level in (("a", "simulated"), ("b", "shadow")):
        held[name].level = held[name].ceiling = level  # type: ignore[assignment]
    pair.agent.observe(None, None)
    pair.measure("b", 0.03)
    allowed = pair.gateway.clamp_setpoints({name: SetpointRequest(0.02) for name in "ab"})
    pair.gateway.send(allowed, dt_s=DT_S, episode=3, step=0)
    pair.clock_s += 0.25
    assert pair.gateway.settle(allowed) == 0
    report = pair.agent.report()
    assert (report.p_mw, report.fallbacks) == ({"a": 0.02, "b": 0.02}, {})
    assert pair.gateway.residuals() == {"b": 0.0}, "the comparison begins where the device is"
    assert pair.gateway.report().keys() == {"b"}
    assert pair.gateway.report()["b"]["age_s"]["p50"] == 0.25
    assert pair.gateway.links["a"].stats.age_s == [], "it is not looked at"
    assert pair.gateway.levels() == {"b": "shadow"}
    pair.gateway.authority.request(
        "a", AuthorityRequest(level="simulated", who="ann", why="test"), has_waited=False
    )
    assert pair.gateway.report().keys() == {"a", "b"}, "somebody has asked for it"


async def test_a_model_that_stood_in_after_a_rebirth_is_put_where_the_device_is_before_the_next_step() -> (
    None
):
    pair = await Pair("full").open()
    for name in "ab":
        pair.measure(name, boot="b1")
    allowed = pair.send(0.04, 0.04)
    pair.measure("a", boot="b2", soc=0.5)
    pair.agent.observe(None, None)
    pair.ack("b")
    pair.gateway.settle(allowed)
    assert pair.model("a").soc != 0.5, "its model has taken the step"
    assert pair.gateway._to_reseed == {"a"}
    pair.gateway.taken_up()
    pair.gateway.clamp_setpoints({})
    assert pair.model("a").soc == 0.5
    assert pair.gateway.taken_up().keys() == {"a"}
    pair.gateway.clamp_setpoints({})
    assert pair.gateway.taken_up() == {}, "once"
    pair.send(0.04, 0.04, step=1)
    assert pair.gateway._reseeded_since_sent == set()


async def test_a_model_whose_device_was_born_again_and_has_not_spoken_is_not_put_anywhere() -> None:
    pair = await Pair("full").open()
    pair.gateway.taken_up()
    pair.gateway._to_reseed.add("a")
    pair.say("a", "status", state="online", boot="b1")
    pair.say("a", "status", state="online", boot="b2")
    assert pair.gateway.links["a"].telemetry is None
    pair.gateway.clamp_setpoints({})
    assert pair.gateway.taken_up() == {}


async def test_a_stop_that_a_device_knows_of_is_one_and_every_message_is_told() -> None:
    pair = await Pair("full").open()
    pair.measure("a")
    assert (pair.notified, pair.gateway.estop) == (1, None)
    pair.send(0.01, 0.02)
    assert pair.gateway._leases.due_at < math.inf
    pair.measure("a", stopped=True)
    assert pair.gateway.estop is not None
    assert pair.notified >= 3, "of the message, and of the stop"
    assert pair.gateway._leases.due_at == math.inf, "nothing is renewed"
    assert not pair.gateway.links["b"].holds_setpoint


async def test_a_change_of_level_begins_where_the_device_is_and_evidence_anew() -> None:
    pair = await Pair("full").open()
    gateway = pair.gateway
    gateway._outcome.steady["a"] = 7
    pair.measure("a", soc=0.3)
    pair.notified = 0
    asked = AuthorityRequest(level="limited", who="ann", why="test")
    gateway.authority.request("a", asked, has_waited=False)
    assert (gateway._outcome.steady["a"], pair.model("a").soc, pair.notified) == (0, 0.3, 1)
    pair.measure("a", soc=0.4)
    pair.clock_s += 5.1
    gateway.authority.request("a", asked.model_copy(update={"level": "shadow"}), has_waited=False)
    assert pair.model("a").soc == 0.3, "what is stale says nothing of now"
    gateway.authority.request("b", asked, has_waited=False)  # never measured since: nothing to begin with
    assert gateway.authority.level("b") == "limited"


async def test_a_level_with_a_band_goes_on_with_what_is_within_it_to_the_edge() -> None:
    for p_mw, goes_on in (
        (BAND.p_max_mw, True),
        (BAND.p_min_mw, True),
        (0.0, True),
        (0.0101, False),
        (-0.0101, False),
    ):
        pair = await Pair("full").open()
        pair.send(p_mw)
        asked = AuthorityRequest(level="limited", who="ann", why="test")
        pair.gateway.authority.request("a", asked, has_waited=False)
        assert pair.gateway.links["a"].holds_setpoint is goes_on, p_mw
        pair.gateway.authority.request("b", asked, has_waited=False)  # which was sent nothing
        assert len(pair.sent) == 1, "nothing is given back"


async def test_what_was_sent_is_given_back_at_the_end_of_the_run_and_runs_out_where_it_is_lost() -> None:
    for state, releases in (("finished", 2), ("lost", 0)):
        pair = await Pair("full").open()
        pair.send(0.01, 0.02)
        taken = {"type": "take", "p_mw": 0.005, "for_s": 60.0, "who": "ann"}
        pair.broker.publish("devices/MG1/a/take", taken)
        assert pair.gateway.authority.manual_control("a") is not None
        pair.notified = 0
        pair.broker.publish("run/state", {"type": "run_state", "state": state, "boot": "e1"})
        assert len([sent for _, sent in pair.sent if sent["release"]]) == releases
        assert (pair.gateway._leases.due_at, pair.notified) == (math.inf, 1)
        assert not pair.gateway.links["a"].holds_setpoint
        assert pair.gateway.authority.manual_control("a") is None


async def test_a_device_is_taken_in_hand_as_long_as_anything_is_left_of_the_sign_of_life() -> None:
    pair = await Pair("full").open()
    pair.clock_s += LEASE_S - 0.5
    pair.broker.publish("devices/MG1/a/take", {"type": "take", "p_mw": 0.005, "for_s": 60.0, "who": "ann"})
    assert pair.gateway.authority.manual_control("a") is not None


async def test_after_a_reconnection_what_is_known_is_said_and_heard_again() -> None:
    pair = await Pair("full").open()
    said: list[tuple[str, Any]] = []
    for channel in ("devices/MG1/a/authority_state", "estop/confirm/MG1"):
        pair.broker.subscribe(channel, lambda m: said.append((m.channel, m.get("level") or m.get("active"))))
    pair.broker.publish("estop", {"type": "estop", "active": True, "who": "ann"})
    said.clear()
    pair.gateway.links["a"]._lives.has_live_status = True
    (reconnected,) = pair.broker.reconnected
    reconnected()
    assert sorted(said) == [("devices/MG1/a/authority_state", "full"), ("estop/confirm/MG1", True)]
    assert not pair.gateway.links["a"]._lives.has_live_status


async def test_each_lease_is_renewed_with_what_is_left_of_it_to_a_millisecond() -> None:
    pair = await Pair("full").open()
    pair.broker.publish("devices/MG1/a/take", {"type": "take", "p_mw": 0.005, "for_s": 2.0, "who": "ann"})
    pair.step(0.02, 0.02)
    assert pair.told == [("a", 0.005), ("b", 0.02)]
    pair.clock_s += 0.4996
    pair.gateway.environment.serve("e1")
    for name in "ab":
        pair.measure(name)
    pair.gateway._renew()
    assert [(name, sent["lease_s"], sent["renewal"]) for name, sent in pair.sent[2:]] == [
        ("a", 1.5, True),
        ("b", LEASE_S, True),
    ]
    assert pair.gateway._leases.due_at == pytest.approx(pair.clock_s + 1.5 / 3)
    pair.gateway.authority._held["b"].level = "shadow"
    pair.clock_s += 1.4996
    pair.gateway.environment.serve("e1")
    for name in "ab":
        pair.measure(name)
    pair.gateway._renew()
    assert pair.gateway.links["a"].holds_setpoint
    assert len(pair.sent) == 4, "less than a millisecond is left of the one, and the other is not driven"
    assert pair.gateway._leases.due_at < math.inf, "the next time comes all the same"


async def test_without_anything_to_renew_the_next_time_is_that_of_a_whole_lease() -> None:
    pair = await Pair("full").open()
    pair.send(0.01, 0.02)
    pair.gateway.environment._end = "the environment is lost"
    pair.gateway._renew()
    assert len(pair.sent) == 2
    assert pair.gateway._leases.due_at == pytest.approx(pair.clock_s + LEASE_S / 3)
