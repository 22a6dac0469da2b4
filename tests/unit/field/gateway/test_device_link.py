"""DeviceLink: what the gateway believes of a device, and what it refuses, names and survives."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
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


async def test_a_device_reborn_between_setpoint_and_answer_is_asked_for_no_more_than_it_has() -> None:
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
        ({"sender": "MG2/ess"}, "sender 'MG2/ess' speaks on the channel of MG1/ess"),
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
    assert "speaks on the channel of MG1/ess" in rig.broker.stats.reports[-1].what


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
        "two devices speak under this name: nothing is sent; end one, or give each its own"
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
    assert "nothing to use has come on devices/MG1/ess/telemetry for 5 s" in report
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
    rig.link._kind = "battery"
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


async def test_topics_are_named_whole_with_environment_and_prefix() -> None:
    inner = MqttBroker("mqtt://127.0.0.1:1", env_id="lab", topic_prefix="sites/7")
    link = DeviceLink(
        "MG1", "ess", ImpairedBroker(inner, ImpairmentTable()), lease_s=LEASE_S, on_change=nothing
    )
    assert link.waits_for(3) == "nothing on sites/7/heron/lab/devices/MG1/ess/telemetry"
    assert link.status_topic == "sites/7/heron/lab/devices/MG1/ess/status"
