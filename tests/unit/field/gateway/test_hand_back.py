"""A device that was driven has to show that it was let go; whatever it shows instead is said."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.field.device.lease import NOT_THE_OWNER
from heron_mqtt.field.gateway import gateway as gateway_module
from heron_mqtt.field.gateway.hand_back import HandBack
from heron_mqtt.messages import Telemetry
from support.field_rig import Rig, nothing

NAMEPLATE_MW = (-0.05, 0.05)
SETPOINT, RELEASE = ("b1", 6), ("b1", 7)


def driven() -> HandBack:
    found = HandBack(NAMEPLATE_MW)
    found.note_setpoint(SETPOINT)
    found.note_telemetry(Telemetry(p_mw=0.003, safe=False, ack_boot="b1", ack_seq=6))
    return found


def test_what_left_the_device_before_it_took_the_newest_setpoint_does_not_count() -> None:
    found = driven()
    found.note_setpoint(("b1", 8))
    found.note_end(("b1", 9))
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True, ack_boot="b1", ack_seq=6))
    assert found.is_due
    found.note_telemetry(Telemetry(p_mw=0.003, safe=False, ack_boot="b1", ack_seq=8))
    assert found.is_due
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True, ack_boot="b1", ack_seq=9))
    assert not found.is_due


def test_one_that_follows_another_and_did_nothing_of_ours_has_nothing_to_hand_back() -> None:
    found = HandBack(NAMEPLATE_MW)
    found.note_setpoint(SETPOINT)
    said = Telemetry(p_mw=0.003, safe=False, ack_boot="b1")
    found.note_telemetry(said.model_copy(update={"ack_seq": 6, "rejected": "the lease is MG2's"}))
    found.note_end(RELEASE)
    assert found.is_due
    found.note_telemetry(said.model_copy(update={"ack_seq": 7, "rejected": "locked"}))
    assert found.is_due, "what it did may not have been heard"
    found.note_telemetry(said.model_copy(update={"ack_seq": 7, "rejected": NOT_THE_OWNER}))
    assert not found.is_due


def test_a_device_that_is_left_to_a_successor_owes_nothing() -> None:
    found = driven()
    found.forget()
    found.note_end(RELEASE)
    assert found.unreturned("fault", "the bus is busy") is None


def test_a_device_that_was_never_driven_owes_nothing() -> None:
    found = HandBack(NAMEPLATE_MW)
    found.note_end(RELEASE)
    assert found.unreturned("fault", "broken") is None


def test_only_what_it_says_once_it_was_let_go_counts() -> None:
    found = driven()
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True))
    assert found.is_due
    found.note_end(RELEASE)
    assert found.unreturned("online", None) == ("it has sent nothing since", False)
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True))
    assert not found.is_due
    found.note_setpoint(SETPOINT)
    assert found.is_due, "the next setpoint begins it anew"


def test_one_that_does_not_say_whether_it_is_safe_is_taken_at_its_answer_or_at_its_power() -> None:
    found = driven()
    found.note_end(RELEASE)
    found.note_telemetry(Telemetry(p_mw=0.003))
    assert found.is_due
    assert found.unreturned("online", None) is not None
    found.note_telemetry(Telemetry(p_mw=0.003, ack_boot="b1", ack_seq=7))
    assert not found.is_due, "acknowledged: how fast it gets there is its own"
    found.note_setpoint(SETPOINT)
    found.note_end()  # its lease runs out
    found.note_telemetry(Telemetry(p_mw=0.0001))
    assert found.is_due, "it may have left before the setpoint came"
    found.note_telemetry(Telemetry(p_mw=0.0001))
    assert not found.is_due


def test_a_message_of_before_the_first_setpoint_shows_no_release() -> None:
    found = HandBack(NAMEPLATE_MW)
    found.note_setpoint(SETPOINT)
    found.note_end(RELEASE)
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True))
    assert found.unreturned("online", None) == ("it has sent nothing since", False)
    found.note_telemetry(Telemetry(p_mw=0.003, safe=False, ack_boot="b1", ack_seq=6))
    assert found.is_due
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True))
    assert not found.is_due, "newer than its answer, whatever it has forgotten since"


def test_a_device_that_started_again_knows_of_no_setpoint_of_before() -> None:
    found = HandBack(NAMEPLATE_MW)
    found.note_setpoint(SETPOINT)
    found.note_end(RELEASE)
    found.note_restart()
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True))
    assert not found.is_due
    found.note_setpoint(("b1", 8))
    found.note_end(("b1", 9))
    found.note_telemetry(Telemetry(p_mw=0.0, safe=True))
    assert found.is_due, "the one after its start is due anew"


def test_what_is_wrong_is_said_with_the_power_and_a_fault_is_told_from_the_rest() -> None:
    found = driven()
    found.note_end(RELEASE)
    found.note_telemetry(Telemetry(p_mw=0.003, safe=False))
    assert found.unreturned("fault", "go_safe failed") == (
        "it is in a fault: go_safe failed; it measures 3 kW",
        True,
    )
    assert found.unreturned("online", None) == (
        "it acknowledges no release and is not in its safe state; it measures 3 kW",
        False,
    )
    found.note_telemetry(Telemetry(p_mw=0.003, safe=False, ack_boot="b1", ack_seq=7, rejected="not yours"))
    assert found.unreturned("online", None) == ("it refuses its release: not yours; it measures 3 kW", False)
    found.note_telemetry(Telemetry(p_mw=0.002, safe=False, ack_boot="b1", ack_seq=7))
    assert found.unreturned("online", None) == (
        "it acknowledges its release and is not in its safe state; it measures 2 kW",
        False,
    )
    assert found.unreturned("offline", None) == (
        "it is offline, and has not said before that it is in its safe state",
        False,
    )


@pytest.mark.parametrize("way", ["demotion", "end", "environment lost", "stop", "restart"])
async def test_in_every_way_a_gateway_lets_a_device_go_it_asks_whether_that_is_shown(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "HAND_BACK_S", 0.0)
    monkeypatch.setattr(gateway_module, "SHOWS_S", 0.0)
    rig = await Rig().open()
    rig.step(0.02)
    rig.gateway._leases.longest_s = 0.0
    rig.answer = nothing
    if way == "demotion":
        rig.ask("shadow")
    elif way == "end":
        rig.gateway.begin_end()
    elif way == "environment lost":
        rig.gateway._environment_ended("the environment was lost")
    elif way == "stop":
        rig.broker.publish("estop", {"type": "estop", "active": True})
    else:
        rig.boot = "b2"
        rig.say("status", state="online", run="none")
    rig.measure(safe=False)
    rig.say("status", state="fault", reason="go_safe failed")
    left = rig.gateway.unreturned()
    assert set(left) == {"ess"}
    assert left["ess"].is_fault
    await asyncio.sleep(0.01)
    if way in {"demotion", "environment lost"}:  # the gateway goes on, and nobody asks it
        assert any("released, and does not show it: it is in a fault" in told for told in rig.reports)
    rig.measure(safe=True)
    assert rig.gateway.unreturned() == {}
    assert rig.gateway.is_handed_back()
    rig.gateway.close()


async def test_a_release_is_said_again_to_a_device_that_does_not_show_it() -> None:
    rig = await Rig().open()
    rig.step(0.02)
    rig.answer = nothing
    rig.gateway.begin_end()
    rig.gateway.release_again()
    assert [bool(sent.get("release")) for sent in rig.sent] == [False, True, True]
    rig.measure(ack=rig.sent[1], safe=True)
    rig.gateway.release_again()
    assert len(rig.sent) == 3
    rig.gateway.close()
    assert len(rig.sent) == 3, "the end is told once"
