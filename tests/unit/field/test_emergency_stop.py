"""StopRegister: anything that is no valid release is a stop."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.emergency_stop import StopRegister, is_at_rest
from heron_mqtt.messages import MAX_INTEGER
from heron_mqtt.messaging.base import Received
from support.rows import each_row

REMEMBERED_RELEASES = 1_000


def heard(register: StopRegister, **fields: Any) -> str:
    return register.take(Received(fields, "estop"))


@each_row(
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
    assert register.take_report("MG1/ess") == "stopped"
    heard(register, active=False)
    assert register.take_report("MG1/ess") == "unchanged", "older than the release, for all that is known"
    register.on_reconnect()
    assert register.take_report("MG1/ess") == "stopped", "the broker may have been restarted"


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


def test_what_is_cut_for_people_is_cut_at_its_limit_and_stops_all_the_same() -> None:
    register = StopRegister("env")
    assert heard(register, active=True, who="w" * 201, why="y" * 501) == "stopped"
    assert register.stop is not None
    assert (register.stop.who, register.stop.why) == ("w" * 200, "y" * 500)


@pytest.mark.parametrize(
    ("fields", "who", "why"),
    [
        ({"active": True}, None, ""),
        ({"active": True, "who": "", "why": None}, None, ""),
        ({"active": True, "who": 7, "why": 5}, None, "5"),
        ({"active": True, "who": "Ann", "why": "fire"}, "Ann", "fire"),
        ({"who": "Ann"}, "Ann", "a message on estop that is no valid release: {'who': 'Ann'}"),
    ],
)
def test_a_stop_says_who_and_why_as_far_as_it_can_be_read(
    fields: dict[str, Any], who: str | None, why: str
) -> None:
    register = StopRegister("env")
    heard(register, **fields)
    assert register.stop is not None
    assert (register.stop.active, register.stop.who, register.stop.why) == (True, who, why)


@pytest.mark.parametrize(
    ("sent_at", "shown"),
    [
        ("2026-05-01T10:00:00+00:00", "2026-05-01T10:00:00+00:00"),
        ("2026-05-01T10:00:00", None),
        ("yesterday", None),
        (5, None),
        (None, None),
    ],
)
def test_when_a_stop_was_sent_is_shown_where_it_is_said_readably(sent_at: object, shown: str | None) -> None:
    register = StopRegister("env")
    heard(register, active=True, sent_at=sent_at)
    assert register.stop is not None
    assert (register.stop.sent_at.isoformat() if register.stop.sent_at else None) == shown


@each_row(
    ("fields", "identity"),
    [
        ({"seq": 3, "boot": "b" * 200}, ("b" * 200, 3)),
        ({"seq": 3, "boot": "b" * 201}, (None, None)),
        ({"seq": 3, "boot": "b"}, ("b", 3)),
        ({"seq": 3.0, "boot": 7}, ("7", 3)),
        ({"seq": 3, "boot": 7.5}, ("7.5", 3)),
        ({"seq": 0, "boot": "b"}, ("b", 0)),
        ({"seq": 3.5, "boot": "b"}, (None, None)),
        ({"seq": True, "boot": "b"}, (None, None)),
        ({"seq": MAX_INTEGER, "boot": "b"}, ("b", MAX_INTEGER)),
        ({"seq": MAX_INTEGER + 1, "boot": "b"}, (None, None)),
        ({"boot": "b"}, (None, None)),
        ({"seq": 3}, (None, None)),
    ],
)
def test_a_stop_is_known_by_boot_and_number_where_both_are_in_range(
    fields: dict[str, Any], identity: tuple[str | None, int | None]
) -> None:
    register = StopRegister("env")
    heard(register, active=True, **fields)
    assert register.identity == identity
    heard(register, active=True)
    assert register.identity == (None, None), "of the newest one"


def test_the_newest_releases_are_remembered_and_the_oldest_forgotten() -> None:
    register = StopRegister("env")
    for seq in range(REMEMBERED_RELEASES):
        heard(register, active=False, boot="b", seq=seq)
    heard(register, active=True)
    assert heard(register, active=False, boot="b", seq=0) == "unchanged"
    assert heard(register, active=False, boot="b", seq=REMEMBERED_RELEASES) == "released"
    heard(register, active=True)
    assert heard(register, active=False, boot="b", seq=1) == "unchanged"
    assert heard(register, active=False, boot="b", seq=0) == "released"


def test_a_second_stop_and_a_release_of_nothing_change_nothing() -> None:
    register = StopRegister("env")
    assert heard(register, active=False) == "unchanged"
    assert register.is_told
    register.on_reconnect()
    assert heard(register, active=True) == "stopped"
    assert register.is_told
    assert heard(register, active=True) == "repeated", "pressed again, or it cannot be told from that"
    assert register.take_report("MG1/ess") == "unchanged"
    assert heard(register, active=False, who="Ann") == "released"
    assert register.release.who == "Ann"
    assert heard(register, active=False) == "unchanged"


def test_a_stop_that_is_pressed_again_is_told_from_one_that_the_broker_kept() -> None:
    register = StopRegister("env")
    assert heard(register, active=True, boot="b", seq=1) == "stopped"
    assert heard(register, active=True, boot="b", seq=1) == "unchanged", "as the broker keeps it"
    assert heard(register, active=True, boot="b", seq=2) == "repeated"
    assert heard(register, active=True, boot="c", seq=2) == "repeated"
    assert heard(register, active=False, boot="c", seq=3) == "released"
    assert heard(register, active=True, boot="c", seq=2) == "stopped"


def test_a_release_that_is_told_again_while_nothing_is_stopped_says_that_the_broker_knows() -> None:
    register = StopRegister("env")
    heard(register, active=False, boot="b", seq=1)
    register.on_reconnect()
    assert heard(register, active=False, boot="b", seq=1) == "unchanged"
    assert register.is_told


def test_a_word_of_another_names_whoever_has_said_it() -> None:
    register = StopRegister("env")
    heard(register, active=True, boot="b", seq=1)
    heard(register, active=False)
    register.on_reconnect()
    assert register.take_report("w" * 201) == "stopped"
    assert register.stop is not None
    assert register.stop.active
    assert register.stop.who == "w" * 200
    assert register.identity == (None, None)


@pytest.mark.parametrize(
    ("power_range_mw", "largest_mw"),
    [
        ((-1.0, 0.5), 0.05),
        ((0.0, 0.02), 0.001),
        ((None, 0.02), 0.001),
        ((0.0, 0.0), 1e-4),
        ((None, None), 1e-4),
        ((), 1e-4),
    ],
)
def test_power_up_to_a_twentieth_of_the_nameplate_is_none_and_100_w_without_one(
    power_range_mw: tuple[float | None, ...], largest_mw: float
) -> None:
    for p_mw in (largest_mw, -largest_mw, 0.0):
        assert is_at_rest(p_mw, power_range_mw)
        assert not is_at_rest(1.001 * (p_mw or 1.0), power_range_mw)
