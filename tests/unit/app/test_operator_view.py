"""What an operator sees of an environment, whatever its participants say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.app.operator_client import environments
from heron_mqtt.app.operator_client.environments import Environments, EnvironmentSeen
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.app.operator_client.status import environment
from heron_mqtt.app.operator_client.stop import StopReport, _judge
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.cli.status_table import print_status, status_console
from heron_mqtt.messaging import topics
from support.rows import each_row

CHANNELS = [
    *("run/state", "run/owner", "estop", "estop/confirm/MG1", "estop/confirm/MG1/ess", "agents/MG1/status"),
    *("agents/MG1/owner", "devices/MG1/ess/status", "devices/MG1/ess/telemetry", "devices/MG1/ess/lease"),
    *("devices/MG1/ess/authority_state", "devices/MG1/ess/owner", "devices/%2F/ess/status", "junk", "a//b"),
]
NAMES = st.sampled_from(
    [
        *("type", "state", "boot", "seq", "who", "why", "active", "safe", "stopped", "p_mw", "soc", "level"),
        *("ceiling", "reason", "holder", "lease_s", "manual_by", "manual_s", "manual_p_mw", "kind", "step"),
    ]
)
WORDS = st.sampled_from(["online", "offline", "fault", "running", "holds", "held", "full", "shadow", "estop"])
VALUES = st.one_of(
    WORDS,
    st.text(max_size=5),
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(-1e9, 1e9),
)
PAYLOADS = st.dictionaries(NAMES, VALUES, max_size=6)


def heard(channel: str, fields: dict[str, Any] | None, *, retained: bool = False, at_s: float = 1.0) -> Heard:
    malformed = "payload is not JSON" if fields is None else None
    return Heard("lab", channel, fields, malformed, retained, at_s)


@given(st.lists(st.tuples(st.sampled_from(CHANNELS), st.none() | PAYLOADS, st.booleans()), max_size=8))
def test_no_message_breaks_the_view(messages: list[tuple[str, dict[str, Any] | None, bool]]) -> None:
    found = Environments()
    for channel, fields, retained in messages:
        found.take(heard(channel, fields, retained=retained))
    for view in found.values():
        seen = environment(view, now_s=2.0, listen_s=2.0)
        json.dumps(seen, allow_nan=False)
        whole = {"broker": "b", "well": False, "environments": [seen], "not_alive": []}
        print_status(status_console(), whole)


def outbox_report(**more: Any) -> dict[str, Any]:
    numbers = {"messages": 3, "size_bytes": 900, "max_bytes": 1_000, "dropped": 0, "disk_errors": 0}
    return {"type": "outbox", "client": "gateway-1", **numbers, **more}


def test_an_outbox_of_which_nothing_is_said_any_more_is_left_out() -> None:
    found = Environments()
    found.take(heard("session/-/gateway-1/outbox", outbox_report(), at_s=1.0))
    (view,) = found.values()
    assert environment(view, 31.0, 2.0)["outboxes"]["gateway-1"]["messages"] == 3
    assert environment(view, 31.1, 2.0)["outboxes"] == {}
    assert "outboxes" not in environment(view, 1.0, 2.0, with_outboxes=False)


def test_the_outboxes_of_two_users_are_two_whatever_they_call_their_clients() -> None:
    """Who may publish for itself alone cannot show another one's outbox as empty."""
    found = Environments()
    for user, waiting in (("MG1", 3), ("MG2", 0)):
        said = outbox_report(messages=waiting)
        found.take(heard(f"session/{user}/gateway-1/outbox", said, at_s=1.0))
    (view,) = found.values()
    shown = environment(view, 2.0, 2.0)["outboxes"]
    assert {name: outbox["messages"] for name, outbox in shown.items()} == {
        "MG1 gateway-1": 3,
        "MG2 gateway-1": 0,
    }


def test_user_and_client_are_told_apart_whatever_stands_in_them() -> None:
    found = Environments()
    pairs = (("a b", "c"), ("a", "b c"), ("-", "a b c"), ("a%20b", "c"))
    for waiting, (user, client) in enumerate(pairs):
        said = outbox_report(client=client, messages=waiting)
        channel = f"session/{topics.escape(user)}/{topics.escape(client)}/outbox"
        found.take(heard(channel, said, at_s=1.0))
    (view,) = found.values()
    shown = environment(view, 2.0, 2.0)["outboxes"]
    assert {name: outbox["messages"] for name, outbox in shown.items()} == {
        "a%20b c": 0,
        "a b%20c": 1,
        "a%20b%20c": 2,
        "a%2520b c": 3,
    }


def test_names_beyond_those_that_are_kept_are_said_and_prove_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of invented devices must not hide a real one from a stop."""
    monkeypatch.setattr(environments, "MAX_NAMES", 2)
    found = Environments()
    for name in ("a", "b", "ess"):
        found.take(heard(f"devices/MG1/{name}/status", {"type": "status", "state": "online"}))
    (view,) = found.values()
    assert view.left_out == 1
    assert any("1 messages of further ones" in told for told in environment(view, 1.0, 2.0)["problems"])
    report = StopReport(view.env_id, active=True)
    _judge(view, report, 0.0, 5.0)
    assert "1 messages of further ones" in report.missing["further devices"]


def test_an_outbox_report_has_bounded_names() -> None:
    kind = {"messages": 1, "size_bytes": 1, "dropped": 0}
    found = Environments()
    found.take(heard("session/-/a/outbox", outbox_report(client="a", kinds={"x" * 200: kind})))
    found.take(heard("session/-/b/outbox", outbox_report(client="b", kinds={"x" * 201: kind})))
    long = f"session/-/{'x' * 201}/outbox"
    found.take(heard(long, outbox_report(client="x" * 201)))
    found.take(heard("session/-/other/outbox", outbox_report()))
    (view,) = found.values()
    assert {client: len(report.kinds) for (_, client), (report, _) in view.outboxes.items()} == {
        "a": 1,
        "b": 0,
    }
    assert list(view.unreadable) == [long, "session/-/other/outbox"]


def test_what_an_outbox_held_is_no_telemetry_of_now() -> None:
    found = Environments()
    told = {"type": "telemetry", "p_mw": 0.001, "stopped": True}
    found.take(heard("devices/MG1/ess/telemetry", {**told, "held_s": 3.5}))
    (view,) = found.values()
    assert all(device.telemetry is None for device in view.devices.values())
    found.take(heard("devices/MG1/ess/telemetry", told))
    (device,) = view.devices.values()
    assert device.telemetry is not None


def test_what_is_kept_is_no_telemetry_of_now_and_confirms_nothing() -> None:
    view = EnvironmentSeen("lab")
    view.take(heard("devices/MG1/ess/telemetry", {"p_mw": 1.0}, retained=True))
    view.take(heard("estop/confirm/MG1/ess", {"active": True, "safe": True}, retained=True))
    device = view.devices["MG1/ess"]
    assert (device.telemetry, device.confirm, device.is_present) == (None, None, False)


def test_a_question_for_a_name_does_not_take_it() -> None:
    view = EnvironmentSeen("lab")
    view.take(heard("run/owner", {"type": "owner", "state": "holds", "boot": "a"}))
    view.take(heard("run/owner", {"type": "owner", "state": "asks", "boot": "b"}))
    assert view.run_owner is not None
    assert view.run_owner.boot == "a"


@each_row(
    ("channel", "fields", "alive"),
    [
        ("run/state", {"state": "running"}, True),
        ("run/state", {"state": "finished"}, False),
        ("run/state", {"state": "lost"}, False),
        ("run/owner", {"state": "holds"}, False),
        ("agents/MG1/status", {"state": "online"}, True),
        ("agents/MG1/status", {"state": "offline"}, False),
        ("devices/MG1/ess/status", {"state": "fault"}, True),
        ("estop", {"active": True}, False),
    ],
)
def test_who_is_alive(channel: str, fields: dict[str, Any], alive: bool) -> None:
    """A name that is held proves nothing: a dead holder leaves it behind."""
    found = Environments()
    found.take(heard(channel, fields, retained=True))
    assert found.alive == (["lab"] if alive else [])


def test_a_stop_is_proven_only_where_somebody_confirmed_and_nobody_is_missing() -> None:
    assert not StopReport("lab", True).is_proven
    assert StopReport("lab", True, confirmed={"a": "confirmed"}).is_proven
    assert not StopReport("lab", True, confirmed={"a": "confirmed"}, missing={"b": "silent"}).is_proven
    assert not StopReport("lab", True, confirmed={"a": "confirmed"}, unmeasured={"b": "confirmed"}).is_proven
    assert not StopReport("lab", True, failure="denied", confirmed={"a": "confirmed"}).is_proven


@pytest.mark.parametrize(
    ("fields", "contradicts"),
    [({"p_mw": 0.5}, True), ({"p_mw": 0.0, "safe": False}, True), ({"p_mw": 0.04, "safe": True}, False)],
)
def test_telemetry_contradicts_the_confirmation_of_a_stop(fields: dict[str, Any], contradicts: bool) -> None:
    view = EnvironmentSeen("lab")
    birth = {"type": "status", "state": "online", "p_min_mw": -1.0, "p_max_mw": 1.0}
    view.take(heard("devices/MG1/ess/status", birth))
    view.take(heard("estop", {"type": "estop", "active": True, "boot": "b", "seq": 0}))
    confirm = {"type": "estop_confirm", "active": True, "safe": True}
    view.take(heard("estop/confirm/MG1/ess", confirm, at_s=2.0))
    view.take(heard("devices/MG1/ess/telemetry", {"type": "telemetry", **fields}, at_s=3.0))
    report = StopReport("lab", True)
    _judge(view, report, 1.0, 5.0)
    assert (list(report.missing), report.is_proven) == (["device MG1/ess"] * contradicts, not contradicts)
    problems = environment(view, 4.0, 2.0)["problems"]
    assert any("MG1/ess is not safe in the emergency stop" in each for each in problems) == contradicts


CONFIRM = {"type": "estop_confirm", "active": True, "safe": True, "stop_boot": "b", "stop_seq": 0}
AT_REST = {"type": "telemetry", "p_mw": 0.0}


def stopped_device(**confirm: Any) -> EnvironmentSeen:
    """Return an environment with a device of 1 MW that has confirmed at 2.0 s a stop of 1.0 s."""
    view = EnvironmentSeen("lab")
    birth = {"type": "status", "state": "online", "p_min_mw": -1.0, "p_max_mw": 1.0}
    view.take(heard("devices/MG1/ess/status", birth))
    view.take(heard("estop", {"type": "estop", "active": True, "boot": "b", "seq": 0}))
    view.take(heard("estop/confirm/MG1/ess", {**CONFIRM, **confirm}, at_s=2.0))
    return view


def judged(view: EnvironmentSeen) -> StopReport:
    report = StopReport("lab", True, ("b", 0))
    _judge(view, report, 1.0, 5.0)
    return report


@pytest.mark.parametrize(
    ("at_s", "fields", "unmeasured"),
    [
        (0.5, {"p_mw": 0.0}, "no telemetry since within 5 s"),
        (
            0.5,
            {"p_mw": 0.5},
            "no telemetry since within 5 s; before it confirmed, its telemetry reports ",
        ),
        (
            1.5,
            {"p_mw": 0.5},
            "no telemetry since within 5 s; before it confirmed, its telemetry reports ",
        ),
        (1.5, {"p_mw": 0.0, "safe": True}, None),
        (2.5, {"p_mw": 0.0}, None),
        (None, {}, "no telemetry since within 5 s"),
    ],
)
def test_a_stop_is_proven_by_power_that_came_since(
    at_s: float | None, fields: dict[str, Any], unmeasured: str | None
) -> None:
    view = stopped_device()
    if at_s is not None:
        view.take(heard("devices/MG1/ess/telemetry", {"type": "telemetry", **fields}, at_s=at_s))
    report = judged(view)
    assert report.is_proven is (unmeasured is None)
    assert report.missing == {}
    if unmeasured is None:
        how = "confirmed, unproven: its telemetry has no seq, so it could be a recording"
        assert report.confirmed == {"device MG1/ess": how}
    else:
        [(name, why)] = report.unmeasured.items()
        assert name == "device MG1/ess"
        assert why.startswith(f"confirmed, power not measured: {unmeasured}")


@pytest.mark.parametrize(
    ("ident", "why"),
    [
        ({"stop_boot": "zz"}, "it confirms another one"),
        ({"stop_seq": 1}, "it confirms another one"),
        ({"stop_boot": None, "stop_seq": None}, "it does not say which message it confirms"),
    ],
)
def test_the_confirmation_of_another_stop_confirms_none(ident: dict[str, Any], why: str) -> None:
    view = stopped_device(**ident)
    view.take(heard("devices/MG1/ess/telemetry", AT_REST, at_s=3.0))
    report = judged(view)
    assert (report.confirmed, report.missing) == ({}, {"device MG1/ess": why})
    view.take(heard("devices/MG1/ess/telemetry", {**AT_REST, "safe": True}, at_s=4.0))
    assert judged(view).missing == {"device MG1/ess": why}, "telemetry names no stop"


@pytest.mark.parametrize(
    ("telemetry", "proven"),
    [
        ({"boot": "d1", "seq": 8}, True),
        ({"boot": "d1", "seq": 7}, False),
        ({"boot": "d0", "seq": 99}, False),
        ({}, False),
    ],
)
def test_only_telemetry_that_is_newer_by_its_number_shows_the_power_in_a_stop(
    telemetry: dict[str, Any], proven: bool
) -> None:
    """The confirmation names the last number of before the stop."""
    view = stopped_device(boot="d1", telemetry_seq=7)
    view.take(heard("devices/MG1/ess/telemetry", {**AT_REST, **telemetry}, at_s=3.0))
    report = judged(view)
    assert report.is_proven is proven
    assert list(report.unmeasured) == ["device MG1/ess"] * (not proven)


def test_one_message_that_was_not_heard_before_proves_no_power_where_the_confirmation_names_none() -> None:
    """It may be a recording: of the same life of the device, when it was at rest."""
    view = stopped_device(boot="d1")
    channel, numbered = "devices/MG1/ess/telemetry", {**AT_REST, "boot": "d1"}
    view.take(heard(channel, {**numbered, "seq": 500}, at_s=2.5))
    report = judged(view)
    assert not report.is_proven
    assert report.unmeasured["device MG1/ess"].startswith(
        "confirmed, power not measured: no telemetry whose number proves that it was sent after the stop"
    )
    view.take(heard(channel, {**numbered, "seq": 499}, at_s=2.6))
    assert not judged(view).is_proven, "another recording, in the wrong order"
    view.take(heard(channel, {**numbered, "p_mw": 0.5, "seq": 900}, at_s=2.7))
    assert judged(view).missing == {"device MG1/ess": "its telemetry reports 500 kW"}
    view.take(heard(channel, {**numbered, "seq": 901}, at_s=2.8))
    assert judged(view).confirmed == {"device MG1/ess": "confirmed"}


def test_a_number_that_was_heard_before_the_stop_lets_the_next_one_prove_it() -> None:
    view = stopped_device(boot="d1")
    channel, numbered = "devices/MG1/ess/telemetry", {**AT_REST, "boot": "d1"}
    view.take(heard(channel, {**numbered, "seq": 6}, at_s=0.5))
    view.take(heard(channel, {**numbered, "seq": 7}, at_s=1.5))
    assert not judged(view).is_proven, "it came before the confirmation"
    view.take(heard(channel, {**numbered, "seq": 8}, at_s=2.5))
    assert judged(view).is_proven


def test_the_stop_that_came_last_may_be_confirmed_too() -> None:
    view = stopped_device(stop_boot="c", stop_seq=7)
    view.take(heard("devices/MG1/ess/telemetry", AT_REST, at_s=3.0))
    assert not judged(view).is_proven
    view.take(heard("estop", {"type": "estop", "active": True, "boot": "c", "seq": 7}, at_s=1.5))
    assert judged(view).is_proven


def test_what_was_measured_before_a_stop_proves_nothing_however_late_it_comes() -> None:
    view = stopped_device()
    view.take(heard("devices/MG1/ess/telemetry", {**AT_REST, "safe": True, "age_s": 100.0}, at_s=3.0))
    assert list(judged(view).unmeasured) == ["device MG1/ess"]
    view.devices["MG1/ess"].confirm = None
    assert list(judged(view).missing) == ["device MG1/ess"]
    view.take(heard("estop/confirm/MG1/ess", CONFIRM, at_s=3.0))
    view.take(heard("devices/MG1/ess/telemetry", {**AT_REST, "safe": True, "age_s": 1.5}, at_s=3.0))
    assert judged(view).is_proven


def test_telemetry_that_was_recorded_is_no_telemetry_of_now() -> None:
    view = EnvironmentSeen("lab")
    said = {"type": "telemetry", "p_mw": 0.5, "boot": "b2", "seq": 7}
    channel = "devices/MG1/ess/telemetry"
    view.take(heard(channel, said, at_s=1.0))
    for old in ({"seq": 7}, {"seq": 6}, {"boot": None, "seq": None}):
        view.take(heard(channel, {**said, "p_mw": 0.0, "safe": True, **old}, at_s=2.0))
        assert (view.devices["MG1/ess"].telemetry or {})["p_mw"] == 0.5
    view.take(heard(channel, {**said, "p_mw": 0.4, "seq": 8}, at_s=2.0))
    birth = {"type": "status", "state": "online", "boot": "b2"}
    view.take(heard("devices/MG1/ess/status", birth, retained=True))
    view.take(heard(channel, {**said, "p_mw": 0.0, "boot": "b1", "seq": 99}, at_s=3.0))
    assert (view.devices["MG1/ess"].telemetry or {})["p_mw"] == 0.4, "of a life before the one that was born"
    view.take(heard("devices/MG1/ess/status", {**birth, "boot": "b3"}))
    view.take(heard(channel, {**said, "p_mw": 0.3, "boot": "b3", "seq": 0}, at_s=4.0))
    assert (view.devices["MG1/ess"].telemetry or {})["p_mw"] == 0.3


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"age_s": 500.0}, "has a measurement that is 500 s old"),
        ({"p_mw": 5.0}, "measures 5000 kW, beyond its nameplate, -50 to 50 kW: wrong unit?"),
        ({"p_mw": -0.056}, "measures -56 kW, beyond its nameplate, -50 to 50 kW: wrong unit?"),
        ({"p_mw": 0.054, "age_s": 3.0}, None),
    ],
)
def test_telemetry_that_says_little_of_now_is_a_problem(fields: dict[str, Any], problem: str | None) -> None:
    view = EnvironmentSeen("lab")
    birth = {"type": "status", "state": "online", "p_min_mw": -0.05, "p_max_mw": 0.05}
    view.take(heard("devices/MG1/ess/status", birth))
    view.take(heard("devices/MG1/ess/telemetry", {"type": "telemetry", "p_mw": 0.0, **fields}, at_s=3.0))
    found = [each for each in environment(view, 4.0, 2.0)["problems"] if "MG1/ess" in each]
    assert found == ([] if problem is None else [f"device MG1/ess {problem}"])


def test_reactive_power_contradicts_a_stop() -> None:
    view = stopped_device()
    view.take(heard("devices/MG1/ess/telemetry", {**AT_REST, "q_mvar": 0.19}, at_s=3.0))
    assert judged(view).is_proven
    view.take(heard("devices/MG1/ess/telemetry", {**AT_REST, "q_mvar": -0.5}, at_s=3.0))
    assert judged(view).missing == {"device MG1/ess": "its telemetry reports -500 kvar"}


@pytest.mark.parametrize("by", ["telemetry", "lease"])
def test_one_that_is_offline_and_may_have_power_has_to_confirm(by: str) -> None:
    view = stopped_device()
    view.take(heard("devices/MG1/ess/telemetry", AT_REST, at_s=3.0))
    bad = "devices/MG2/bad"
    view.take(heard(f"{bad}/status", {"type": "status", "state": "offline"}, retained=True))
    assert judged(view).is_proven
    if by == "telemetry":
        view.take(heard(f"{bad}/telemetry", {"type": "telemetry", "p_mw": 0.02}, at_s=3.0))
        why = "no message within 5 s (it is offline)"
    else:
        view.take(heard(f"{bad}/lease", {"type": "lease", "state": "held", "holder": "MG2"}, retained=True))
        why = "no message within 5 s (it is offline)"
        why += "; its lease is held: its hardware may hold its last setpoint"
    assert judged(view).missing == {"device MG2/bad": why}
    view.take(heard(f"{bad}/status", {"type": "status", "state": "offline"}, at_s=4.0))
    view.take(heard(f"{bad}/lease", {"type": "lease", "state": "free"}, at_s=4.0))
    assert judged(view).is_proven


def test_a_release_is_proven_without_any_power() -> None:
    view = stopped_device()
    view.take(heard("estop/confirm/MG1/ess", {**CONFIRM, "active": False}, at_s=3.0))
    report = StopReport("lab", False)
    _judge(view, report, 2.5, 5.0)
    assert report.is_proven


@pytest.mark.parametrize("by", ["confirmation", "telemetry"])
def test_what_nothing_here_can_set_is_no_problem_of_ours_but_a_note(by: str) -> None:
    view = stopped_device(safe=False, settable=False) if by == "confirmation" else stopped_device()
    told = {"type": "telemetry", "p_mw": 0.5, "safe": False, "stopped": True}
    more = {} if by == "confirmation" else {"settable": False}
    view.take(heard("devices/MG1/ess/telemetry", {**told, **more}, at_s=3.0))
    report = judged(view)
    assert list(report.not_ours) == ["device MG1/ess"]
    assert report.not_ours["device MG1/ess"].endswith("it measures 500 kW")
    seen = environment(view, 4.0, 2.0)
    assert not any("not safe" in problem for problem in seen["problems"])
    assert seen["notes"] == [
        "device MG1/ess measures 500 kW in the emergency stop, and it cannot be set from here: it is only "
        "read, or only watched"
    ]
    view.take(heard("devices/MG1/ess/telemetry", {**told, **more, "p_mw": 0.0, "safe": True}, at_s=5.0))
    assert environment(view, 6.0, 2.0)["notes"] == []


def test_what_nothing_here_can_set_needs_no_power_for_the_proof_of_a_stop() -> None:
    view = stopped_device(settable=False)
    view.take(heard("agents/MG1/status", {"type": "status", "state": "online"}))
    view.take(heard("estop/confirm/MG1", CONFIRM, at_s=2.0))
    report = judged(view)
    assert report.is_proven
    assert report.not_ours["device MG1/ess"].endswith("its power is not known")


def test_text_of_others_does_not_reach_the_terminal_as_commands() -> None:
    assert printable("\x1b[2Ja\nb") == "?[2Ja?b"
    assert len(printable("x" * 1_000)) == 200
