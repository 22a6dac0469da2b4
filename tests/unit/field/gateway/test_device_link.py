"""DeviceLink: what the gateway believes of a device, and what it refuses, names and survives."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
from heron_mqtt.field.gateway.plausibility import LATE
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import MessageStamper
from support.field_rig import LEASE_S, NOON, STALE_S, OpenMemoryBroker, Rig, follow, nothing


async def test_health_goes_by_what_the_device_says_and_how_long_it_is_silent() -> None:
    rig = await Rig().open(birth=False)
    assert rig.link.health == "offline"
    rig.say("status", state="online", run="none")
    assert rig.link.health == "online"
    assert rig.link.age_s is None
    rig.clock_s += STALE_S
    assert rig.link.health == "online"
    rig.clock_s += 0.1
    assert rig.link.health == "stale"
    rig.measure()
    assert (rig.link.health, rig.link.age_s) == ("online", 0.0)
    for word in ("fault", "offline", "online"):
        rig.say("status", state=word, run="none")
        assert rig.link.health == word
    assert rig.link.age_s is None, "what it measured before it was gone says nothing of now"
    rig.measure()
    rig.clock_s += STALE_S + 1
    assert rig.link.health == "stale"
    assert rig.link.age_s == pytest.approx(STALE_S + 1)


async def test_how_late_a_change_is_told_goes_by_how_often_and_how_old_a_device_measures() -> None:
    rig = await Rig().open()
    assert rig.link.shows_within_s == 0.0
    for _ in range(2):
        rig.clock_s += 5.0
        rig.measure()
    assert rig.link.shows_within_s == pytest.approx(5.0)
    for age_s in (1.0, 2.0, 3.0):  # the same measurement, told again
        rig.clock_s += 1.0
        rig.measure(age_s=age_s)
    assert rig.link.shows_within_s == pytest.approx(5.0)
    rig.clock_s += 1.0
    rig.measure(age_s=0.5)
    assert rig.link.shows_within_s == pytest.approx(4.0)
    rig.answer = nothing
    rig.step(0.02)
    assert rig.gateway.shows_within_s() == pytest.approx(4.5)
    rig.say("status", state="fault", reason="broken")
    assert rig.gateway.shows_within_s() == pytest.approx(0.5), "what it measures will not show it"
    rig.gateway.close()


@pytest.mark.parametrize(("every_s", "hand_back_s"), [(1.0, 5.0), (6.0, 6.5)])
async def test_the_answer_to_a_demotion_says_how_long_the_device_may_take_to_show_its_release(
    every_s: float, hand_back_s: float
) -> None:
    rig = await Rig().open()
    told: list[Received] = []
    rig.broker.subscribe("devices/MG1/ess/authority_state", told.append)
    for _ in range(2):
        rig.clock_s += every_s
        rig.measure()
    rig.ask("limited")
    assert "hand_back_s" not in told[-1], "it is driven"
    rig.answer = nothing
    rig.step(0.02)
    rig.ask("shadow")
    assert told[-1]["hand_back_s"] == pytest.approx(hand_back_s)
    rig.gateway.close()


async def test_an_answer_is_telemetry_that_acknowledges_the_newest_setpoint() -> None:
    rig = await Rig().open()
    rig.answer = nothing
    rig.step()
    (setpoint,) = rig.sent
    rig.measure()
    assert rig.link.answer() is None
    rig.measure(ack={**setpoint, "boot": "somebody else's"})
    assert rig.link.answer() is None
    rig.measure(ack=setpoint)
    assert rig.link.answer() is not None


async def test_an_acknowledgement_of_what_was_never_sent_is_none() -> None:
    """A gateway that restarted counts from 0 again; a device without boots still names its old numbers."""
    rig = await Rig().open()
    rig.answer = nothing
    rig.step()
    rig.say("telemetry", p_mw=0.01, ack_seq=500)
    assert rig.link.answer() is None
    rig.say("telemetry", p_mw=0.01, ack_seq=rig.sent[0]["seq"])
    assert rig.link.answer() is not None


async def test_what_was_said_before_a_setpoint_never_answers_it_though_it_names_its_number() -> None:
    rig = await Rig().open()
    rig.answer = nothing
    rig.step()
    rig.say("telemetry", p_mw=0.01, ack_seq=rig.sent[0]["seq"] + 1)
    rig.step()
    assert rig.link.answer() is None
    rig.measure(ack=rig.sent[1])
    assert rig.link.answer() is not None


async def test_a_silent_device_is_waited_for_once_and_is_back_with_its_late_answer() -> None:
    rig = await Rig().open()
    rig.say("status", state="online", run="none")
    rig.answer = nothing
    assert rig.step() == 1
    assert rig.fallback == "no telemetry before the deadline"
    assert rig.step() == 0
    assert rig.gateway.answered(), "it is not waited for again"
    assert rig.fallback == "device silent"
    rig.clock_s += 0.5
    rig.measure(ack=rig.sent[-1])
    assert rig.link.stats.late == 1
    rig.answer = follow
    assert rig.step() == 0
    assert rig.fallback is None
    assert (rig.link.stats.fallbacks, rig.link.stats.longest_fallback) == (2, 2)


async def test_a_silent_device_is_back_with_its_birth() -> None:
    rig = await Rig().open()
    rig.answer = nothing
    rig.say("status", state="online", run="none")
    rig.step()
    rig.boot = "b2"
    rig.say("status", state="online", run="none")
    rig.answer = follow
    rig.step()
    assert rig.fallback == "device has not measured since it was born again"
    rig.measure()
    rig.step()
    assert rig.fallback is None


async def test_a_device_that_restarts_before_its_answer_is_asked_for_no_more_than_its_charge() -> None:
    """Its model stands in for the step, and charges; the device, empty, has done nothing."""

    def restart(rig: Rig, setpoint: dict[str, Any]) -> None:
        rig.boot, rig.p_mw, rig.soc, rig.answer = "b2", 0.0, 0.1, follow
        rig.say("status", state="online", run="none")
        rig.measure()

    rig = await Rig().open()
    rig.answer = restart
    rig.step(-0.05)
    assert rig.fallback is not None
    rig.step(0.02)
    assert rig.sent[-1]["heard_boot"] == "b2"
    assert rig.sent[-1]["p_mw"] == 0.0, "from its own state of charge, not from its model's"


@pytest.mark.parametrize("word", ["fault", "offline"])
async def test_a_device_that_says_it_cannot_is_not_waited_for(word: str) -> None:
    rig = await Rig().open()
    rig.say("status", state="online", run="none")
    rig.answer = lambda rig, setpoint: rig.say("status", state=word, run="none")
    assert rig.step() == 0
    assert rig.fallback == f"device {word}"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"p_mw": 20.0}, "outside the nameplate -0.05 .. 0.05 MW by more than 10%: wrong unit or sign?"),
        ({"p_mw": -0.06}, "outside the nameplate"),
        ({"q_mvar": 0.06}, "q_mvar = 0.06 is beyond the apparent power of 0.05 MVA"),
        ({"p_mw": "?"}, "p_mw: Input should be a valid number"),
        ({"sender": "MG2/ess"}, "sender 'MG2/ess' publishes on the channel of MG1/ess"),
    ],
)
async def test_telemetry_that_cannot_be_is_refused_and_named(fields: dict[str, Any], told: str) -> None:
    rig = await Rig().open()
    rig.say("status", state="online", run="none")
    rig.measure()
    rig.answer = lambda rig, setpoint: rig.measure(ack=setpoint, **fields)
    rig.clock_s += 1.0
    rig.step()
    assert rig.link.stats.refused == 1
    assert rig.link.plausible_in_a_row == 0
    (report,) = [r for r in rig.broker.stats.reports if r.kind == "rejected"]
    assert report.where == "devices/MG1/ess/telemetry"
    assert told in report.what
    assert rig.link.age_s == 1.0, "what is refused is not news"
    assert rig.fallback == "its telemetry was refused"


async def test_a_status_in_another_name_is_refused() -> None:
    rig = await Rig().open()
    rig.say("status", state="offline", sender="MG9/ess")
    assert rig.link.health == "online"
    assert "publishes on the channel of MG1/ess" in rig.broker.stats.reports[-1].what


async def test_a_birth_that_promises_less_than_the_scenario_is_named() -> None:
    rig = await Rig().open()
    rig.say("status", state="online", p_min_mw=-0.05, p_max_mw=0.05)
    assert rig.reports == []
    rig.say("status", state="online", p_min_mw=-0.05, p_max_mw=0.03)
    assert "its birth says -0.05 .. 0.03 MW, the scenario -0.05 .. 0.05 MW" in rig.reports[0]


@pytest.mark.parametrize("hours", [-7, 7])
async def test_a_clock_hours_off_is_named_once_and_harmless(hours: int) -> None:
    rig = await Rig().open()
    rig.say("status", state="online", run="none")
    wrong = (NOON + timedelta(seconds=rig.clock_s, hours=hours)).isoformat()
    rig.answer = lambda rig, setpoint: rig.measure(ack=setpoint, sent_at=wrong)
    for _ in range(3):
        rig.step()
        assert rig.fallback is None
        assert rig.link.age_s == 0.0
    (report,) = rig.reports
    assert "its clock says 2026-01-01" in report


@pytest.mark.parametrize("measures", [False, True])
async def test_a_displaced_program_that_speaks_once_more_keeps_no_successor_from_being_driven(
    measures: bool,
) -> None:
    """It stood still, and reads only afterwards that it was displaced; its successor holds the name."""
    rig = await Rig().open()
    rig.say("owner", retain=True, state="holds", term=2)
    rig.measure()
    rig.step(0.02)
    for old in ("old one", "older one"):
        rig.boot = old
        rig.say("status", state="fault" if measures else "online", reason="the connection was lost")
        if measures:
            rig.measure()
        rig.boot = "b1"
        rig.say("status", state="online", run="none")
        for _ in range(LATE):
            rig.measure()
        await asyncio.sleep(0.01)  # who holds the name is looked up
        rig.measure()
        rig.step(0.02)
        assert rig.fallback is None
        rig.boot = old
        rig.say("status", state="offline", run="none")
        rig.boot = "b1"
        rig.step(0.02)
        assert rig.fallback is None, "its will says nothing of the successor"
    rig.gateway.close()


async def test_two_devices_of_one_name_are_named_and_one_that_restarts_is_not() -> None:
    rig = await Rig().open()
    rig.measure()
    rig.boot = "b2"
    rig.say("status", state="online", run="none")
    rig.measure()
    rig.measure()
    assert rig.reports == []
    rig.boot = "b1"
    rig.measure(p_mw=0.03)
    assert rig.reports == [], "one message of an earlier life may be late"
    assert rig.link.telemetry is not None
    assert rig.link.telemetry.p_mw != 0.03
    rig.measure()
    assert rig.reports == [
        "two devices publish under this name: nothing is sent; end one, or give each its own"
    ]
    assert rig.link.health == "fault"
    rig.boot = "b2"
    rig.step()
    assert rig.sent == []
    rig.clock_s += STALE_S + 0.1
    rig.measure()
    rig.step()
    assert len(rig.sent) == 1, "the other one is gone"


async def test_a_flood_is_bounded_named_once_and_delays_no_other_device() -> None:
    rig = await Rig().open()
    other = DeviceLink("MG1", "pv", rig.broker, lease_s=LEASE_S, on_change=lambda: None)
    await other.open()
    rig.clock_s += 1.0  # the first telemetry was of the second before
    begun = time.perf_counter()
    for number in range(10_000):
        rig.measure()
        if number == 5_000:
            rig.broker.publish("devices/MG1/pv/telemetry", {"type": "telemetry", "p_mw": 0.01})
            assert other.telemetry is not None, "it has its turn in the middle of the flood"
    took_s = time.perf_counter() - begun
    assert rig.link.stats.telemetry == 100
    assert rig.link.stats.flooded == 9_900
    assert rig.reports == ["more than 100 telemetry a second; the rest is dropped"]
    assert took_s < 5.0, "less than half a millisecond each"
    rig.clock_s += 1.0
    rig.measure()
    assert rig.link.stats.telemetry == 101


async def test_retained_telemetry_is_not_taken_for_fresh() -> None:
    rig = Rig()
    rig.say("telemetry", retain=True, p_mw=0.03, ack_seq=0)
    await rig.open(measure=False)
    rig.answer = nothing
    assert rig.link.telemetry is None
    rig.step()
    assert rig.link.answer() is None
    assert rig.fallback is not None
    assert "is retained: its age is unknown" in rig.reports[0]


async def test_a_device_that_nobody_hears_is_named_with_its_topic() -> None:
    rig = await Rig().open(measure=False)
    rig.answer = nothing
    rig.step()
    assert rig.fallback == "device has not measured anything yet"
    rig.clock_s += STALE_S
    rig.step()
    assert rig.reports == []
    rig.clock_s += 0.1
    rig.step()
    rig.step()
    (report,) = rig.reports
    assert "no usable message on devices/MG1/ess/telemetry for 5 s" in report
    assert rig.broker.stats.reports[-1].where == "MG1/ess"


async def test_a_setpoint_topic_that_nobody_listens_to_is_named() -> None:
    rig = await Rig().open()
    rig.answer = nothing
    for _ in range(8):
        rig.step()
        rig.clock_s += 1.0
        rig.measure()
    (report,) = rig.reports
    assert "has acknowledged no setpoint for 5 s" in report
    assert "devices/MG1/ess/setpoint" in report


async def test_a_renewal_extends_the_lease_and_is_a_setpoint_of_the_same_power() -> None:
    rig = await Rig().open()
    link, stamper = rig.link, MessageStamper("MG1", "test")
    link.send(SetpointRequest(0.02), stamper, lease_s=LEASE_S, dt_s=900.0, episode=1, step=0)
    link.renew(stamper, lease_s=LEASE_S, episode=1, step=0)
    first, second = rig.sent
    assert "renewal" not in first or not first["renewal"]
    assert (second["renewal"], second["p_mw"], second["lease_s"]) == (True, 0.02, LEASE_S)
    assert second["seq"] == first["seq"] + 1
    rig.measure(ack=second)
    assert link.answer() is not None, "who took the renewal has taken the setpoint"
    link.forget_setpoint()
    link.renew(stamper, lease_s=LEASE_S, episode=1, step=0)
    assert len(rig.sent) == 2


async def test_a_link_that_is_closed_hears_nothing() -> None:
    broker = OpenMemoryBroker()
    link = DeviceLink("A", "d", broker, lease_s=1.0, on_change=lambda: None, settings=GatewayTable())
    await link.open()
    link.close()
    broker.publish("devices/A/d/telemetry", {"type": "telemetry", "p_mw": 0.0})
    assert link.telemetry is None


async def test_a_field_that_cannot_be_read_harms_only_itself() -> None:
    rig = await Rig().open()
    rig.answer = lambda rig, setpoint: rig.measure(ack=setpoint, p_mw=0.02, soc=55.0, safe="?")
    rig.step()
    assert (rig.fallback, rig.p_done_mw) == (None, 0.02)
    assert rig.link.telemetry is not None
    assert rig.link.telemetry.soc is None
    (report,) = rig.reports
    assert "left out what cannot be read: soc" in report
    assert "safe" in report


async def test_evidence_begins_at_nothing() -> None:
    rig = await Rig().open(birth=False)
    assert rig.link.plausible_in_a_row == 0
    rig.measure()
    assert rig.link.plausible_in_a_row == 1


@pytest.mark.parametrize(("kind", "sent"), [("battery", 1), (None, 1), ("pv", 0)])
async def test_a_device_whose_birth_says_another_kind_is_sent_nothing(kind: str | None, sent: int) -> None:
    rig = await Rig().open(birth=False)
    rig.link._lives._kind = "battery"
    said = {} if kind is None else {"kind": kind}
    rig.say("status", state="online", run="none", **said)
    rig.measure()
    rig.step(0.02)
    assert len(rig.sent) == sent


async def test_every_setpoint_and_renewal_echoes_the_newest_telemetry() -> None:
    rig = await Rig().open()
    heard = rig._seq
    rig.step()
    assert (rig.sent[-1]["heard_boot"], rig.sent[-1]["heard_seq"]) == ("b1", heard)
    newest = rig._seq
    rig.gateway._renew()
    assert (rig.sent[-1]["renewal"], rig.sent[-1]["heard_seq"]) == (True, newest)
    assert newest == heard + 1, "the answer to the setpoint"


async def test_a_device_that_does_not_number_its_telemetry_gets_setpoints_only_while_it_speaks() -> None:
    rig = await Rig().open(measure=False)
    rig.answer = nothing
    rig.broker.publish("devices/MG1/ess/telemetry", {"type": "telemetry", "p_mw": 0.0})
    rig.step()
    assert "heard_seq" not in rig.sent[-1]
    rig.clock_s += LEASE_S + 0.1
    rig.step()
    assert len(rig.sent) == 1
    assert rig.fallback == "device silent for 3.1 s, longer than its lease"


async def test_telemetry_that_was_held_decides_nothing() -> None:
    """What an outbox brings late may come after a birth, from this boot of the device or an earlier one."""
    rig = await Rig().open()
    heard = rig._seq
    before = (rig.link.telemetry, rig.link.age_s, rig.link.reborn)
    rig.clock_s += LEASE_S + 0.1
    for boot in ("b1", "b0", "older"):
        for n in range(100):
            told = {"type": "telemetry", "sender": "MG1/ess", "boot": boot, "seq": 50 + n, "p_mw": 0.03}
            rig.broker.publish("devices/MG1/ess/telemetry", {**told, "stopped": True, "held_s": 60.0 - n / 2})
    assert rig.link.stats.held == 300
    assert (rig.link.telemetry, rig.link.reborn) == (before[0], before[2])
    assert rig.link.health != "fault", "they are not two devices"
    assert rig.link.stats.flooded == 0
    assert not rig.link.says_stopped
    rig.step()
    assert rig.sent == [], "nothing is sent on what was"
    assert rig.fallback is not None
    assert "longer than its lease" in rig.fallback
    rig.measure()
    rig.step()
    assert (rig.sent[-1]["heard_boot"], rig.sent[-1]["heard_seq"]) == ("b1", rig._seq - 1)
    assert heard < rig._seq


async def test_telemetry_that_waited_at_the_broker_decides_nothing() -> None:
    """A session that the broker kept brings it unchanged: only that it is late tells it from news."""
    rig = await Rig().open()
    rig.clock_s += LEASE_S + 0.1
    told = {"type": "telemetry", "sender": "MG1/ess", "boot": "b1", "seq": 900, "p_mw": 0.03}
    rig.link._on_telemetry(Received(told, "devices/MG1/ess/telemetry", late=True))
    assert rig.link.stats.held == 1
    rig.step()
    assert rig.sent == []
    rig.link._on_telemetry(Received({**told, "seq": 901}, "devices/MG1/ess/telemetry"))
    rig.step()
    assert rig.sent[-1]["heard_seq"] == 901


HELD = {"state": "held", "holder": "MG1", "lease_s": LEASE_S}


@pytest.mark.parametrize(
    ("told", "is_taken"),
    [
        ({**HELD, "holder_boot": "dead"}, True),
        ({**HELD, "holder_boot": "dead too", "boot": None}, True),
        ({**HELD, "holder_boot": "another"}, False),
        ({**HELD}, False),
        ({**HELD, "holder_boot": "dead", "holder": "MG2"}, False),
        ({**HELD, "holder_boot": "dead", "holder": None}, False),
        ({**HELD, "holder_boot": "dead", "state": "free"}, False),
        ({**HELD, "holder_boot": "dead", "env_id": "elsewhere"}, False),
        ({**HELD, "holder_boot": "dead", "boot": "an earlier life of the device"}, False),
        (None, False),
    ],
)
async def test_a_lease_is_taken_from_an_own_dead_predecessor_only(
    told: dict[str, Any] | None, is_taken: bool
) -> None:
    rig = Rig(predecessors=frozenset({"dead", "dead too"}))
    if told is not None:
        rig.say("lease", retain=True, **told)  # the broker has kept it
    await rig.open()
    rig.step()
    assert rig.sent[-1].get("take_over", False) is is_taken


async def test_nothing_is_taken_any_more_once_the_lease_is_ours_or_somebody_elses() -> None:
    rig = Rig(predecessors=frozenset({"dead"}))
    rig.say("lease", retain=True, **HELD, holder_boot="dead")
    await rig.open()
    rig.answer = nothing
    for _ in range(2):  # the first one may be lost
        rig.step()
    ours = rig.sent[-1]["boot"]
    for holder_boot in (ours, "taken by hand", ours):
        rig.say("lease", retain=True, **HELD, holder_boot=holder_boot)
        rig.step()
    assert [setpoint.get("take_over", False) for setpoint in rig.sent] == [True, True, False, False, False]


async def test_how_often_a_device_was_born_again_is_counted() -> None:
    rig = await Rig().open()
    assert rig.link.reborn == 0
    rig.boot = "b2"
    rig.say("status", state="online", run="none")
    rig.measure()
    assert rig.link.reborn == 1


# -- the link alone --------------------------------------------------------------------------------

TELEMETRY, STATUS = "devices/MG1/ess/telemetry", "devices/MG1/ess/status"


class Alone:
    """A link with a clock of the test, without a gateway; what it sends and what it tells."""

    def __init__(self, clock_s: float = 1000.0, **options: Any) -> None:
        self.clock_s = clock_s
        self.changes = 0
        self.sent: list[dict[str, Any]] = []
        self.broker = OpenMemoryBroker()
        self.broker.subscribe("devices/MG1/ess/setpoint", self.sent.append)
        self.stamper = MessageStamper("MG1", "default", boot="g1")
        self.link = DeviceLink(
            "MG1",
            "ess",
            self.broker,
            lease_s=LEASE_S,
            on_change=self._on_change,
            monotonic=lambda: self.clock_s,
            **options,
        )

    def _on_change(self) -> None:
        self.changes += 1

    async def open(self) -> Alone:
        await self.link.open()
        return self

    def measure(self, **fields: Any) -> None:
        """Say telemetry; without a sender the broker drops no repeated number."""
        self.broker.publish(TELEMETRY, {"type": "telemetry", "p_mw": 0.0, **fields})

    def status(self, state: str = "online", *, retained: bool = False, **fields: Any) -> None:
        told = {"type": "status", "state": state, **fields}
        self.link._on_status(Received(told, STATUS, retained=retained))

    def send(self, p_mw: float = 0.02) -> dict[str, Any]:
        wanted = SetpointRequest(p_mw)
        self.link.send(wanted, self.stamper, lease_s=LEASE_S, dt_s=900.0, episode=1, step=0)
        return self.sent[-1]

    def ack(self, setpoint: dict[str, Any], **fields: Any) -> None:
        self.measure(ack_seq=setpoint["seq"], ack_boot=setpoint["boot"], **fields)

    @property
    def reports(self) -> list[str]:
        return [report.what for report in self.broker.stats.reports]


async def test_of_a_device_that_was_never_heard_nothing_is_known() -> None:
    link = (await Alone().open()).link
    assert (link.health, link.age_s, link.is_fresh, link.is_born, link.was_heard) == (
        *("offline", None, False, False, False),
    )
    assert (link.measurements, link.plausible_in_a_row, link.reborn, link.round_trip_s) == (0, 0, 0, None)
    assert (link.says_stopped, link.awaits_rebirth_telemetry, link.takes_up_again()) == (False, False, False)
    assert (link.expects_answer, link.can_prove_age, link.holds_setpoint) == (True, False, False)
    assert (link.answer(), link.unacknowledged(), link.was_refused) == (None, None, False)
    assert not link.is_ready(None, None)
    assert link.why_not_sent == "device offline"


async def test_what_is_waited_for_is_said_one_after_the_other() -> None:
    alone = await Alone().open()
    link = alone.link
    assert link.waits_for(4) == f"nothing on {TELEMETRY}"
    alone.measure()
    assert link.waits_for(4) == f"no birth on {STATUS}, retained"
    alone.status()
    assert link.waits_for(4) == f"1 of 4 plausible messages in a row on {TELEMETRY}"
    alone.clock_s += STALE_S + 0.1
    assert link.waits_for(4) == "it is stale"
    alone.measure()
    assert link.waits_for(4) == f"2 of 4 plausible messages in a row on {TELEMETRY}"
    alone.status("fault")
    assert link.waits_for(4) == f"no birth on {STATUS}, retained"


async def test_a_birth_that_the_broker_kept_is_not_heard_live_and_telemetry_is() -> None:
    alone = await Alone().open()
    link = alone.link
    alone.status(retained=True)
    assert (link.is_born, link.was_heard) == (True, False)
    alone.status("offline", retained=True)
    assert link.health == "offline"
    alone.status()
    assert link.was_heard
    alone.status("offline", retained=True)
    assert link.health == "online", "what it says now counts for more"
    link.on_reconnect()
    assert not link.was_heard
    alone.status("offline", retained=True)
    assert link.health == "offline"
    alone.measure()
    assert link.was_heard


@pytest.mark.parametrize("last_word", ["fault", "offline"])
async def test_what_a_displaced_program_of_the_device_says_late_takes_no_birth_back(last_word: str) -> None:
    alone = await Alone().open()
    link = alone.link
    alone.status(retained=True, boot="paused")  # its program, which is paused, and then displaced
    alone.status(boot="new")
    alone.measure(boot="new", seq=0)
    alone.status(last_word, boot="paused")  # it goes on, and has read nothing yet
    alone.status(boot="paused")
    assert link.is_born
    alone.clock_s += STALE_S + 0.1  # two have spoken in its name: for a while it is not driven
    alone.measure(boot="new", seq=1)
    assert (link.is_born, link.health, link.why_not_sent) == (True, "online", None)
    alone.status(last_word, boot="new")
    assert not link.is_born
    alone.status(boot="new")
    alone.status("offline")  # a will names no boot
    assert not link.is_born


async def test_a_device_is_ready_where_it_follows_no_episodes_or_is_in_this_one() -> None:
    alone = await Alone().open()
    for state, run, episode, is_ready in (
        ("online", None, None, True),
        ("online", "r", 2, True),
        ("online", "r", 1, False),
        ("online", "q", 2, False),
        ("fault", None, None, False),
    ):
        alone.status(state, run=run, episode=episode)
        assert alone.link.is_ready("r", 2) is is_ready, (state, run, episode)


async def test_telemetry_is_fresh_to_the_last_moment_by_the_age_that_the_device_said() -> None:
    alone = await Alone().open()
    alone.measure(age_s=2.0)
    assert (alone.link.age_s, alone.link.is_fresh) == (2.0, True)
    alone.clock_s += STALE_S - 2.0
    assert (alone.link.age_s, alone.link.is_fresh) == (STALE_S, True)
    alone.clock_s += 0.125
    assert not alone.link.is_fresh


async def test_a_measurement_that_is_only_repeated_counts_once() -> None:
    alone = await Alone(clock_s=0.0).open()
    counts = []
    for clock_s, age_s in (
        (0.0, 0.0),
        (0.05, 0.0),  # within what the way may have taken
        (1.0, 1.0),
        (1.0, 0.9),
        (2.0, 1.9),
        (2.0, None),
        (2.0, None),  # it does not say: each is news
    ):
        alone.clock_s = clock_s
        alone.measure(**({} if age_s is None else {"age_s": age_s}))
        counts.append((alone.link.measurements, alone.link.plausible_in_a_row))
    assert counts == [(n, n) for n in (1, 1, 1, 2, 2, 3, 4)]
    assert alone.link.stats.telemetry == 7


async def test_telemetry_of_another_environment_is_refused_and_named() -> None:
    alone = await Alone().open()
    for env_id, telemetry in (("default", 1), (None, 2), ("lab", 2)):
        alone.measure(env_id=env_id)
        assert alone.link.stats.telemetry == telemetry
    assert alone.reports == ["telemetry of environment 'lab', not of 'default'"]
    assert alone.link.was_refused
    alone.status("fault", env_id="lab")
    assert alone.link.status is None
    assert alone.reports[-1] == "status of environment 'lab', not of 'default'"


async def test_a_device_that_speaks_with_a_new_boot_is_born_again_and_taken_up_once() -> None:
    alone = await Alone().open()
    link = alone.link
    alone.measure(boot="b1", seq=1)
    for fields in ({"boot": "b1"}, {"boot": "b1", "seq": 2}, {}):  # a message without a boot tells of none
        alone.measure(**fields)
        assert (link.reborn, link.takes_up_again()) == (0, False)
    alone.send()
    assert link.plausible_in_a_row == 2
    alone.measure(boot="b2", seq=1)
    assert (link.reborn, link.plausible_in_a_row, link.holds_setpoint) == (1, 1, False)
    assert [link.takes_up_again() for _ in range(2)] == [True, False]
    alone.status(boot="b3")
    assert (link.reborn, link.awaits_rebirth_telemetry, link.telemetry) == (2, True, None)
    assert not link.takes_up_again(), "it has not measured yet"
    assert link.why_not_sent == "device has not measured since it was born again"
    alone.status("fault", boot="b2")
    assert link.is_born, "what an earlier life says late is of that one"
    alone.measure(boot="b3")
    assert link.takes_up_again()


async def test_telemetry_that_is_not_newer_than_the_newest_does_not_count() -> None:
    alone = await Alone().open()
    alone.measure(boot="b1", seq=4, p_mw=0.01)
    alone.send()
    heard_at = alone.clock_s
    replayed = [{"boot": "b1", "seq": seq} for seq in (4, 3, 0, 4)]
    for number in (*replayed, {}, {"boot": "b1"}, {"seq": 9}):  # the device itself is silent
        alone.clock_s += 0.25
        alone.measure(**number, p_mw=0.03, stopped=True, ack_boot="g1", ack_seq=0)
    link = alone.link
    assert link.stats.refused == 7
    assert (link.age_s, link.measurements, link.stats.telemetry) == (alone.clock_s - heard_at, 1, 1)
    assert (link.answer(), link.says_stopped, alone.send()["heard_seq"]) == (None, False, 4)
    assert link.telemetry is not None
    assert link.telemetry.p_mw == 0.01
    assert alone.reports == ["telemetry that is not newer than the newest does not count"]
    alone.measure(boot="b1", seq=5, p_mw=0.02)
    assert (link.age_s, link.telemetry.p_mw, alone.send()["heard_seq"]) == (0.0, 0.02, 5)
    alone.measure(boot="b2", seq=0, p_mw=0.03)
    assert (link.telemetry.p_mw, alone.send()["heard_seq"]) == (0.03, 0), "it was started again"


async def test_telemetry_of_an_earlier_life_and_what_the_broker_kept_are_counted() -> None:
    alone = await Alone().open()
    for boot in ("b1", "b2", "b1"):
        alone.measure(boot=boot, seq=1)
    alone.link.close()
    alone.broker.publish(TELEMETRY, {"type": "telemetry", "p_mw": 0.01, "boot": "b2", "seq": 2}, retain=True)
    await alone.link.open()
    assert (alone.link.stats.telemetry, alone.link.stats.refused) == (2, 2)


async def test_the_will_of_an_earlier_life_says_nothing_of_the_present_one() -> None:
    """It comes when the connection of a paused program is lost at last; its successor is long there."""
    alone = await Alone().open()
    for boot in ("b1", "b2"):
        alone.status("online", boot=boot)
        alone.measure(boot=boot, seq=1)
    for gone in ("b1", "b0"):
        alone.status("offline", boot=gone)
        assert (alone.link.health, alone.link.reborn, alone.link._plausible.is_contested) == (
            "online",
            1,
            False,
        )
    alone.status("offline", boot="b2")
    assert alone.link.health == "offline"
    alone.status("online", boot="b2")
    alone.status("offline")
    assert alone.link.health == "offline", "one that names no start counts"


async def test_only_telemetry_with_a_boot_and_a_number_can_be_echoed() -> None:
    for fields, echo in (
        ({}, (None, None)),
        ({"boot": "b1"}, (None, None)),
        ({"seq": 4}, (None, None)),
        ({"boot": "b1", "seq": 0}, ("b1", 0)),
    ):
        alone = await Alone().open()
        alone.measure(**fields)
        assert alone.link.can_prove_age is (echo != (None, None))
        told = alone.send()
        assert (told.get("heard_boot"), told.get("heard_seq")) == echo
        assert told.get("take_over", False) is False
        assert told["q_mvar"] == 0.0


async def test_an_answer_counts_once_with_the_time_that_it_took() -> None:
    alone = await Alone().open()
    link = alone.link
    first = alone.send()
    for waited_s in (0.25, 0.5):
        alone.clock_s = 1000.0 + waited_s
        assert link.waited_s == waited_s
        alone.ack(first)
    assert (link.round_trip_s, link.stats.round_trip_s) == (0.25, [0.25])
    second = alone.send()
    assert link.round_trip_s is None
    alone.measure()
    alone.clock_s += 2.0
    alone.ack(second)
    assert link.stats.round_trip_s == [0.25, 2.0]
    assert link.stats.late == 0


async def test_a_late_answer_ends_the_row_of_those_without_one() -> None:
    alone = await Alone().open()
    link = alone.link
    first = alone.send()
    link.give_up()
    assert not link.expects_answer
    alone.send()
    link.give_up()
    alone.ack(first)
    assert (link.stats.late, link.expects_answer) == (0, False), "the newest one that was given up counts"
    alone.clock_s += 1.0
    alone.ack(alone.sent[-1])
    assert (link.stats.late, link.expects_answer, link.stats.round_trip_s) == (1, True, [])
    alone.ack(alone.sent[-1])
    assert (link.stats.late, link.stats.round_trip_s) == (1, [])
    alone.clock_s += 2 * STALE_S
    alone.measure()
    link.watch()
    assert alone.reports == [], "it has acknowledged"


async def test_setpoints_without_an_answer_are_named_after_the_time_for_staleness() -> None:
    alone = await Alone().open()
    alone.send()
    alone.link.give_up()
    for passed_s, is_named in ((0.1, False), (STALE_S, False), (STALE_S + 0.1, True)):
        alone.clock_s = 1000.0 + passed_s
        alone.measure()
        alone.link.watch()
        assert (len(alone.reports) == 1) is is_named, passed_s
    assert alone.reports == [
        "it measures but has acknowledged no setpoint for 5 s: does it subscribe to "
        "devices/MG1/ess/setpoint, and publish ack_seq? its measurements are used meanwhile"
    ]


async def test_what_a_device_measures_without_an_answer_counts_while_it_is_online_and_fresh() -> None:
    alone = await Alone().open()
    link = alone.link
    alone.measure()
    alone.send()
    assert link.unacknowledged() is None, "said before the setpoint"
    alone.clock_s += 1.0
    alone.measure()
    assert link.unacknowledged() is link.telemetry is not None
    alone.status("fault")
    assert link.unacknowledged() is None
    alone.status()
    assert link.unacknowledged() is not None
    alone.clock_s += STALE_S
    alone.status()
    assert link.unacknowledged() is not None
    alone.clock_s += 0.1
    alone.status()
    assert (link.health, link.unacknowledged()) == ("online", None), "it speaks, but measures nothing new"


async def test_a_device_that_has_spoken_twice_without_an_answer_goes_on_to_be_heard() -> None:
    alone = await Alone().open()
    alone.measure()
    alone.send()
    alone.link.give_up()
    for heard, goes_on in ((0, False), (1, False), (2, True)):
        if heard:
            alone.clock_s += 0.25
            alone.measure()
        alone.clock_s += 0.25
        alone.send()
        assert (alone.link.unacknowledged() is not None) is goes_on, heard


async def test_a_device_is_sent_something_until_it_was_silent_for_longer_than_its_lease() -> None:
    alone = await Alone().open()
    alone.measure()
    alone.clock_s += LEASE_S
    assert alone.link.why_not_sent is None
    alone.clock_s += 0.125
    assert alone.link.why_not_sent == "device silent for 3.12 s, longer than its lease"


async def test_a_lease_is_taken_from_anybody_until_a_setpoint_was_followed() -> None:
    alone = await Alone(take_over=True).open()
    alone.measure()
    for fields, takes_over in (({"rejected": "no"}, True), ({}, True), (None, False)):
        told = alone.send()
        assert told.get("take_over", False) is takes_over
        if fields is not None:
            alone.measure()  # no answer
            alone.ack(told, **fields)


async def test_a_lease_that_is_over_is_not_renewed_by_the_link_and_is_given_back_once() -> None:
    alone = await Alone().open()
    link = alone.link
    link.release(alone.stamper)
    link.renew(alone.stamper, lease_s=LEASE_S, episode=1, step=0)
    assert alone.sent == [], "nothing was sent"
    alone.send()
    alone.clock_s += LEASE_S
    assert not link.holds_setpoint
    link.renew(alone.stamper, lease_s=LEASE_S, episode=1, step=0)
    assert len(alone.sent) == 1
    for _ in range(2):
        link.release(alone.stamper)
    (back,) = alone.sent[1:]
    assert (back["release"], back["p_mw"], back["q_mvar"], back["lease_s"]) == (True, 0.0, 0.0, LEASE_S)


async def test_a_renewal_never_shortens_what_was_sent() -> None:
    alone = await Alone().open()
    alone.send()
    alone.link.renew(alone.stamper, lease_s=1.0, episode=1, step=0)
    alone.clock_s += LEASE_S - 0.5
    assert alone.link.holds_setpoint
    alone.link.renew(alone.stamper, lease_s=1.0, episode=1, step=0)
    alone.clock_s += 0.75
    assert alone.link.holds_setpoint
    alone.clock_s += 0.25
    assert not alone.link.holds_setpoint


@pytest.mark.parametrize(
    ("nameplate_mw", "told_mw", "is_named"),
    [((0.0, 1.0), 0.01, False), ((0.0, 1.0), 0.02, True), ((-1.0, 0.0), 0.01, False), (None, 0.001, True)],
)
async def test_a_device_that_does_the_opposite_is_named_once_where_that_is_no_trifle(
    nameplate_mw: tuple[float, float] | None, told_mw: float, is_named: bool
) -> None:
    alone = await Alone(nameplate_mw=nameplate_mw).open()
    for _ in range(6):
        alone.link.compare(told_mw, -told_mw)
    assert len(alone.reports) == is_named
    if is_named:
        assert "is it the sign?" in alone.reports[0]


async def test_a_status_tells_of_a_stop_and_of_an_answer_that_can_be_expected_and_is_told() -> None:
    alone = await Alone().open()
    link = alone.link
    alone.measure()
    assert alone.changes == 1
    alone.status(stopped=True)
    assert (link.says_stopped, link.plausible_in_a_row, alone.changes) == (True, 1, 2)
    alone.send()
    link.give_up()
    alone.status("fault")
    assert (link.says_stopped, link.plausible_in_a_row, link.expects_answer) == (False, 0, False)
    alone.status()
    assert (link.expects_answer, alone.changes) == (True, 4)
    alone.measure(stopped=True)
    assert link.says_stopped
    alone.measure()
    assert not link.says_stopped


async def test_a_field_of_a_status_that_cannot_be_read_harms_only_itself_and_is_named() -> None:
    alone = await Alone().open()
    for _ in range(2):
        alone.status(soc="full")
    assert alone.link.is_born
    (report,) = alone.reports
    assert report.startswith("status: left out what cannot be read: soc")


async def test_topics_are_named_whole_with_environment_and_prefix() -> None:
    inner = MqttBroker("mqtt://127.0.0.1:1", env_id="lab", topic_prefix="sites/7")
    link = DeviceLink(
        "MG1", "ess", ImpairedBroker(inner, ImpairmentTable()), lease_s=LEASE_S, on_change=nothing
    )
    assert link.waits_for(3) == "nothing on sites/7/heron/lab/devices/MG1/ess/telemetry"
    assert link.status_topic == "sites/7/heron/lab/devices/MG1/ess/status"
