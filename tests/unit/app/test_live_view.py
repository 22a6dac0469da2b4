"""What a page and a terminal are told of a broker: counted, bounded, and nothing dressed up."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.app.live_view import EVENTS, MESSAGES, SILENT_S, LiveView
from heron_mqtt.app.live_view.counts import KINDS
from heron_mqtt.app.live_view.view import ENVIRONMENTS, PARTS
from heron_mqtt.app.operator_client.environments import MAX_NAMES
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.cli.sparkline import sparkline
from heron_mqtt.cli.tail_lines import TailLines
from heron_mqtt.cli.top_table import TopScreen
from heron_mqtt.messaging.settings import variable_of
from support.mosquitto_server import Mosquitto
from support.paho_site import Site

NOW = 100.0


def told(channel: str, at_s: float = NOW, *, retained: bool = False, **fields: Any) -> Heard:
    return Heard("lab", channel, fields, None, retained, at_s)


def seen(*messages: Heard, now_s: float = NOW) -> dict[str, Any]:
    """Return the snapshot of one environment after messages."""

    async def look() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        loop.time = lambda: now_s  # type: ignore[method-assign]
        view = LiveView("mqtt://127.0.0.1:1")
        for message in messages:
            view._take(message)
        return view.snapshot()

    snapshot = asyncio.run(look())
    json.dumps(snapshot, allow_nan=False)
    return next(iter(snapshot["environments"]), {})


RUN = told("run/state", retained=True, type="run_state", state="running", step=3, episode=0, boot="r")
BIRTH = told("devices/MG1/ess/status", retained=True, state="online", kind="battery")
SPOKE = told("devices/MG1/ess/telemetry", p_mw=0.01, soc=0.5, boot="d", seq=1, sender="MG1/ess")


def test_a_device_shows_what_it_was_told_what_it_did_and_how_long_that_holds() -> None:
    setpoint = told("devices/MG1/ess/setpoint", type="setpoint", p_mw=0.02, lease_s=5.0, sender="MG1")
    found = seen(RUN, BIRTH, SPOKE, setpoint, now_s=NOW + 1.5)
    device = found["devices"]["MG1/ess"]
    assert (device["setpoint_mw"], device["p_mw"], device["lease_left_s"]) == (0.02, 0.01, 3.5)
    assert seen(RUN, BIRTH, SPOKE, setpoint, now_s=NOW + 6)["devices"]["MG1/ess"]["setpoint_mw"] is None


def test_a_device_shows_its_residual_and_how_long_it_took_to_answer() -> None:
    setpoint = told("devices/MG1/ess/setpoint", p_mw=0.02, lease_s=5.0, sender="MG1", boot="g", seq=7)
    answer = told("devices/MG1/ess/telemetry", NOW + 0.3, p_mw=0.02, boot="d", seq=2, ack_seq=7, ack_boot="g")
    again = told("devices/MG1/ess/telemetry", NOW + 0.9, p_mw=0.02, boot="d", seq=3, ack_seq=7, ack_boot="g")
    action = told("agents/MG1/action", type="action", p_ess=0.02, residual_ess=-0.003)
    device = seen(RUN, BIRTH, SPOKE, setpoint, answer, again, action)["devices"]["MG1/ess"]
    assert (device["answer_s"], device["residual_mw"]) == (0.3, -0.003)
    nothing = told("agents/MG1/action", type="action", p_ess=0.02)
    device = seen(RUN, BIRTH, SPOKE, setpoint, answer, action, nothing)["devices"]["MG1/ess"]
    assert device["residual_mw"] is None, "it was not compared in this step"


def test_a_setpoint_that_the_device_does_not_follow_has_no_lease() -> None:
    setpoint = told("devices/MG1/ess/setpoint", type="setpoint", p_mw=0.0, lease_s=5.0, sender="MG1")
    for lease, left_s in (
        ({"state": "held", "holder": "MG1"}, 4.0),
        ({"state": "free"}, None),
        ({"state": "held", "holder": "MG1/ess"}, None),
        ({"state": "held"}, None),
    ):
        leads = told("devices/MG1/ess/lease", retained=True, type="lease", **lease)
        device = seen(RUN, BIRTH, SPOKE, leads, setpoint, now_s=NOW + 1)["devices"]["MG1/ess"]
        assert (device["lease_left_s"], device["setpoint_mw"]) == (left_s, None if left_s is None else 0.0)


def test_an_answer_that_came_in_one_piece_with_its_setpoint_took_no_negative_time() -> None:
    async def look() -> dict[str, Any]:
        loop, ticks = asyncio.get_running_loop(), iter(range(1000))
        loop.time = lambda: NOW + next(ticks)  # type: ignore[method-assign]
        view = LiveView("mqtt://127.0.0.1:1")
        for message in (RUN, BIRTH, SPOKE):
            view._take(message)
        setpoint = {"p_mw": 0.02, "lease_s": 5.0, "sender": "MG1", "boot": "g", "seq": 7}
        pieces = [
            ("setpoint", setpoint),
            ("telemetry", {"p_mw": 0.02, "boot": "d", "seq": 2, "ack_seq": 7, "ack_boot": "g"}),
        ]
        topic = b"heron/lab/devices/MG1/ess/"
        # what is read for the first time takes another way than what follows
        view._take_all([(topic + b"telemetry", b'{"p_mw": 0.01, "boot": "d", "seq": 1}', 0)])
        view._take_all([(topic + leaf.encode(), json.dumps(fields).encode(), 0) for leaf, fields in pieces])
        return view.snapshot()["environments"][0]["devices"]["MG1/ess"]

    assert asyncio.run(look())["answer_s"] == 0.0


def test_an_answer_to_another_setpoint_is_none_to_this_one() -> None:
    setpoint = told("devices/MG1/ess/setpoint", p_mw=0.02, lease_s=5.0, sender="MG1", boot="g", seq=7)
    for ack in (
        {"ack_seq": 6, "ack_boot": "g"},
        {"ack_seq": 7, "ack_boot": "other"},
        {"ack_seq": 7, "ack_boot": [1]},
    ):
        answer = told("devices/MG1/ess/telemetry", NOW + 0.3, p_mw=0.02, boot="d", seq=2, **ack)
        assert seen(RUN, BIRTH, setpoint, answer)["devices"]["MG1/ess"]["answer_s"] is None


def test_what_is_wrong_says_since_when_also_to_who_comes_later() -> None:
    at = "2026-01-02T03:04:05+00:00"
    stop = told("estop", retained=True, type="estop", active=True, who="ann", why="smoke", sent_at=at)
    found = seen(RUN, BIRTH, stop)
    assert found["stop"]["since"] == at
    assert (
        dict(zip(found["problems"], found["problems_since"], strict=True))["emergency stop by ann: smoke"]
        == at
    )
    (event,) = [one for one in found["events"] if one["kind"] == "stop"]
    assert (event["at"], event["is_since"]) == (at, True)


def test_deadlines_missed_and_the_pace_of_the_steps_are_counted() -> None:
    steps = [
        told("run/state", NOW + n, type="run_state", state="running", step=n, boot="r") for n in range(3)
    ]
    late = told("agents/MG1/action", type="action", p_ess=0.0, missed=2)
    found = seen(RUN, *steps, late, late, now_s=NOW + 3)
    assert found["step_period_s"] == 1.0
    assert found["microgrids"]["MG1"]["missed_so_far"] == 4


def run_at(at_s: float, step: int, state: str = "running", episode: int = 0) -> Heard:
    return told("run/state", NOW + at_s, type="run_state", state=state, step=step, episode=episode, boot="r")


def test_a_state_that_is_repeated_within_its_step_is_no_step() -> None:
    spoken = [run_at(at_s, int(at_s // 60)) for at_s in range(0, 150, 7)]
    found = seen(*spoken, now_s=NOW + 150)
    assert found["step_period_s"] == pytest.approx((126 - 0) / 2)
    assert found["step_age_s"] == 24.0, "since the step began, not since it was named last"


def test_between_episodes_there_is_no_period_and_a_step_that_was_not_heard_counts() -> None:
    reset = run_at(50, 0, "reset", episode=1)
    found = seen(run_at(0, 0), run_at(1, 1), reset, run_at(59, 0, episode=1), run_at(61, 2, episode=1))
    assert found["step_period_s"] == 1.0
    overtaken = seen(run_at(0, 0), run_at(1, 1), run_at(1.5, 0), run_at(2, 2))
    assert overtaken["step_period_s"] == 1.0


def test_an_action_or_setpoint_that_is_delivered_twice_counts_once() -> None:
    numbered = {"boot": "g", "seq": 4, "sender": "MG1"}
    late = told("agents/MG1/action", type="action", p_ess=0.0, missed=2, fallback_ess="silent", **numbered)
    setpoint = told("devices/MG1/ess/setpoint", type="setpoint", p_mw=0.02, lease_s=5.0, **numbered)
    found = seen(RUN, BIRTH, SPOKE, late, late, setpoint, setpoint)
    assert found["microgrids"]["MG1"]["missed_so_far"] == 2
    assert (found["devices"]["MG1/ess"]["fallbacks"], found["devices"]["MG1/ess"]["setpoints"]) == (1, 1)


def test_a_silent_device_is_said_to_be_silent_within_two_seconds() -> None:
    assert seen(RUN, BIRTH, SPOKE, now_s=NOW + SILENT_S - 0.1)["devices"]["MG1/ess"]["health"] == "online"
    found = seen(RUN, BIRTH, SPOKE, now_s=NOW + SILENT_S + 0.1)
    assert found["devices"]["MG1/ess"]["health"] == "silent"
    assert any("has published nothing for 2 s" in problem for problem in found["problems"])


def test_a_device_that_speaks_every_ten_seconds_is_not_silent_between() -> None:
    slow = [
        told("devices/MG1/ess/telemetry", at_s=NOW + 10.0 * n, p_mw=0.0, boot="d", seq=n, sender="MG1/ess")
        for n in range(4)
    ]
    last_s = NOW + 30.0
    assert seen(RUN, BIRTH, *slow, now_s=last_s + 12.0)["devices"]["MG1/ess"]["health"] == "online"
    assert seen(RUN, BIRTH, *slow, now_s=last_s + 16.0)["devices"]["MG1/ess"]["health"] == "silent"


def test_gaps_and_repeats_are_counted_by_channel() -> None:
    more = [told("devices/MG1/ess/telemetry", p_mw=0.0, boot="d", seq=n, sender="MG1/ess") for n in (4, 4, 5)]
    kind = seen(RUN, BIRTH, SPOKE, *more)["channels"]["devices/+/+/telemetry"]
    assert (kind["messages"], kind["lost"], kind["repeated"], kind["held"]) == (4, 2, 1, 0)
    assert kind["held_age_s"] == 0.0


@pytest.mark.parametrize(
    ("held_s", "age_s"), [(12.5, 12.5), (3, 3.0), (10**400, 0.0), (-1.0, 0.0), (True, 0.0), ("long", 0.0)]
)
def test_the_age_of_what_an_outbox_hands_over_is_shown_if_it_can_be_one(held_s: Any, age_s: float) -> None:
    late = told("devices/MG1/ess/telemetry", p_mw=0.0, boot="d", seq=9, sender="MG1/ess", held_s=held_s)
    kind = seen(RUN, BIRTH, SPOKE, late)["channels"]["devices/+/+/telemetry"]
    assert (kind["held"], kind["held_age_s"]) == (1, age_s)


def test_the_age_of_what_is_held_stays_a_minute_whatever_others_say_and_no_longer() -> None:
    telemetry = "devices/MG1/ess/telemetry"
    held = [told(telemetry, NOW + n, boot="d", seq=9 + n, sender="MG1/ess", held_s=50.0 - n) for n in (0, 1)]
    live = told("devices/MG1/pv/telemetry", NOW + 2, boot="p", seq=1, sender="MG1/pv")
    kept = told(telemetry, NOW + 2, retained=True, boot="d", seq=11, sender="MG1/ess", held_s=1e6)

    def age_s(after_s: float) -> float:
        found = seen(RUN, BIRTH, *held, live, kept, now_s=NOW + after_s)
        return float(found["channels"]["devices/+/+/telemetry"]["held_age_s"])

    assert [age_s(after_s) for after_s in (2, 60, 61, 62)] == [50.0, 50.0, 49.0, 0.0]


def test_a_fallback_and_its_reason_are_shown_while_they_last() -> None:
    away = told("agents/MG1/action", p_ess=0.0, fallback_ess="device silent")
    back = told("agents/MG1/action", p_ess=0.0)
    assert seen(RUN, BIRTH, SPOKE, away, away)["devices"]["MG1/ess"]["fallbacks"] == 2
    assert seen(RUN, BIRTH, SPOKE, away)["devices"]["MG1/ess"]["why"] == "device silent"
    assert seen(RUN, BIRTH, SPOKE, away, back)["devices"]["MG1/ess"]["why"] is None


def test_events_say_what_changed_and_not_what_was_repeated() -> None:
    stop = told("estop", retained=True, type="estop", active=True, who="ann", why="smoke")
    events = seen(RUN, BIRTH, SPOKE, BIRTH, stop, stop)["events"]
    assert [event["kind"] for event in events] == ["stop", "device", "run"]
    assert events[0]["what"] == "EMERGENCY STOP by ann: smoke"


def test_takeovers_refusals_and_confirmations_are_events() -> None:
    stop = told("estop", type="estop", active=True, who="ann", why="smoke", boot="o", seq=0)
    confirm = {"type": "estop_confirm", "active": True, "safe": True}
    first = {"type": "owner", "state": "holds", "who": "ann@lab pid 1", "boot": "a", "term": 1}
    refused = {"type": "authority_state", "level": "shadow", "requested": "full", "granted": False}
    rejected = {"p_mw": 0.0, "boot": "d", "sender": "MG1/ess", "rejected": "beyond the nameplate"}
    found = seen(
        *(RUN, BIRTH, SPOKE, stop),
        told("estop/confirm/MG1/ess", **confirm),
        told("estop/confirm/MG1/ess", **confirm),
        told("run/owner", **first),
        told("run/owner", **{**first, "state": "asks", "boot": "b"}),
        told("run/owner", **{**first, "who": "bob@lab pid 2", "boot": "b", "term": 2}),
        told("devices/MG1/ess/authority_state", **refused, reason="gate band: limited needs a band"),
        told("devices/MG1/ess/telemetry", **rejected, seq=2),
        told("devices/MG1/ess/telemetry", **rejected, seq=3),
    )
    events = [(one["kind"], one["subject"], one["what"]) for one in reversed(found["events"])][3:]
    assert events == [
        ("stop", "MG1/ess", "has confirmed the stop"),
        ("owner", "lab", "held by ann@lab pid 1 (boot a, no. 1 to hold it)"),
        ("owner", "lab", "held by bob@lab pid 2 (boot b, no. 2 to hold it)"),
        ("authority", "MG1/ess", "full REFUSED, it stays at shadow: gate band: limited needs a band"),
        ("refusal", "MG1/ess", "rejects its setpoint: beyond the nameplate"),
    ]


def test_what_a_stopped_device_rejects_is_counted_and_pushes_no_other_event_out() -> None:
    """The gateway asks for 0 in each step, and each is rejected: the stop itself must stay in sight."""
    stop = told("estop", type="estop", active=True, who="ann", why="smoke", boot="o", seq=0)
    stopped = {"p_mw": 0.0, "boot": "d", "sender": "MG1/ess", "stopped": True}
    said = [
        told(
            "devices/MG1/ess/telemetry",
            **stopped,
            seq=n,
            **({"rejected": "emergency stop"} if n % 2 == 0 else {}),
        )
        for n in range(2, 12)
    ]
    found = seen(RUN, BIRTH, SPOKE, stop, *said)
    assert found["rejected_in_stop"] == 5
    assert found["events"][0]["what"] == "EMERGENCY STOP by ann: smoke"
    release = told("estop", type="estop", active=False, who="ann", boot="o", seq=1)
    assert seen(RUN, BIRTH, SPOKE, stop, *said, release)["rejected_in_stop"] == 0


def test_a_network_and_its_results_are_kept_and_nothing_that_does_not_fit() -> None:
    buses = {"bus": ["a"], "bus_kv": [20.0], "bus_agent": [""], "bus_x": [0.0], "bus_y": [0.0]}
    network = told("run/network", retained=True, type="network", **buses, line=[], line_from=[], line_to=[])
    wrong = told(
        "run/network", retained=True, type="network", **buses, line=["l"], line_from=[0], line_to=[7]
    )
    results = told("run/grid", type="grid_results", vm_pu=[1.01], step=3, episode=1)

    async def look() -> LiveView:
        view = LiveView("mqtt://127.0.0.1:1")
        for message in (RUN, network, network, wrong, results):
            view._take(message)
        environment = view.snapshot()["environments"][0]
        assert environment["network"] == 1
        assert (environment["grid"]["vm_pu"], environment["grid"]["step"]) == ([1.01], 3)
        return view

    view = asyncio.run(look())
    assert (view.network("lab") or {})["bus"] == ["a"]
    assert view.network("other") is None


NUMBERS = st.integers() | st.just(10**400) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
CHANNELS = st.sampled_from(
    [
        *("run/state", "estop", "agents/MG1/action", "agents/MG1/observation", "agents/MG1/status", "junk"),
        *("devices/MG1/ess/setpoint", "devices/MG1/ess/telemetry", "devices/MG1/ess/lease", "a//b", "%2F"),
        *("operators/o/price", "devices/MG1/ess/authority_state", "estop/confirm/MG1/ess", "p2p/MG1/MG2"),
    ]
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["type", "state", "p_mw", "lease_s", "seq", "boot", "value", "p_ess", "soc_ess", "active", "step"]
    ),
    VALUES,
    max_size=6,
)


@given(st.lists(st.tuples(CHANNELS, FIELDS, st.booleans()), max_size=10))
def test_no_message_breaks_page_terminal_or_tail(messages: list[tuple[str, dict[str, Any], bool]]) -> None:
    lines = TailLines(many=True)

    async def look() -> None:
        view = LiveView("mqtt://127.0.0.1:1")
        view._take(RUN)
        for channel, fields, retained in messages:
            heard = Heard("lab", channel, fields, None, retained, 0.0)
            view._take(heard)
            lines.line(heard)
        snapshot = view.snapshot()
        json.dumps(snapshot, allow_nan=False)
        TopScreen().draw(snapshot, 80, 24)

    asyncio.run(look())


def test_what_is_kept_is_bounded() -> None:
    async def look() -> LiveView:
        view = LiveView("mqtt://127.0.0.1:1")
        for n in range(3 * MESSAGES):
            view._take(told(f"devices/MG1/d{n}/status", retained=True, state="online"))
        return view

    view = asyncio.run(look())
    assert len(view.messages) == MESSAGES
    assert len(view._live["lab"].events) == EVENTS
    assert [one["n"] for one in view.messages.newer(3 * MESSAGES - 2)] == [3 * MESSAGES - 1, 3 * MESSAGES]


def test_a_tail_line_has_engineering_units_and_gaps() -> None:
    lines = TailLines(many=False)
    channel, telemetry = "devices/MG1/ess/telemetry", {"type": "telemetry", "boot": "d"}
    first, style = lines.line(told(channel, **telemetry, p_mw=0.0123, soc=0.5, seq=1))
    assert first.endswith("devices/MG1/ess/telemetry  p=12.3kW soc=50.0%")
    assert style == "cyan"
    setpoint = {"p_mw": 0.01, "lease_s": 5.0, "renewal": False, "release": False, "heard_seq": 3}
    assert lines.line(told("devices/MG1/ess/setpoint", **setpoint))[0].endswith("setpoint  p=10kW lease=5s")
    second, _ = lines.line(told(channel, **telemetry, p_mw=0.0, seq=4))
    assert second.endswith("GAP of 2")
    unreadable, style = lines.line(Heard("lab", "estop", None, "payload is not JSON", False, 0.0))
    assert "UNREADABLE: payload is not JSON" in unreadable
    assert style == "red"


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline(deque([1.0, 2.0, 3.0])) == "▁▅█"
    assert sparkline(deque()) == ""


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_it_sees_a_real_broker(
    mosquitto: Mosquitto, env_id: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of("protocol"), protocol)

    async def look(site: Site) -> dict[str, Any]:
        async with LiveView(mosquitto.url, env_id) as view:
            await view.settle()
            site.say("devices/MG1/ess/telemetry", {"type": "telemetry", "p_mw": 0.01, "soc": 0.5})
            for _ in range(100):
                snapshot = view.snapshot()
                devices = snapshot["environments"][0]["devices"] if snapshot["environments"] else {}
                if devices.get("MG1/ess", {}).get("p_mw") is not None:
                    return snapshot
                await asyncio.sleep(0.02)
        raise AssertionError(snapshot)

    with Site(mosquitto.url, env_id) as site:
        site.run_state()
        site.bare_device("MG1/ess")
        snapshot = asyncio.run(look(site))
    assert snapshot["connected"]
    assert snapshot["environments"][0]["env_id"] == env_id


PIECES = st.lists(
    st.tuples(
        st.sampled_from(
            ["devices/MG1/ess/telemetry", "devices/MG1/pv/telemetry", "devices/MG1/ess/setpoint"]
        ),
        st.dictionaries(
            st.sampled_from(
                ["p_mw", "seq", "boot", "sender", "held_s", "rejected", "soc", "lease_s", "more"]
            ),
            st.sampled_from([0.0, 0.5, 1, 2, 3, 4, "a", "b", None]),
            max_size=6,
        ).map(lambda fields: {"p_mw": 0.25, "boot": "d", **fields}),
        st.booleans(),
    ),
    max_size=12,
)


@given(PIECES)
def test_what_comes_in_one_piece_is_what_comes_one_by_one(
    pieces: list[tuple[str, dict[str, Any], bool]],
) -> None:
    async def look(*, together: bool) -> tuple[dict[str, Any], list[str]]:
        loop = asyncio.get_running_loop()
        loop.time = lambda: NOW  # type: ignore[method-assign]
        view = LiveView("mqtt://127.0.0.1:1")
        for message in (RUN, BIRTH):
            view._take(message)
        raw = [
            (f"heron/lab/{channel}".encode(), json.dumps(fields).encode(), int(retained))
            for channel, fields, retained in pieces
        ]
        if together:
            view._take_all(raw)
        else:
            for message in raw:
                view._take(view._observer.heard(message, NOW))  # type: ignore[arg-type]
        environment = view.snapshot()["environments"][0]
        for event in environment["events"]:
            del event["at"]
        return environment, [one["text"] for one in view.messages.newer(0)]

    assert asyncio.run(look(together=True)) == asyncio.run(look(together=False))


def test_telemetry_that_an_outbox_had_kept_is_not_of_now() -> None:
    kept = told(
        "devices/MG1/ess/telemetry", p_mw=0.5, held_s=9.0, rejected="old", boot="d", seq=2, sender="MG1/ess"
    )
    found = seen(RUN, BIRTH, SPOKE, kept)
    assert found["devices"]["MG1/ess"]["p_mw"] == 0.01
    assert not [event for event in found["events"] if event["kind"] == "refusal"]


def test_a_view_gets_the_parts_that_it_shows() -> None:
    async def look() -> dict[str, Any]:
        view = LiveView("mqtt://127.0.0.1:1")
        for message in (RUN, BIRTH, SPOKE):
            view._take(message)
        assert "outboxes" in view.snapshot()["environments"][0]
        return dict(view.snapshot({"channels"})["environments"][0])

    found = asyncio.run(look())
    assert {"channels"} == PARTS & found.keys() - {"devices"}
    assert found["devices"] == {"MG1/ess": {"health": "silent", "p_mw": 0.01}}


def test_a_message_that_comes_late_is_no_longer_lost() -> None:
    more = [told("devices/MG1/ess/telemetry", p_mw=0.0, boot="d", seq=n, sender="MG1/ess") for n in (4, 2)]
    kind = seen(RUN, BIRTH, SPOKE, *more)["channels"]["devices/+/+/telemetry"]
    assert (kind["lost"], kind["repeated"]) == (1, 0)


def test_a_flood_of_senders_and_environments_is_bounded() -> None:
    async def look() -> LiveView:
        view = LiveView("mqtt://127.0.0.1:1")
        for n in range(3 * ENVIRONMENTS):
            view._take(
                Heard(f"e{n}", "run/state", {"type": "run_state", "state": "running"}, None, False, 0.0)
            )
        for n in range(1_000):
            view._take(
                Heard("e0", f"made/up/{n}", {"boot": "b", "seq": 1, "sender": str(n)}, None, False, 0.0)
            )
        return view

    view = asyncio.run(look())
    assert view.unseen == 2 * ENVIRONMENTS
    assert len(view._live["e0"].channels.kinds) == KINDS + 1


def test_rates_are_of_the_last_whole_seconds() -> None:
    spoken = [
        told("devices/MG1/ess/telemetry", at_s=NOW + n / 10, p_mw=0.0, boot="d", seq=n, sender="MG1/ess")
        for n in range(100)
    ]
    kind = seen(RUN, BIRTH, *spoken, now_s=NOW + 10.0)["channels"]["devices/+/+/telemetry"]
    assert kind["rate"] == 10.0


def test_a_device_that_is_spelled_in_many_ways_is_one_and_what_reads_it_stays_bounded() -> None:
    spelled = [f"devices/MG1/e%{ord('s'):02x}s/telemetry", "devices/%4dG1/ess/telemetry"]
    live_view = LiveView("mqtt://127.0.0.1:1")
    loop = asyncio.new_event_loop()

    async def look() -> None:
        for channel in spelled:
            live_view._take(told(channel, p_mw=0.01, boot="d", seq=1, sender="MG1/ess"))

    loop.run_until_complete(look())
    loop.close()
    (live,) = live_view._live.values()
    live._readers |= {f"x{n}": next(iter(live._readers.values())) for n in range(MAX_NAMES)}
    assert (
        live.take(told("devices/MG1/pv/telemetry", p_mw=0.01, boot="d", seq=1, sender="MG1/pv")) is not None
    )
    assert len(live._readers) == 1
    assert set(live_view.environments["lab"].devices) == {"MG1/ess", "MG1/pv"}
