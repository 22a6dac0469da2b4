"""Values of several topics: never half new, whatever is lost, late, repeated or retained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.rounds import TopicRound
from heron_mqtt.field.vendor.vendor_state import VendorState
from support.rows import each_row


def state(quantity: dict[str, Any], *inputs: dict[str, Any], **others: Any) -> VendorState:
    """Return the state of a device with inputs a, b, ... on topics of these names."""
    telemetry = [
        {"topic": name, "format": "text", "inputs": {name: table}}
        for name, table in zip("abc", inputs, strict=False)
    ]
    table = {"telemetry": telemetry, "quantities": {"p_mw": {"unit": "MW", **quantity}}, **others}
    return VendorState(load_mapping(table, agent="MG1", device="ess", source="test"))


def power(device: VendorState, now_s: float, max_age_s: float = 5.0) -> float | None:
    device.settle(now_s)
    telemetry = device.telemetry(now_s, max_age_s)
    return None if telemetry is None else telemetry.p_mw


Seen = tuple[bool, bool, bool]
WHOLE: Seen = (True, True, True)
BROKEN = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=3)


@given(broken=st.lists(BROKEN, max_size=8), order=st.permutations("abc"))
def test_numbers_of_two_rounds_never_stand_in_one_value(broken: list[list[Seen]], order: list[str]) -> None:
    """Up to three rounds in a row lose any of their messages, between whole ones."""
    device = state({"formula": "a * 1e6 + b * 1e3 + c"}, {}, {}, {})
    arrives = [WHOLE, *(seen for some in broken for seen in [*some, WHOLE])]
    for number, seen in enumerate(arrives, start=1):
        for topic, is_seen in zip(order, seen, strict=True):
            if is_seen:
                device.take(topic, str(number).encode(), float(number))
        value = power(device, float(number), max_age_s=0.0)
        assert value == (number * 1_001_001 if all(seen) else None)


@given(
    lost=st.sets(st.integers(9, 59), max_size=25),
    first=st.integers(0, 2),
    apart_s=st.sampled_from([0.001, 0.05, 0.3]),
    period_s=st.sampled_from([1.0, 1.5]),
)
def test_neither_losses_nor_a_start_in_the_middle_mix_rounds_for_good(
    lost: set[int], first: int, apart_s: float, period_s: float
) -> None:
    """Rounds of three: the first not whole, later ones lossy; in the end each value is of one round."""
    device = state({"formula": "a * 1e6 + b * 1e3 + c"}, {}, {}, {})
    made = []
    for number in range(30):
        for place, topic in enumerate("abc"):
            at = number * period_s + place * apart_s
            index = number * 3 + place
            if index < first or (index in lost and number < 20):
                continue
            taken = device.take(topic, str(number).encode(), at)
            assert taken is not None
            if "p_mw" in taken.fields:
                made.append((number, taken.fields["p_mw"] / 1_001_001.0))
    whole = [number for number, value in made if value == number]
    assert whole[-8:] == list(range(22, 30))  # in step again, and for good
    if apart_s < 0.1:
        assert len(whole) == len(made)  # and never out of it, where a round shows in its times


def test_topics_that_come_evenly_spread_make_a_value_each_time_round() -> None:
    device = state({"formula": "a + b + c"}, {}, {}, {})
    made = 0
    for number in range(30):
        taken = device.take("abc"[number % 3], b"1", number * 1.0)
        assert taken is not None
        made += "p_mw" in taken.fields
    assert made >= 8


def test_messages_of_a_round_that_lie_too_far_apart_are_none() -> None:
    device = state({"formula": "a + b", "within_s": 2.0}, {}, {})
    device.take("a", b"1", 0.0)
    device.take("b", b"2", 2.5)
    assert power(device, 2.5) is None
    device.take("a", b"3", 2.6)
    assert power(device, 2.6) == 5.0


def test_each_takes_what_is_young_enough() -> None:
    device = state({"formula": "a + b", "within_s": 2.0, "update": "each"}, {}, {})
    for topic, payload, now_s, wanted in [
        ("a", b"1", 0.0, None),
        ("b", b"2", 1.0, 3.0),
        ("b", b"4", 2.0, 5.0),
        ("b", b"8", 2.5, 5.0),  # a is too old: the last value ages
        ("a", b"16", 3.0, 24.0),
    ]:
        device.take(topic, payload, now_s)
        assert power(device, now_s) == wanted
    assert device.age_s("p_mw", 4.0) == 1.5  # that of its oldest input


def test_what_is_sent_on_change_is_not_waited_for_and_counts_from_the_broker_too() -> None:
    device = state({"formula": "a * b"}, {}, {"on_change": True})
    device.take("b", b"-1", 0.0, retained=True)
    assert power(device, 0.0) is None
    device.take("a", b"5", 1.0)
    assert power(device, 1.0) == -5.0
    device.take("b", b"1", 2.0)
    assert power(device, 2.0) == -5.0  # with the next a
    device.take("a", b"6", 3.0)
    assert power(device, 3.0) == 6.0


def test_changes_that_belong_together_are_taken_together_and_live_as_long_as_the_device_is_heard() -> None:
    device = state({"formula": "b - a"}, {"on_change": True}, {"on_change": True})
    assert device.due_s is None
    device.take("a", b"7", 0.0)
    device.take("b", b"0", 0.1)
    assert device.due_s == pytest.approx(0.3)
    assert power(device, 0.31) == -7.0
    device.take("a", b"0", 10.0)
    assert power(device, 10.1) == -7.0  # b may follow
    device.take("b", b"9", 10.15)
    assert power(device, 10.21) == 9.0
    assert power(device, 20.0) is None  # nothing was heard of it for too long


def test_retained_values_alone_have_no_age() -> None:
    device = state({"formula": "a + b"}, {}, {})
    for topic in "ab":
        device.take(topic, b"1", 0.0, retained=True)
    assert power(device, 0.0) is None
    assert device.telemetry() is not None  # of any age
    device.take("a", b"2", 1.0)
    assert power(device, 1.0) is None  # half of it is retained
    device.take("b", b"3", 1.1)
    assert power(device, 1.1) == 5.0
    device.take("a", b"9", 1.2, retained=True)  # again, after a reconnection
    device.take("b", b"9", 1.2, retained=True)
    assert power(device, 1.2) == 5.0


def test_a_value_that_is_cleared_takes_what_is_made_of_it_along() -> None:
    device = state({"formula": "a + b"}, {}, {})
    device.take("a", b"1", 0.0)
    device.take("b", b"2", 0.0)
    device.take("a", b"none", 1.0)
    assert power(device, 1.0) is None
    assert "a: the payload gave 'none'" in device.why("p_mw", 1.0)


def test_why_a_quantity_is_missing_names_the_input_its_topic_and_what_came() -> None:
    table = {
        "telemetry": [
            {"topic": "x", "inputs": {"a": {"path": "deep.p"}}},
            {"topic": "y", "format": "text", "inputs": {"b": {}}},
        ],
        "quantities": {"p_mw": {"formula": "a - b", "unit": "W"}},
    }
    device = VendorState(load_mapping(table, agent="MG1", device="ess", source="test"))
    assert device.why("p_mw", 0.0) == "a (x): nothing has come; b (y): nothing has come"
    device.take("x", b'{"deep": {"power": 5}}', 1.0)
    device.take("y", b"5 W", 1.0)
    why = device.why("p_mw", 1.0)
    assert "a (x): a: deep.p finds nothing" in why
    assert "b (y): b: the payload gave '5 W', expected a number" in why
    lines = {line.name: line for line in device.report(2.0)}
    assert lines["a"].payloads == 1
    assert lines["a"].sample == '\'{"deep": {"power": 5}}\''
    assert (lines["p_mw"].value, lines["p_mw"].topics) == (None, ("x", "y"))
    device.take("x", b'{"deep": {"p": 5}}', 3.0)
    device.take("y", b"2", 3.0)
    lines = {line.name: line for line in device.report(4.0)}
    assert [(lines[n].value, lines[n].age_s, lines[n].why) for n in ("p_mw", "a", "b")] == [
        (3e-6, 1.0, ""),
        (5.0, 1.0, ""),
        (2.0, 1.0, ""),
    ]


def test_what_was_read_otherwise_than_by_mqtt_feeds_the_same_tables() -> None:
    table = {
        "telemetry": [{"topic": "registers", "inputs": {"hi": {"path": "hi"}, "lo": {"path": "lo"}}}],
        "quantities": {"p_mw": {"formula": "signed(hi * 65536 + lo, 32)", "unit": "W"}},
    }
    device = VendorState(load_mapping(table, agent="MG1", device="ess", source="test"))
    taken = device.take_document("registers", {"hi": 65535, "lo": 65036}, 1.0)
    assert taken is not None
    assert taken.fields == {"p_mw": -500e-6}
    assert device.take_document("others", {}, 1.0) is None


def test_a_live_word_of_presence_wins_over_a_retained_one_until_the_next_connection() -> None:
    table = {
        "telemetry": [{"topic": "p", "format": "text", "fields": {"p_mw": {"unit": "W"}}}],
        "availability": [{"topic": "s", "online": ["1"], "offline": ["0"]}],
    }
    device = VendorState(load_mapping(table, agent="MG1", device="ess", source="test"))

    def says(word: bytes, *, retained: bool) -> str | None:
        device.take("s", word, 0.0, retained=retained)
        status = device.status()
        return None if status is None else status.state

    assert says(b"1", retained=True) == "online"
    assert says(b"0", retained=False) == "offline"
    assert says(b"1", retained=True) == "offline"
    device.reconnected(0.0)
    assert says(b"1", retained=True) == "online"


# Each step: what comes, when, and what the round then waits for; "whole" = a value is made.
TIMELINES: list[tuple[str, float, str]] = [
    ("ab", 2.0, "b 0 a | a 0.5 b | b 2.5 a | a 3.5 whole"),  # no closer than their period: evenly spread
    ("ab", 0.5, "a 0 b | b 0.2 whole | a 1 b | b 1.5 a | a 1.75 b | a 2.5 b | b 2.5625 whole"),
    ("ab", 5.0, "a 1 b | b 1.0625 whole | a 2 b | b 2.0625 whole | a 2.125 b | b 2.1875 whole"),
    ("ab", 5.0, "a 1 b | b 1.015625 whole | b 1.0625 a | b 1.1875 a | a 1.25 whole"),
    (
        "ab",
        5.0,
        "b 0 a | a 0.2 whole | a 0.6 b | b 1 a | b 2 a | a 2.6 b | b 3.2 a | a 3.4 whole",
    ),
    ("ab", 2.0, "b 0 a | a 0.2 whole | a 0.4 b | b 0.8 a | b 1.4 a | a 2.4 b | b 2.6 a"),  # patience
    ("ab", 9.0, "a 0 b | b 0.1 whole | a 2 b | b 3 a | a 4 b | b 5 a | a 6 whole"),
    ("ab", 1.0, "a 0 b | a 0.2 b | b 0.8 a | a 1.8 b | b 2.2 whole | a 2.6 b | a 3.2 b | b 3.6 a | b 3.8 a"),
    ("ab", 2.0, "b 0 a | b 0.2 a | a 0.4 whole | a 1.4 b | a 2.4 b | b 3 a | a 4 b | b 4.4 a | a 5.4 b"),
    ("abc", 1.0, "a 0 bc | b 1 c | c 2 a"),  # too far apart
    ("abc", 5.0, "a 0 bc | b 0.5 c | c 1 a"),  # listening began in the middle: only the oldest is of before
    ("abc", 5.0, "c 0 ab | b 3 a | c 6 a | c 7 ab | b 7.25 a"),
    ("abc", 5.0, "c 0 ab | a 0.5 b | b 1.5 c | b 2.5 ac | c 3.5 a | c 5.5 ab | a 6.5 b | b 7 c"),
    (
        "ab",
        2.0,
        "a 0 b | b 0.5 a | a 1.5 b | a 2.5 b | a 3 b | a 5 b | b 5.5 a | b 7.5 a | b 9.5 a | a 10.5 b "
        "| b 11.5 a | a 12.5 b | b 13 a | a 13.5 b",
    ),
    (
        "ab",
        1.0,
        "b 0 a | b 1 a | a 2 b | a 2.5 b | a 3.5 b | b 4 a | a 6 b | b 8 a | a 8.5 b | a 9.5 b | a 10.5 b "
        "| b 11 whole | b 13 a | a 13.5 whole",
    ),
]


@each_row(("members", "within_s", "timeline"), TIMELINES)
def test_what_comes_close_together_or_fits_the_period_is_one_round(
    members: str, within_s: float, timeline: str
) -> None:
    made = TopicRound(members, within_s)
    seen = []
    for step in timeline.split(" | "):
        name, at, _ = step.split()
        is_whole = made.add([name], float(at))
        seen.append(f"{name} {at} {'whole' if is_whole else ''.join(made.missing())}")
    assert " | ".join(seen) == timeline


def test_what_is_no_member_neither_begins_nor_ends_a_round() -> None:
    made = TopicRound("ab", 5.0)
    assert made.missing() == []
    assert not made.add(["c"], 0.0)
    assert made.missing() == []
    assert made.add(["a", "b", "c"], 1.0), "all that came at one time are one round"
    assert made.missing() == []
