"""AuthorityManager: a device in the hand of a person, and requests that come later than they were made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from heron_mqtt.field.gateway import authority_manager
from heron_mqtt.field.gateway.authority import HAS_WAITED, Evidence
from heron_mqtt.field.gateway.authority_manager import AuthorityManager, Manual
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import SetpointLimits
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable
from heron_mqtt.messages import AuthorityRequest, Command, Level, Observation, Take
from heron_mqtt.messaging.base import Features
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.devices import BatterySpec, EvChargerSpec, GeneratorSpec
from powergrid.scenario import DeviceTable
from support.field_rig import BAND, DT_S, LEASE_S, NOON, Rig

TAKE = {"type": "take", "p_mw": 0.005, "for_s": 60.0, "who": "ann"}


class OpenGateway:
    """A gateway whose battery is at a level, and a person."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.said: list[dict[str, Any]] = []
        rig.broker.subscribe("devices/MG1/ess/authority_state", self.said.append)

    def ask(self, leaf: str = "take", **fields: Any) -> dict[str, Any]:
        """Ask, and return the answer."""
        count = len(self.said)
        self.rig.broker.publish(f"devices/MG1/ess/{leaf}", {**(TAKE if leaf == "take" else {}), **fields})
        assert len(self.said) > count, "no answer"
        return self.said[-1]

    def stands_still(self) -> None:
        """Let the gateway's process be stopped for a while."""
        watch = self.rig.gateway.environment._pause
        watch._distrust_until = watch._monotonic() + 60.0

    def sent_mw(self) -> float:
        self.rig.measure()
        self.rig.step(0.02)
        return float(self.rig.sent[-1]["p_mw"])


async def open_gateway(level: Any = "full") -> OpenGateway:
    return OpenGateway(await Rig(level).open())


async def test_a_hand_holds_to_its_last_moment_and_not_longer() -> None:
    made = await open_gateway()
    assert made.ask()["granted"] is True
    made.rig.clock_s += 59.9
    assert made.sent_mw() == 0.005
    made.rig.clock_s += 0.1
    assert made.sent_mw() == 0.02
    assert "no longer under manual control of ann: the time is over" in [each["reason"] for each in made.said]
    assert "manual_by" not in made.said[-1]


async def test_nothing_of_a_hand_lasts_longer_than_it_within_a_step() -> None:
    made = await open_gateway()
    made.ask(for_s=4.0)
    assert made.sent_mw() == 0.005
    assert made.rig.sent[-1]["lease_s"] == LEASE_S
    made.rig.clock_s += 2.5
    made.rig.measure()
    made.rig.gateway.environment.heard(None)
    made.rig.gateway._renew()
    assert (made.rig.sent[-1]["renewal"], made.rig.sent[-1]["lease_s"]) == (True, 1.5)
    made.rig.clock_s += 1.5
    made.rig.measure()
    made.rig.gateway.environment.heard(None)
    before = len(made.rig.sent)
    made.rig.gateway._renew()
    assert len(made.rig.sent) == before
    assert made.sent_mw() == 0.02, "the next step is the agent's"
    assert made.rig.sent[-1]["lease_s"] == LEASE_S


async def test_what_a_hand_asked_for_is_not_renewed_once_it_is_given_back() -> None:
    made = await open_gateway()
    made.ask()
    assert made.sent_mw() == 0.005
    made.ask(for_s=0.0)
    before = len(made.rig.sent)
    made.rig.gateway._renew()
    assert len(made.rig.sent) == before


async def test_what_the_agent_asked_for_is_not_renewed_once_a_person_has_the_device_in_hand() -> None:
    made = await open_gateway()
    assert made.sent_mw() == 0.02
    made.ask(p_mw=0.02, for_s=4.0)
    before = len(made.rig.sent)
    made.rig.gateway._renew()
    assert len(made.rig.sent) == before, "not even where it is the same power: that is the person's now"
    made.ask(for_s=0.0)
    made.rig.gateway._renew()
    assert made.rig.sent[-1]["renewal"] is True, "its lease is not over yet"


@pytest.mark.parametrize("is_first_in_hand", [True, False])
async def test_while_the_next_setpoint_is_cleared_only_what_was_sent_is_renewed_for_whom_it_was_sent(
    is_first_in_hand: bool,
) -> None:
    made = await open_gateway()
    rig = made.rig
    if is_first_in_hand:
        made.ask(p_mw=0.005)
    assert made.sent_mw() == (0.005 if is_first_in_hand else 0.02)
    made.ask(p_mw=0.0, for_s=0.0 if is_first_in_hand else 60.0)
    before = len(rig.sent)
    rig.measure()
    rig.agent.observe(Observation(dt_s=DT_S, episode=1, step=9), 50.0)
    rig.agent.decide(Command.model_validate({"p_ess": 0.02}))
    rig.agent.conclude()
    rig.gateway.clamp_setpoints(rig.agent.wanted())
    rig.gateway._renew()
    assert rig.sent[before:] == [], "the hand of the next setpoint is not the one of the last"


async def test_a_hand_that_begins_while_a_setpoint_is_cleared_lets_nothing_of_the_agents_leave() -> None:
    made = await open_gateway()
    rig = made.rig
    rig.measure()
    rig.agent.observe(Observation(dt_s=DT_S, episode=1, step=0), 50.0)
    rig.agent.decide(Command.model_validate({"p_ess": 0.02}))
    rig.agent.conclude()
    allowed = rig.gateway.clamp_setpoints(rig.agent.wanted())
    made.ask(p_mw=0.0)
    rig.gateway.environment.heard(None)
    rig.gateway.send(allowed, dt_s=DT_S, episode=1, step=0)
    rig.gateway.settle(allowed)
    assert (rig.sent, rig.fallback) == ([], "manual control began meanwhile")


async def test_what_one_person_asked_for_is_not_renewed_on_another_ones_time() -> None:
    made = await open_gateway()
    made.ask(for_s=4.0)
    assert made.sent_mw() == 0.005
    made.ask(for_s=0.0)
    made.ask(who="bob", p_mw=0.001, for_s=600.0)
    before = len(made.rig.sent)
    made.rig.gateway._renew()
    assert len(made.rig.sent) == before
    assert made.sent_mw() == 0.001


async def test_a_hand_that_is_extended_before_it_is_over_goes_on_within_the_step() -> None:
    made = await open_gateway()
    made.ask(for_s=1.0)
    assert made.sent_mw() == 0.005
    due_s = made.rig.gateway._leases.due_at - made.rig.clock_s
    assert due_s <= 0.34, "before the short lease is over"
    made.rig.clock_s += due_s
    made.rig.measure()
    made.ask(for_s=600.0)
    made.rig.gateway.environment.heard(None)
    made.rig.gateway._renew()
    assert (made.rig.sent[-1]["renewal"], made.rig.sent[-1]["lease_s"]) == (True, LEASE_S)


async def test_a_device_that_was_in_hand_and_does_not_stop_is_counted_with_what_it_measures() -> None:
    made = await open_gateway()
    made.ask(p_mw=0.01)
    assert made.sent_mw() == 0.01
    rig = made.rig
    rig.broker.publish("estop", {"type": "estop", "active": True, "who": "ann"}, retain=True)
    rig.answer = lambda told, setpoint: told.measure(ack=setpoint, p_mw=0.01)
    before = len(rig.sent)
    rig.measure(p_mw=0.01)
    rig.step(0.02)
    assert [setpoint["p_mw"] for setpoint in rig.sent[before:]] == [0.0]
    assert (rig.p_done_mw, rig.fallback) == (0.01, None)
    assert "not followed by the device" in (rig.bound or "")


async def test_a_hand_that_ends_while_its_setpoint_is_cleared_sends_nothing() -> None:
    made = await open_gateway()
    made.ask(for_s=4.0)
    rig = made.rig
    rig.measure()
    rig.agent.observe(Observation(dt_s=DT_S, episode=1, step=0), 50.0)
    rig.agent.decide(Command.model_validate({"p_ess": 0.02}))
    rig.agent.conclude()
    allowed = rig.gateway.clamp_setpoints(rig.agent.wanted())
    rig.clock_s += 4.0
    rig.measure()
    rig.gateway.environment.heard(None)
    rig.gateway.send(allowed, dt_s=DT_S, episode=1, step=0)
    rig.gateway.settle(allowed)
    assert rig.sent == []
    assert rig.fallback == "it is no longer under manual control"


async def test_a_hand_is_given_back_by_zero_seconds_and_told_while_it_lasts() -> None:
    made = await open_gateway()
    told = made.ask()
    assert (told["manual_by"], told["manual_p_mw"], told["manual_s"]) == ("ann", 0.005, 60.0)
    assert made.sent_mw() == 0.005
    assert "manual_by" not in made.ask(for_s=0.0)
    assert made.sent_mw() == 0.02


@pytest.mark.parametrize(("level", "bound_mw"), [("full", 0.05), ("limited", 0.01)])
async def test_what_nameplate_or_band_do_not_allow_is_refused_with_what_they_do(
    level: Any, bound_mw: float
) -> None:
    made = await open_gateway(level)
    for p_mw in (7.0, -7.0, 1.0001 * bound_mw, -bound_mw - 1e-8):
        told = made.ask(p_mw=p_mw)
        assert (told["granted"], "manual_by" in told) == (False, False)
        assert told["reason"] == (
            f"{p_mw:g} MW is beyond the device's nameplate, or the band of its level; expected "
            f"{-bound_mw:g} to {bound_mw:g} MW"
        )
        assert made.sent_mw() == pytest.approx(min(0.02, bound_mw)), "the agent goes on"
    for p_mw in (bound_mw, -bound_mw, bound_mw + 5e-10):
        told = made.ask(p_mw=p_mw)
        assert told["granted"] is True
        assert told["manual_p_mw"] == pytest.approx(p_mw, abs=1e-9)
        assert abs(told["manual_p_mw"]) <= bound_mw
        assert made.sent_mw() == told["manual_p_mw"]


async def test_reactive_power_that_the_apparent_power_does_not_leave_is_refused() -> None:
    made = await open_gateway()
    told = made.ask(p_mw=0.03, q_mvar=0.0401)
    assert (told["granted"], told["reason"]) == (
        False,
        "0.0401 Mvar is beyond the device's apparent power beside 0.03 MW; expected -0.04 to 0.04 Mvar",
    )
    for q_mvar in (0.04, -0.04, 0.04 + 5e-10):
        assert made.ask(p_mw=0.03, q_mvar=q_mvar)["granted"] is True
        made.sent_mw()
        assert made.rig.sent[-1]["q_mvar"] == pytest.approx(q_mvar, abs=1e-9)


async def test_a_band_that_comes_after_a_take_bounds_what_is_sent() -> None:
    made = await open_gateway()
    assert made.ask(p_mw=0.04)["granted"] is True
    made.ask("authority", type="authority_request", level="limited", who="bob", why="")
    assert made.sent_mw() == pytest.approx(BAND.p_max_mw)


@pytest.mark.parametrize("level", ["simulated", "shadow"])
async def test_nobody_takes_what_is_sent_nothing(level: Any) -> None:
    made = await open_gateway(level)
    for for_s in (0.5, 60.0):
        told = made.ask(for_s=for_s)
        assert (told["granted"], told["reason"]) == (
            False,
            f"no setpoints are sent to the device at level {level}",
        )


@pytest.mark.parametrize(
    ("gap_mw", "p_mw", "reason"),
    [
        ((0.0, 0.02), 0.01, "0.01 MW is between 0 and {least}; expected 0, or 0.02 MW or more"),
        ((0.0, 0.02), 0.02, ""),
        ((0.0, 0.0041), 4.1 / 1000.0, ""),  # a rounding below it
        ((-0.0041, 0.0), -4.1 / 1000.0, ""),
        ((0.0, 0.02), 0.0, ""),
        ((-0.02, 0.0), -0.01, "-0.01 MW is between 0 and {least}; expected 0, or -0.02 MW or less"),
        ((-0.02, 0.0), -0.02, ""),
        ((-0.02, 0.0), 0.01, ""),
        ((0.0, 0.0), 0.01, ""),
        ((0.0, 0.02), 1e-9, ""),  # a milliwatt is meant to be nothing
    ],
)
async def test_a_power_that_the_device_cannot_hold_is_refused_with_those_that_it_can(
    gap_mw: tuple[float, float], p_mw: float, reason: str
) -> None:
    made = await open_gateway()
    made.rig.gateway.authority._gaps_mw["ess"] = gap_mw
    told = made.ask(p_mw=p_mw)
    assert (told["granted"], told["reason"]) == (
        not reason,
        reason.format(least="the device's minimum power")
        or f"under manual control of ann: {p_mw if p_mw != 1e-9 else 0.0:g} MW for 60 s",
    )
    hand = made.rig.gateway.authority.manual_control("ess")
    assert (hand is None) == bool(reason)
    if hand is not None:
        assert not gap_mw[0] < hand.p_mw < gap_mw[1]


def test_each_kind_says_by_its_nameplate_which_powers_cannot_be_held() -> None:
    battery = BatterySpec(max_e_mwh=1.0, max_p_charge_mw=0.5, max_p_discharge_mw=0.5)
    told = {
        GeneratorSpec(max_p_mw=1.0, min_p_mw=0.2): (0.0, 0.2),
        EvChargerSpec(max_p_mw=0.011, min_p_mw=0.004, max_e_mwh=0.06): (-0.004, 0.0),
        battery: (0.0, 0.0),
    }
    for spec, gap_mw in told.items():
        assert DeviceTable.model_construct(spec=spec).settings("emulated").gap_mw == gap_mw


async def test_a_stop_ends_a_hand_and_its_release_does_not_bring_it_back() -> None:
    made = await open_gateway()
    made.ask()
    made.rig.broker.publish("estop", {"active": True})
    assert made.rig.gateway.authority.manual_control("ess") is None
    told = made.ask()
    assert (told["granted"], told["reason"]) == (False, "an emergency stop is in force")
    made.rig.broker.publish("estop", {"active": False})
    assert made.sent_mw() == 0.02


async def test_a_demotion_ends_a_hand_and_a_rise_does_not_bring_it_back() -> None:
    made = await open_gateway()
    made.ask()
    made.ask("authority", type="authority_request", level="shadow", who="bob")
    made.rig.step(0.02)  # the hand is looked at
    made.rig.gateway.authority._held["ess"].level = "full"
    assert made.sent_mw() == 0.02


async def test_nobody_takes_a_device_for_an_environment_that_is_silent() -> None:
    made = await open_gateway()
    made.rig.clock_s += LEASE_S
    told = made.ask()
    assert told["granted"] is False
    assert "the environment has been silent for longer than 3 s" in told["reason"]


@pytest.mark.parametrize("fields", [{"held_s": 5.0}, {}], ids=["held in an outbox", "read after a pause"])
async def test_a_request_that_has_waited_takes_nothing_raises_nothing_and_lowers(
    fields: dict[str, Any],
) -> None:
    made = await open_gateway("limited")
    if not fields:
        made.stands_still()
    told = made.ask(**fields)
    assert (told["granted"], told["reason"]) == (False, HAS_WAITED)
    assert made.rig.gateway.authority.manual_control("ess") is None
    told = made.ask("authority", type="authority_request", level="full", who="bob", **fields)
    assert (told["granted"], told["reason"]) == (False, HAS_WAITED)
    told = made.ask("authority", type="authority_request", level="shadow", who="bob", **fields)
    assert (told["granted"], told["level"]) == (True, "shadow")
    told = made.ask("authority", type="authority_request", level="limited", who="bob", **fields)
    assert (told["granted"], told["reason"]) == (False, HAS_WAITED)


async def test_a_request_that_has_waited_gives_a_device_back() -> None:
    made = await open_gateway()
    made.ask()
    made.stands_still()
    assert made.ask(for_s=0.0)["granted"] is True
    assert made.rig.gateway.authority.manual_control("ess") is None


async def test_a_take_that_is_withdrawn_ends_the_hold_that_it_began_and_no_other() -> None:
    made = await open_gateway()
    made.ask(who="bob", p_mw=0.004, boot="b", seq=0)
    made.stands_still()
    assert made.ask(p_mw=0.006, boot="a", seq=0)["granted"] is False
    withdrawal: dict[str, Any] = {"for_s": 0.0, "request_boot": "a", "request_seq": 0}
    told = made.ask(boot="a", seq=1, **withdrawal)
    assert (told["granted"], told["manual_by"], told["request_seq"]) == (True, "bob", 1)
    assert made.sent_mw() == 0.004
    told = made.ask(boot="a", seq=2, **{**withdrawal, "request_boot": "b"})
    assert (told["granted"], told.get("manual_by")) == (True, None)
    assert made.sent_mw() == 0.02


async def test_the_answer_to_a_take_says_what_came_of_it() -> None:
    made = await open_gateway()
    take: dict[str, Any] = {"who": "bob", "boot": "b", "seq": 0}
    assert made.ask(**take)["reason"] == "under manual control of bob: 0.005 MW for 60 s"
    withdrawal: dict[str, Any] = {"for_s": 0.0, "request_boot": "a", "request_seq": 0, "boot": "a"}
    other = made.ask(**withdrawal, seq=1)["reason"]
    assert other == "withdrawn by ann: nothing, the take that is withdrawn does not hold it"
    own = made.ask(**{**withdrawal, "request_boot": "b"}, seq=2)["reason"]
    assert own == "withdrawn by ann: given back, its take is withdrawn"
    assert made.ask(for_s=0.0)["reason"] == "under manual control of ann: given back"


async def test_a_take_that_comes_after_its_withdrawal_takes_nothing() -> None:
    made = await open_gateway()
    made.ask(for_s=0.0, boot="a", seq=1, request_boot="a", request_seq=0)
    made.rig.broker.publish("devices/MG1/ess/take", {**TAKE, "boot": "a", "seq": 0})
    assert made.rig.gateway.authority.manual_control("ess") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"p_mw": "5"},
        {"for_s": -1.0},
        {"for_s": 1e9},
        {"who": ""},
        {"request_boot": "a", "request_seq": 0},
        {"request_seq": 0},
    ],
)
async def test_what_cannot_be_read_takes_nothing(changes: dict[str, Any]) -> None:
    made = await open_gateway()
    made.rig.broker.publish("devices/MG1/ess/take", {**TAKE, **changes})
    assert made.rig.gateway.authority.manual_control("ess") is None
    stats = made.rig.broker.stats
    assert (stats.rejected, stats.callback_errors) == (1, 0)


async def test_the_same_take_is_heard_once() -> None:
    made = await open_gateway()
    made.ask(boot="a", seq=4)
    made.ask(for_s=0.0, boot="a", seq=5)
    made.rig.broker.publish("devices/MG1/ess/take", {**TAKE, "boot": "a", "seq": 4})
    assert made.rig.gateway.authority.manual_control("ess") is None
    (report,) = made.rig.broker.stats.reports
    assert (report.kind, report.what) == ("rejected", "this request was received before, or withdrawn")


async def test_requests_without_a_whole_number_are_each_heard() -> None:
    for number in ({"boot": "a"}, {"seq": 4}, {}):
        made = await open_gateway()
        for _ in range(2):
            assert made.ask(**number)["granted"] is True
        assert made.rig.broker.stats.rejected == 0


async def test_a_request_of_another_environment_is_refused_and_named() -> None:
    made = await open_gateway()
    made.rig.broker.publish("devices/MG1/ess/take", {**TAKE, "env_id": "lab"})
    assert made.rig.gateway.authority.manual_control("ess") is None
    assert made.rig.broker.stats.reports[-1].what == "a request of environment 'lab', not of 'test'"
    assert made.ask(env_id="test")["granted"] is True


async def test_as_many_requests_as_are_remembered_are_heard_once_and_older_ones_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authority_manager, "MAX_HISTORY", 3)
    made = await open_gateway()
    for seq in range(3):
        made.ask(boot="a", seq=seq)
    made.rig.broker.publish("devices/MG1/ess/take", {**TAKE, "boot": "a", "seq": 0})
    assert made.rig.broker.stats.rejected == 1, "the third last"
    made.ask(boot="a", seq=3)
    made.ask(boot="a", seq=0)
    assert made.rig.broker.stats.rejected == 1, "it was forgotten"


async def test_what_another_one_says_of_a_level_is_put_right_once_a_second_and_not_followed() -> None:
    made = await open_gateway("limited")
    made.rig.clock_s += 10.0
    told = {"type": "authority_state", "level": "full", "ceiling": "full", "boot": "other"}

    def put_right(times: int) -> list[Any]:
        made.said.clear()
        for _ in range(times):
            made.rig.broker.publish("devices/MG1/ess/authority_state", told, retain=True)
        right = "what another one said of it was not so"
        return [each["level"] for each in made.said if each.get("reason") == right]

    assert put_right(3) == ["limited"]
    made.rig.clock_s += 1.0
    assert put_right(1) == []
    made.rig.clock_s += 0.125
    assert put_right(2) == ["limited"]
    assert made.rig.gateway.authority.level("ess") == "limited"


async def test_what_an_earlier_run_left_is_taken_before_the_gateway_begins() -> None:
    rig = Rig("full")
    left = {"type": "authority_state", "level": "shadow", "ceiling": "shadow", "demoted": True, "boot": "old"}
    rig.broker.publish("devices/MG1/ess/authority_state", left, retain=True)
    await rig.open()
    assert rig.gateway.authority.ceiling("ess") == "shadow"


async def test_what_an_earlier_run_left_and_nobody_can_read_may_have_been_a_demotion() -> None:
    rig = Rig("full")
    rig.broker.publish("devices/MG1/ess/authority_state", {"level": "god", "boot": "old"}, retain=True)
    await rig.open()
    assert rig.gateway.authority.ceiling("ess") == "shadow"


# -- the manager alone -----------------------------------------------------------------------------

POOR = Evidence("online", True, 0, plausible=1)
GOOD = Evidence("online", True, 4, plausible=4)


class Alone:
    """A manager for two devices, with what is known of them, and who is told of changes."""

    def __init__(
        self,
        level: Level,
        *,
        other: Level = "simulated",
        broker: InMemoryBroker | None = None,
        monotonic: Callable[[], float] = lambda: 50.0,
        band: Any = BAND,
    ) -> None:
        self.evidence = GOOD
        self.changes: list[tuple[str, Level]] = []
        self.said: list[dict[str, Any]] = []
        self.kept: list[bool] = []
        self.broker = broker or InMemoryBroker()
        gateway = GatewayTable(band=band)
        self.manager = AuthorityManager(
            "MG1",
            {
                "ess": DeviceSettings(authority=level, gateway=gateway),
                "pv": DeviceSettings(authority=other, gateway=gateway),
            },
            self.broker,
            MessageStamper("MG1", "test"),
            evidence=lambda name: self.evidence,
            on_change=lambda name, level: self.changes.append((name, level)),
            now=lambda: NOON,
            monotonic=monotonic,
            bounds=lambda name: (SetpointLimits(-1.0, 1.0, 1.0, -1.0, 1.0), None),
            why_no_manual_control=lambda: None,
            may_have_waited=lambda: False,
            hand_back_s=lambda name: None,
        )
        self.broker.subscribe("devices/MG1/ess/authority_state", self.said.append)

    def ask(self, level: Level, **fields: Any) -> bool:
        asked = AuthorityRequest(level=level, **{"who": "ann", "why": "test", **fields})
        return self.manager.request("ess", asked, has_waited=False).granted


async def test_what_is_in_force_at_the_start_is_said_and_kept_where_a_broker_keeps_anything() -> None:
    class Forgetful(InMemoryBroker):
        features: ClassVar[Features] = Features(wildcards=True)

    for broker, is_kept in ((InMemoryBroker(), True), (Forgetful(), False)):
        alone = Alone("full", broker=broker)
        alone.manager.begin()
        (told,) = alone.said
        assert (told["level"], told["ceiling"], told["demoted"]) == ("shadow", "full", False)
        assert (told["granted"], told["reason"]) == (True, "")
        later: list[bool] = []
        broker.subscribe("devices/MG1/ess/authority_state", lambda m, kept=later: kept.append(m.retained))
        assert later == ([True] if is_kept else [])


def test_a_device_that_the_manager_does_not_hold_is_simulated_and_waits_for_nothing() -> None:
    manager = Alone("full").manager
    assert (manager.level("x"), manager.ceiling("x"), manager.waits_for("x")) == (
        "simulated",
        "simulated",
        "",
    )


def test_all_is_simulated_only_if_each_device_is_and_none_is_to_rise() -> None:
    for level, other, is_all in (
        ("simulated", "simulated", True),
        ("emulated", "simulated", False),
        ("simulated", "shadow", False),
    ):
        assert Alone(level, other=other).manager.all_simulated is is_all
    alone = Alone("shadow")
    alone.manager._held["ess"].level = "simulated"
    assert not alone.manager.all_simulated


async def test_it_rises_with_the_evidence_and_says_each_gate_that_it_waits_for_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = Alone("full")
    alone.manager.step = 7
    for evidence in (
        POOR,
        Evidence("online", True, 0, plausible=2),
        Evidence("offline", True, 0),
        Evidence("offline", True, 0),
    ):
        alone.evidence = evidence
        with caplog.at_level(logging.WARNING, "heron_mqtt.authority"):
            alone.manager.rise()
    waits = [
        "gate telemetry: 1 plausible telemetry messages in a row, 4 are needed",
        "gate health: the device is offline, it must be online",
    ]
    assert [told["reason"] for told in alone.said] == waits
    assert alone.manager.waits_for("ess") == waits[-1]
    assert [line.getMessage() for line in caplog.records] == [
        f"MG1/ess: stays at shadow below full: {why}" for why in waits
    ]
    assert alone.changes == []
    alone.evidence = GOOD
    with caplog.at_level(logging.WARNING, "heron_mqtt.authority"):
        for _ in range(4):
            alone.manager.rise()
    assert alone.changes == [("ess", "limited"), ("ess", "full")]
    assert [(told["level"], told["reason"]) for told in alone.said[2:]] == [("limited", ""), ("full", "")]
    assert caplog.records[-1].getMessage() == (
        "MG1/ess: authority limited -> full asked by scenario (the gates have passed): granted"
    )
    assert alone.manager.waits_for("ess") == ""
    assert [(change.at, change.step) for change in alone.manager.history("ess")] == [(NOON, 7)] * 2


async def test_each_request_is_answered_and_a_change_alone_is_told_to_the_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = Alone("emulated")
    with caplog.at_level(logging.WARNING, "heron_mqtt.authority"):
        assert alone.ask("emulated", seq=3, boot="a")
        assert not alone.ask("full", why="")
        assert alone.changes == []
        assert alone.ask("shadow")
    assert alone.changes == [("ess", "shadow")]
    refused = "gate ladder: full is reached from limited, not from emulated"
    keys = ("requested", "granted", "reason", "request_seq", "request_boot", "level")
    assert [tuple(told.get(key) for key in keys) for told in alone.said] == [
        ("emulated", True, "asked by ann: test", 3, "a", "emulated"),
        ("full", False, refused, None, None, "emulated"),
        ("shadow", True, "asked by ann: test", None, None, "shadow"),
    ]
    assert [line.getMessage() for line in caplog.records] == [
        "MG1/ess: authority emulated -> emulated asked by ann (test): granted",
        f"MG1/ess: authority emulated -> full asked by ann (no reason given): {refused}",
        "MG1/ess: authority emulated -> shadow asked by ann (test): granted",
    ]
    assert [change.step for change in alone.manager.history("ess")] == [0, 0, 0], "before the first step"


def test_a_band_of_the_scenario_is_what_limited_needs() -> None:
    assert Alone("emulated").ask("limited")
    assert not Alone("emulated", band=None).ask("limited")


async def test_a_level_that_an_earlier_run_left_lower_is_in_force_and_told_to_the_gateway() -> None:
    for level, kept, changes in (
        ("emulated", "simulated", [("ess", "simulated")]),
        ("emulated", "emulated", []),
        ("full", "shadow", []),  # it begins there in any case
    ):
        alone = Alone(level)  # type: ignore[arg-type]
        left = {"type": "authority_state", "level": kept, "ceiling": kept, "demoted": True, "boot": "old"}
        alone.broker.publish("devices/MG1/ess/authority_state", left, retain=True)
        await alone.manager.open()
        assert alone.manager.ceiling("ess") == kept
        assert alone.changes == changes


async def test_for_how_long_a_hand_holds_is_never_less_than_nothing() -> None:
    now_s = [50.0]
    alone = Alone("emulated", monotonic=lambda: now_s[0])
    asked = Manual("ann", "", 0.5, 0.25, 0.0, (None, None))
    assert alone.manager.manual_left_s("ess", asked) == 0.0
    alone.manager.take("ess", Take(p_mw=0.5, q_mvar=0.25, for_s=0.5, who="ann"), has_waited=False)
    assert alone.said[-1]["reason"] == "under manual control of ann: 0.5 MW for 0.5 s"
    assert alone.manager.manual_left_s("ess", asked) == 0.5
    for other in ((0.5, 0.0), (0.25, 0.25)):
        assert alone.manager.manual_left_s("ess", Manual("ann", "", *other, 0.0, (None, None))) == 0.0
    told = {"ess": SetpointRequest(0.1, 0.1), "pv": SetpointRequest(0.2)}
    replaced, controlled = alone.manager.override(told)
    assert replaced == {"ess": SetpointRequest(0.5, 0.25, asked_p_mw=0.5), "pv": SetpointRequest(0.2)}
    assert controlled.keys() == {"ess"}
    assert alone.manager.override({"pv": SetpointRequest(0.2)}) == ({"pv": SetpointRequest(0.2)}, {})
    times = iter((50.4, 50.6))
    alone.manager._monotonic = lambda: next(times)
    assert alone.manager.manual_left_s("ess", asked) == 0.0, "it ends while it is looked at"
    now_s[0] += 5.0
    alone.manager._monotonic = lambda: now_s[0]
    alone.ask("emulated")
    assert (alone.said[-1]["manual_by"], alone.said[-1]["manual_s"]) == ("ann", 0.0), "not looked at yet"


async def test_a_hand_that_the_end_of_the_environment_ends_is_told_with_why() -> None:
    alone = Alone("emulated")
    alone.manager.take("ess", Take(p_mw=0.5, for_s=1.0, who="ann"), has_waited=False)
    alone.manager.end_manual_control("the environment is lost")
    assert alone.said[-1]["reason"] == "no longer under manual control of ann: the environment is lost"
    count = len(alone.said)
    alone.manager.end_manual_control("the environment is lost")
    assert (len(alone.said), alone.manager.manual_control("ess")) == (count, None)
