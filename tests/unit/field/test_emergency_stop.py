"""StopRegister: anything that is no valid release is a stop."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.messaging.base import Received


def heard(register: StopRegister, **fields: Any) -> str:
    return register.take(Received(fields, "estop"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"active": True},
        {"active": 1},
        {"active": 0},
        {"active": "false"},
        {"active": None},
        {"type": "setpoint", "active": False},
        {"active": False, "env_id": "another"},
        {"active": False, "env_id": ""},
        {"active": False, "who": 7.5},
        {"active": False, "who": ["Ann"]},
        {"active": False, "who": "x" * 201},
        {"active": False, "why": 5},
        {"active": False, "why": "x" * 501},
        {"active": False, "seq": -1, "boot": "b"},
        {"active": False, "seq": 1.5, "boot": "b"},
        {"active": False, "seq": "1", "boot": "b"},
        {"active": False, "seq": 10**400, "boot": "b"},
        {"active": False, "seq": 1, "boot": ["b"]},
        {"active": False, "seq": 1, "boot": ""},
        {"active": False, "sender": {}},
        {"active": True, "who": 7, "why": "x" * 5000, "seq": -1, "boot": ""},
    ],
)
def test_what_is_no_valid_release_stops(fields: dict[str, Any]) -> None:
    register = StopRegister("env")
    assert heard(register, **fields) == "stopped"
    assert register.is_active


def test_what_cannot_be_decoded_stops() -> None:
    register = StopRegister("env")
    assert register.take(Received({}, "estop", malformed="not JSON")) == "stopped"
    assert register.stop is not None
    assert "not JSON" in register.stop.why


@pytest.mark.parametrize(
    "fields",
    [
        {"active": False},
        {"type": "estop", "active": False, "env_id": "env"},
        {"active": False, "who": "x" * 200, "why": "y" * 500, "boot": 7, "seq": 5.0},
        {"active": False, "who": None, "why": None, "sender": None, "boot": None, "seq": None},
        {"active": False, "sent_at": "yesterday", "episode": "x", "note": 10**400},  # not looked at
    ],
)
def test_a_valid_release_releases(fields: dict[str, Any]) -> None:
    register = StopRegister("env")
    heard(register, active=True)
    assert heard(register, **fields) == "released"
    assert not register.is_active


@pytest.mark.parametrize("again", [{"seq": 3, "boot": "b"}, {"seq": 3.0, "boot": "b"}])
def test_a_release_counts_once(again: dict[str, Any]) -> None:
    register = StopRegister("env")
    heard(register, active=True)
    assert heard(register, active=False, seq=3, boot="b") == "released"
    heard(register, active=True)
    assert heard(register, active=False, **again) == "unchanged"
    assert register.is_active


def test_a_word_of_another_counts_only_while_the_broker_says_nothing() -> None:
    register = StopRegister("env")
    assert register.take_word("MG1/ess") == "stopped"
    heard(register, active=False)
    assert register.take_word("MG1/ess") == "unchanged", "older than the release, for all that is known"
    register.on_reconnect()
    assert register.take_word("MG1/ess") == "stopped", "the broker may have been restarted"


def test_a_broker_that_goes_back_to_an_old_release_does_not_know_of_the_stop() -> None:
    register = StopRegister("env")
    heard(register, active=False, seq=1, boot="b")
    heard(register, active=True)
    register.on_reconnect()
    heard(register, active=False, seq=1, boot="b")
    assert register.is_active
    assert not register.is_told


def test_a_number_that_is_none_is_no_identity() -> None:
    register = StopRegister("env")
    for fields in ({"seq": -1, "boot": "b"}, {"seq": 1, "boot": ""}, {"seq": 1, "boot": "b" * 300}):
        heard(register, active=True, **fields)
        assert register.identity == (None, None)


def test_a_release_tells_that_the_broker_knows() -> None:
    register = StopRegister("env")
    heard(register, active=True)
    register.on_reconnect()
    assert not register.is_told
    heard(register, active=False, seq=0, boot="b")
    assert register.is_told
    assert register.identity == ("b", 0), "0 is the first number"
