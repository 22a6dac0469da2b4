"""VendorState: what is known of one device, how old it is, and why something is not known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.payloads import MAX_PAYLOAD_BYTES
from heron_mqtt.field.vendor.vendor_state import TOGETHER_S, ReportLine, StateUpdate, VendorState

NOW_UTC_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z
POWER: dict[str, Any] = {"topic": "p", "format": "text", "fields": {"p_mw": {"unit": "W"}}}
LWT = {"topic": "s", "online": ["on"], "offline": ["off"], "other": "ignore"}
QUIET: dict[str, Any] = {
    "telemetry": [{**POWER, "reports": "on_change"}],
    "availability": [LWT],
    "liveness": {"by": "availability"},
}


def state(*telemetry: dict[str, Any], **table: Any) -> VendorState:
    given = {"telemetry": list(telemetry) or [POWER], **table}
    mapping = load_mapping(given, agent="MG1", device="ess", source="test")
    return VendorState(mapping, lambda: NOW_UTC_S)


def text(name: str, **keys: Any) -> dict[str, Any]:
    """Return a topic with one input, of the same name."""
    return {"topic": name, "format": "text", "inputs": {name: keys}}


def take(
    device: VendorState, topic: str, payload: Any, now_s: float = 0.0, *, retained: bool = False
) -> StateUpdate:
    raw = payload if isinstance(payload, bytes) else str(payload).encode()
    taken = device.take(topic, raw, now_s, retained=retained)
    assert taken is not None
    return taken


def line(device: VendorState, name: str, now_s: float = 0.0) -> ReportLine:
    return next(each for each in device.report(now_s) if each.name == name)


# -- what comes ----------------------------------------------------------------------------------------


def test_only_what_comes_live_is_heard() -> None:
    device = state(availability=[LWT])
    assert not device.is_heard
    take(device, "p", 5, retained=True)
    assert not device.is_heard
    assert device.take("other", b"5", 0.0) is None
    assert not device.is_heard
    take(device, "s", "on")
    assert device.is_heard, "any message, where nothing says what proves life"


def test_what_proves_life_is_what_the_mapping_says() -> None:
    device = state(
        {**POWER, "reports": "on_change"},
        text("a"),
        liveness={"by": "heartbeat", "topic": "alive"},
        availability=[LWT],
    )
    for topic in ("a", "s"):
        take(device, topic, "on")
        assert not device.is_heard
    take(device, "alive", "tick", retained=True)
    assert not device.is_heard
    assert take(device, "alive", "tick", 3.0) == StateUpdate()
    assert device.is_heard
    take(device, "p", 5, 4.0)
    assert device.age_s("p_mw", 6.0) == 2.0
    take(device, "alive", "tick", 7.0)
    assert device.age_s("p_mw", 9.0) == 2.0, "while it is heard its last power is of now"


def test_a_payload_is_no_longer_than_64_kib() -> None:
    device = state()
    assert not take(device, "p", b" " * (MAX_PAYLOAD_BYTES - 1) + b"5").problems
    taken = take(device, "p", b" " * MAX_PAYLOAD_BYTES + b"5")
    assert taken == StateUpdate(problems=("p: payload of 65537 bytes is over 65536",))
    assert line(device, "p_mw").payloads == 1


def test_what_cannot_be_read_is_counted_and_shown_with_its_reason() -> None:
    device = state(
        {"topic": "p", "fields": {"p_mw": {"path": "p", "unit": "W"}}, "inputs": {"a": {"path": "a"}}}
    )
    assert (line(device, "a").why, line(device, "a").age_s) == ("nothing has come", math.inf)
    taken = take(device, "p", "{")
    why = taken.problems[0].removeprefix("p: ")
    for name in ("p_mw", "a"):
        shown = line(device, name)
        assert (shown.payloads, shown.sample, shown.value) == (1, "'{'", None)
        assert why in shown.why
    taken = take(device, "p", '{"p": 5, "a": "x"}', 1.0)
    assert (taken.fields, taken.problems) == ({"p_mw": 5e-6}, ("p: a gave 'x', expected a number",))
    assert line(device, "a").why == "a gave 'x', expected a number"
    assert line(device, "p_mw", 3.0) == ReportLine(
        "p_mw", ("p",), 5e-6, 2.0, 2, repr('{"p": 5, "a": "x"}'), ""
    )
    taken = take(device, "p", b"", 4.0)
    assert (taken.fields, taken.problems) == ({}, ())
    assert line(device, "p_mw", 4.0).why == "p_mw (p): the payload is empty"


def test_a_message_of_a_sparkplug_node_that_is_none_is_counted_with_its_reason() -> None:
    topic = "spBv1.0/g/DDATA/n/d"
    device = state({"topic": topic, "format": "sparkplug", "fields": {"p_mw": {"metric": "P", "unit": "W"}}})
    taken = take(device, topic, b"\xff")
    shown = line(device, "p_mw")
    assert (shown.payloads, shown.sample) == (1, "'hex ff'")
    assert "not a Sparkplug B payload" in taken.problems[0]
    assert "not a Sparkplug B payload" in shown.why


# -- presence ------------------------------------------------------------------------------------------


def test_a_word_that_is_to_be_ignored_is_a_problem_with_its_topic() -> None:
    device = state(availability=[LWT])
    assert take(device, "s", "what").problems == ("s: availability 'what': expected one of on, off",)
    assert device.status() is None


def test_what_is_reported_on_change_is_forgotten_once_when_the_device_goes_offline() -> None:
    device = state(**QUIET)
    take(device, "s", "on")
    take(device, "p", 5)
    assert device.telemetry() is not None
    take(device, "s", "on", 1.0)
    assert device.telemetry() is not None
    take(device, "s", "off", 2.0)
    assert device.telemetry() is None
    assert device.why("p_mw", 2.0) == "p_mw (p): not reported since the device went offline"
    take(device, "p", 7, 3.0)
    take(device, "s", "off", 4.0)  # the same word again: nothing was missed in between
    assert device.telemetry() is not None


def test_what_is_reported_on_change_is_forgotten_over_a_lost_connection_where_life_is_proven() -> None:
    for quiet, why in ((True, "p_mw (p): not reported since the connection was lost"), (False, "")):
        device = state(**QUIET) if quiet else state()
        take(device, "p", 5)
        device.reconnected(0.0)
        assert (device.telemetry() is None) is quiet
        assert device.why("p_mw", 0.0) == why


def test_what_was_to_be_made_of_changes_is_not_made_once_they_are_doubted() -> None:
    changing = [{**text(name), "reports": "on_change"} for name in "ab"]
    device = state(
        *changing,
        quantities={"p_mw": {"formula": "a + b", "unit": "W"}, "q_mvar": {"formula": "a - b", "unit": "var"}},
        liveness={"by": "heartbeat", "topic": "alive"},
    )
    take(device, "a", 5, 1.0)
    assert device.due_s is None
    take(device, "b", 2, 2.0)
    assert device.due_s == 2.0 + TOGETHER_S
    device.doubt("lost")
    assert device.due_s is None
    assert device.settle(9.0) == StateUpdate()


def test_online_proves_life_only_where_the_mapping_says_so_and_the_topic_has_spoken() -> None:
    device = state(**QUIET)
    device.connected(1.0)
    assert not device.is_heard
    take(device, "s", "on", retained=True)
    device.connected(2.0)
    assert device.is_heard
    device = state(**QUIET)
    take(device, "s", "off", retained=True)
    device.connected(2.0)
    assert not device.is_heard
    plain = state(availability=[LWT])
    take(plain, "s", "on", retained=True)
    plain.connected(2.0)
    assert not plain.is_heard


def test_while_offline_counts_what_the_mapping_says_of_it() -> None:
    power = {"column": 0, "unit": "W", "offline": 0.0}
    table = {"p_mw": power, "soc": {"column": 1, "unit": "percent"}}
    device = state({"topic": "p", "format": "csv", "fields": table}, availability=[{**LWT, "fault": ["bad"]}])
    assert device.offline_values() == {}
    take(device, "p", "5,50")
    for word in ("on", "bad"):
        take(device, "s", word)
        assert device.offline_values() == {}
    take(device, "s", "off", 1.0)
    assert device.offline_values() == {"p_mw": 0.0}
    told = device.telemetry(999.0, 1.0)
    assert told is not None
    assert (told.p_mw, told.soc) == (0.0, 0.5)


# -- registers -----------------------------------------------------------------------------------------


def registers() -> VendorState:
    table = {
        "registers": {"w": {"address": 1}, "on": {"address": 2, "absent": [9]}},
        "quantities": {"p_mw": {"formula": "w", "unit": "W"}},
        "availability": [{"register": "on", "online": ["1"], "offline": ["0"], "other": "ignore"}],
    }
    return VendorState(load_mapping(table, agent="MG1", device="ess", source="test"))


def test_what_was_read_of_registers_is_taken_with_its_presence() -> None:
    device = registers()
    assert device.take_document(
        "registers", {}, 1.0, shown={}, unread={"silent": ("w", "on")}
    ) == StateUpdate(problems=("registers: silent (w, on)",))
    assert not device.is_heard
    assert device.why("p_mw", 1.0) == "w (registers): silent"
    taken = device.take_document(
        "registers", {"w": 5, "on": 1.0}, 2.0, shown={"w": "0005 = 5", "on": "0001 = 1"}
    )
    assert taken == StateUpdate({"p_mw": 5e-6})
    assert device.is_heard
    assert (line(device, "w").sample, line(device, "w").payloads, line(device, "on").value) == (
        "0005 = 5",
        1,
        1.0,
    )
    status = device.status()
    assert status is not None
    assert status.state == "online"
    for value, problems in (
        (9, ()),
        (None, ()),
        (5, ("register on: availability '5': expected one of 1, 0",)),
    ):
        taken = device.take_document("registers", {"on": value}, 3.0, shown={"on": "x"})
        assert taken is not None
        assert taken.problems == problems
        assert device.status() == status
    assert line(device, "w").payloads == 1, "of this register nothing came"
    device.take_document("registers", {"on": 0}, 4.0, shown={"on": "x"})
    status = device.status()
    assert status is not None
    assert (status.state, status.reason) == ("offline", "register on: 0")


def test_a_document_is_shown_by_its_beginning() -> None:
    device = registers()
    document = {"w": 5, "x": "y" * 60}
    device.take_document("registers", document, 1.0)
    assert line(device, "w").sample == repr(document)[:60]


# -- what is old ---------------------------------------------------------------------------------------


def stamped(**table: Any) -> VendorState:
    inputs = {"t": {"path": "t", "time": "unix_s"}, "n": {"path": "n"}, "a": {"path": "a"}}
    return state(
        {"topic": "p", "fields": {"p_mw": {"path": "p", "unit": "W"}}, "inputs": inputs, **table},
        text("b"),
        quantities={"q_mvar": {"formula": "a + b", "unit": "var", "update": "each"}},
    )


def fields(device: VendorState, now_s: float = 0.0, *, retained: bool = False, **document: Any) -> Any:
    return take(device, "p", json.dumps({"p": 5, "a": 1, **document}), now_s, retained=retained).fields


@pytest.mark.parametrize(
    ("off_s", "why"),
    [
        (0.0, ""),
        (60.0, ""),
        (-60.0, ""),
        (61.0, "its t says 2023-11-14T22:12:19Z: 61 s old"),
        (-61.0, "its t says 2023-11-14T22:14:21Z: 61 s ahead of our clock"),
        (-1e300, "its t says 1e+300: 1" + "0" * 15),
    ],
)
def test_a_payload_of_another_time_is_not_of_now(off_s: float, why: str) -> None:
    device = stamped(timestamp="t")
    assert fields(device, t=NOW_UTC_S - off_s) == ({} if why else {"p_mw": 5e-6})
    assert device.why("p_mw", 0.0).removeprefix("p_mw (p): ").startswith(why)
    assert bool(device.why("p_mw", 0.0)) is bool(why)
    telemetry = device.telemetry()
    assert telemetry is not None, "an old value is one, of unknown age"
    assert telemetry.p_mw == 5e-6
    assert device.age_s("p_mw", 1.0) == (math.inf if why else 1.0)


def test_without_its_time_a_payload_is_not_of_now() -> None:
    device = stamped(timestamp="t", timestamp_tolerance_s=5.0)
    assert fields(device) == {}
    assert device.why("p_mw", 0.0) == "p_mw (p): the time of the measurement (t) is not known"
    assert fields(device, t=NOW_UTC_S - 5.0) == {"p_mw": 5e-6}
    assert fields(device, t=NOW_UTC_S - 5.5) == {}


def test_a_payload_is_new_when_its_counter_has_changed() -> None:
    device = stamped(changed_by="n")
    assert fields(device) == {}
    assert device.why("p_mw", 0.0) == "p_mw (p): n is not known"
    assert fields(device, n=1) == {}
    assert device.why("p_mw", 0.0) == "p_mw (p): n has not changed yet"
    assert line(device, "n", 2.0).age_s == 2.0
    assert fields(device, 1.0, n=2) == {"p_mw": 5e-6}
    assert device.why("p_mw", 1.0) == ""
    assert fields(device, 5.0, n=2, p=7) == {}
    assert device.why("p_mw", 5.0) == "n has not changed: 2.0"
    telemetry = device.telemetry(5.0)
    assert telemetry is not None
    assert (telemetry.p_mw, device.age_s("p_mw", 5.0)) == (5e-6, 4.0), "the last one ages"
    assert fields(device, 6.0, n=3, p=7) == {"p_mw": 7e-6}


def test_a_kept_counter_and_a_kept_value_have_no_age() -> None:
    device = stamped(changed_by="n")
    assert fields(device, 1.0, retained=True, n=1) == {}
    assert line(device, "n", 2.0).age_s == math.inf
    kept = "only a retained value has come: how old it is is not known"
    assert device.why("p_mw", 1.0) == f"p_mw (p): {kept}"
    assert device.age_s("p_mw", 1.0) == math.inf
    assert fields(device, 2.0, n=1) == {}
    assert fields(device, 3.0, n=2) == {"p_mw": 5e-6}
    assert fields(device, 4.0, retained=True, n=9) == {}
    assert device.why("p_mw", 4.0) == "", "a live one is known"


def test_a_kept_value_counts_until_a_live_one_comes_and_a_quantity_once_all_of_it_is_known() -> None:
    device = stamped()
    assert fields(device, retained=True) == {}
    told = device.telemetry()
    assert told is not None
    assert (told.p_mw, told.q_mvar) == (5e-6, 0.0)
    assert device.missing() == ("q_mvar",)
    take(device, "b", 4, retained=True)
    told = device.telemetry()
    assert told is not None
    assert told.q_mvar == 5e-6
    assert device.ages_s(1.0) == {"p_mw": math.inf, "q_mvar": math.inf}
    assert fields(device, retained=True, p=None) == {}
    assert device.inputs["p_mw"] == 5.0, "nothing that was kept takes away what is known"


def test_what_cannot_be_made_of_kept_values_says_why() -> None:
    device = state(text("a"), text("b"), quantities={"p_mw": {"formula": "a / b", "unit": "W"}})
    take(device, "a", 5, retained=True)
    take(device, "b", 0, retained=True)
    assert device.why("p_mw", 0.0) == "p_mw: a / b: a division by zero"


# -- quantities ----------------------------------------------------------------------------------------


def test_what_could_not_be_made_is_said_until_it_could() -> None:
    device = state(
        {"topic": "p", "inputs": {"a": {"path": "a"}, "b": {"path": "b"}}},
        quantities={"p_mw": {"formula": "a / b", "unit": "W"}},
    )
    taken = take(device, "p", '{"a": 6, "b": 0}')
    assert (taken.fields, taken.problems) == ({}, ("p: p_mw: a / b: a division by zero",))
    assert device.why("p_mw", 0.0) == "p_mw: a / b: a division by zero"
    assert line(device, "p_mw").why == "p_mw: a / b: a division by zero"
    assert take(device, "p", '{"a": 6, "b": 2}').fields == {"p_mw": 3e-6}
    assert device.why("p_mw", 0.0) == ""


def test_changes_are_taken_together_after_a_moment() -> None:
    changing = [text("a", on_change=True), text("b", on_change=True), text("c", on_change=True)]
    device = state(
        *changing,
        quantities={"p_mw": {"formula": "a / b", "unit": "W"}, "q_mvar": {"formula": "b + c", "unit": "var"}},
    )
    take(device, "a", 6, 1.0)
    take(device, "b", 0, 2.0)
    take(device, "c", 5, 3.0)
    assert device.due_s == 2.0 + TOGETHER_S
    assert device.settle(2.0 + TOGETHER_S - 0.001) == StateUpdate()
    assert device.settle(2.0 + TOGETHER_S) == StateUpdate({}, ("p_mw: a / b: a division by zero",))
    assert device.due_s == 3.0 + TOGETHER_S
    assert device.settle(9.0) == StateUpdate({"q_mvar": 5e-6})
    assert device.due_s is None


def test_changes_that_were_kept_by_the_broker_make_nothing_new_before_the_device_is_heard() -> None:
    device = state(text("a", on_change=True), text("b"), quantities={"p_mw": {"formula": "a", "unit": "W"}})
    assert take(device, "a", 6, retained=True).fields == {}
    told = device.telemetry()
    assert told is not None
    assert device.age_s("p_mw", 1.0) == math.inf
    take(device, "b", 1, 2.0)
    assert device.age_s("p_mw", 3.0) == 1.0


def test_a_quantity_of_several_topics_says_what_it_waits_for() -> None:
    device = state(text("a"), text("b"), quantities={"p_mw": {"formula": "a + b", "unit": "W"}})
    assert device.why("p_mw", 0.0) == "a (a): nothing has come; b (b): nothing has come"
    take(device, "a", 1, 1.0)
    assert device.why("p_mw", 1.0) == "b (b): nothing has come"
    take(device, "b", 1, 1.1)
    assert device.why("p_mw", 1.1) == ""
    take(device, "a", 2, 3.0)
    wanted = (
        "waits for b (b) (last 3 s ago); an input that is sent only when it changes needs on_change = true"
    )
    assert device.why("p_mw", 4.0) == wanted
    single = state()
    take(single, "p", 1)
    assert single.why("p_mw", 9.0) == ""


def test_an_input_that_waits_for_nothing_says_its_own_reason() -> None:
    device = state(text("a"), quantities={"p_mw": {"formula": "a", "unit": "W"}})
    take(device, "a", 5)
    take(device, "a", "x", 1.0)
    assert device.why("p_mw", 1.0) == "a: the payload gave 'x', expected a number"
    take(device, "a", 5, 2.0)
    assert device.why("p_mw", 2.0) == ""


def test_the_sample_of_a_quantity_is_of_its_busiest_topic() -> None:
    device = state(text("a"), text("b"), quantities={"p_mw": {"formula": "a + b", "unit": "W"}})
    take(device, "a", 1)
    for _ in range(2):
        take(device, "b", 22)
    shown = line(device, "p_mw")
    assert (shown.topics, shown.sample, shown.payloads) == (("a", "b"), "'22'", 3)


def test_power_counts_for_so_long_and_other_quantities_always() -> None:
    table = {
        "topic": "p",
        "fields": {"p_mw": {"path": "p", "unit": "W"}, "soc": {"path": "s", "unit": "percent"}},
    }
    device = state(table)
    assert device.telemetry() is None
    take(device, "p", '{"s": 50}')
    assert device.telemetry() is None
    take(device, "p", '{"p": 5, "s": 50}', 1.0)
    for now_s, counts in ((6.0, True), (6.1, False)):
        assert (device.telemetry(now_s, 5.0) is not None) is counts
    take(device, "p", '{"p": 6}', 9.0)
    told = device.telemetry(9.0, 5.0)
    assert told is not None
    assert (told.p_mw, told.soc) == (6e-6, None), "a missing value is not the last one"
    assert device.age_s("soc", 9.0) == math.inf


def test_one_input_of_several_topics_is_the_newest_of_them() -> None:
    device = state(
        {"topic": "x", "format": "text", "inputs": {"a": {}}},
        {"topic": ["y", "x"], "format": "csv", "inputs": {"a": {"column": 0}}},
        quantities={"p_mw": {"formula": "a", "unit": "W"}},
    )
    take(device, "y", 7)
    assert (line(device, "a").topics, line(device, "a").value) == (("x", "y"), 7.0)


# -- payloads of several kinds on one topic ------------------------------------------------------------

FRAMES: dict[str, Any] = {
    "topic": "raw",
    "format": "binary",
    "when": "kind == 3",
    "inputs": {"kind": {"struct": "B"}, "a": {"struct": ">h", "at": 1}},
}
P_OF_A = {"p_mw": {"formula": "a", "unit": "W"}}


def test_a_payload_of_another_kind_is_not_read() -> None:
    device = state(FRAMES, quantities=P_OF_A)
    update = take(device, "raw", b"\x04\x7f\xff", 0.0)
    assert (update.fields, update.problems) == ({}, ())
    assert line(device, "p_mw").why == "a (raw): when: kind == 3 is not true of it (kind = 4.0)"
    assert not device.is_heard, "nothing has come that says it is of this device"
    assert take(device, "raw", b"\x03\x01\xf4", 1.0).fields == {"p_mw": pytest.approx(0.0005)}
    assert take(device, "raw", b"\x04\x00\x00", 2.0).fields == {}
    assert device.telemetry(2.0) is not None
    assert device.age_s("p_mw", 2.0) == 1.0, "another kind of payload makes nothing fresh"
    assert line(device, "p_mw", 2.0).why == ""


def test_two_tables_read_the_kinds_of_one_topic() -> None:
    kind = {"path": "type", "type": "text"}
    power = {"topic": "box", "when": "kind == 'power'", "inputs": {"kind": kind}}
    power["fields"] = {"p_mw": {"path": "v", "unit": "W"}}
    level = {"topic": "box", "when": "kind == 'level'", "inputs": {"kind": kind}}
    level["fields"] = {"soc": {"path": "v", "unit": "percent"}}
    device = state(power, level)
    take(device, "box", json.dumps({"type": "power", "v": 90}))
    take(device, "box", json.dumps({"type": "level", "v": 50}))
    take(device, "box", json.dumps({"v": 70}))
    take(device, "box", json.dumps({"type": {"odd": 1}, "v": 70}))
    told = device.telemetry()
    assert told is not None
    assert (told.p_mw, told.soc) == (pytest.approx(90e-6), 0.5)


def test_a_payload_of_another_kind_does_not_count_as_a_sign_of_life() -> None:
    of_one = {"topic": "bus", "when": "id == 'A'", "inputs": {"id": {"path": "id", "type": "text"}}}
    of_one["fields"] = {"p_mw": {"path": "p", "unit": "W", "on_change": True}}
    device = state(of_one)
    take(device, "bus", json.dumps({"id": "A", "p": 5}), 0.0)
    take(device, "bus", json.dumps({"id": "B", "p": 9}), 100.0)
    assert device.age_s("p_mw", 100.0) == 100.0
    take(device, "bus", json.dumps({"id": "A"}), 101.0)
    assert device.age_s("p_mw", 101.0) == 0.0


# -- counters ------------------------------------------------------------------------------------------

RATE = {"per": "h", "over_s": 10}


def test_a_counter_of_energy_gives_power() -> None:
    field = {"path": "wh", "rate": RATE, "unit": "W", "sign": -1}
    device = state({"topic": "m", "fields": {"p_mw": field}})
    assert take(device, "m", '{"wh": 500}', 0.0).fields == {}
    assert line(device, "p_mw").why == "p_mw (m): a counter: its rate is known after a second reading"
    update = take(device, "m", '{"wh": 510}', 10.0)
    assert update.fields == {"p_mw": pytest.approx(-0.0036)}
    update = take(device, "m", '{"wh": 3}', 20.0)
    assert update.problems == ("m: p_mw: the counter went from -510 back to -3: the rate starts again",)
    assert device.age_s("p_mw", 20.0) == 10.0, "the last power stays and gets older"


def test_a_counter_is_timed_by_the_time_in_its_payload() -> None:
    table = {"topic": "m", "timestamp": "t", "timestamp_tolerance_s": 90}
    table["inputs"] = {"t": {"path": "t", "time": "unix_s"}, "e": {"path": "wh", "rate": RATE}}
    device = state(table, quantities={"p_mw": {"formula": "-e", "unit": "W"}})
    take(device, "m", json.dumps({"wh": 0, "t": NOW_UTC_S - 40}), 0.0)
    update = take(device, "m", json.dumps({"wh": 20, "t": NOW_UTC_S - 20}), 0.5)
    assert update.fields == {"p_mw": pytest.approx(-0.0036)}


def test_a_retained_reading_of_a_counter_is_no_power() -> None:
    device = state({"topic": "m", "fields": {"p_mw": {"path": "wh", "rate": RATE, "unit": "W"}}})
    take(device, "m", '{"wh": 500}', 0.0, retained=True)
    assert device.telemetry() is None
    take(device, "m", '{"wh": 900}', 20.0)
    assert device.telemetry(20.0) is None, "since when it stood at 500 is not known"
    take(device, "m", '{"wh": 910}', 30.0)
    assert device.telemetry(30.0) is not None
