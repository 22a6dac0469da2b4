"""Channels, topics, filters: escaping is reversible, matching is MQTT's."""

from __future__ import annotations

import itertools
import re

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt.subscriptions import covers
from heron_mqtt.messaging.topics import TopicMap
from support.rows import each_row

identifiers = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
plain_levels = st.sampled_from(["a", "b", "", "$x", "ü", "a b"])
channels = st.lists(plain_levels, min_size=1, max_size=4).map("/".join).filter(bool)
filter_levels = st.sampled_from(["a", "b", "", "+", "$x"])
filters = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(filter_levels, max_size=3),
    st.sampled_from([(), ("#",)]),
).filter(bool)


@given(identifiers)
@example("a/b+c#d%e%2F")
@example("%25")
@example("\x00\x7f\x80")
def test_an_identifier_is_one_level_and_comes_back(identifier: str) -> None:
    level = topics.escape(identifier)
    assert not set(level) & set("/+#")
    assert topics.check_channel(level)
    assert topics.unescape(level) == identifier


@given(identifiers, identifiers)
def test_different_identifiers_have_different_levels(one: str, other: str) -> None:
    assert (topics.escape(one) == topics.escape(other)) == (one == other)


@pytest.mark.parametrize("identifier", ["", "\ud800", "a\udfff"])
def test_what_is_no_identifier_is_refused(identifier: str) -> None:
    with pytest.raises(ValueError):
        topics.escape(identifier)


@given(identifiers, identifiers)
def test_the_publisher_is_a_whole_level_of_every_channel(one: str, other: str) -> None:
    assert topics.levels(topics.agent(one, "action")) == ["agents", one, "action"]
    assert topics.levels(topics.p2p(one, other)) == ["p2p", one, other]
    assert topics.levels(topics.device(one, other, "setpoint")) == ["devices", one, other, "setpoint"]
    assert topics.levels(topics.operator_price(one)) == ["operators", one, "price"]


@given(identifiers, identifiers)
def test_the_filters_of_a_role_match_its_channels(one: str, other: str) -> None:
    assert topics.matches(topics.any_agent("action"), topics.agent(one, "action"))
    assert topics.matches(topics.p2p_to(other), topics.p2p(one, other))
    assert topics.matches(topics.agent_devices(one, "telemetry"), topics.device(one, other, "telemetry"))


@given(filters, channels)
def test_matching_is_that_of_an_independent_implementation(pattern: str, channel: str) -> None:
    assert topics.matches(pattern, channel) == paho.topic_matches_sub(pattern, channel)


@each_row(
    ("pattern", "channel", "expected"),
    [  # MQTT 3.1.1, section 4.7.1, the non-normative examples
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/monitor", False),
        ("+/monitor", "$SYS/monitor", False),
        ("$SYS/#", "$SYS/monitor", True),
    ],
)
def test_matching_follows_the_standards_examples(pattern: str, channel: str, expected: bool) -> None:
    assert topics.matches(pattern, channel) is expected


LEVELS = ("a", "b", "other")
UNIVERSE = ["/".join(parts) for depth in range(1, 5) for parts in itertools.product(LEVELS, repeat=depth)]
small_filters = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(st.sampled_from(["a", "b", "+"]), max_size=3),
    st.sampled_from([(), ("#",)]),
).filter(bool)


@given(small_filters, small_filters)
def test_a_filter_covers_another_exactly_if_it_matches_all_of_it(wide: str, narrow: str) -> None:
    included = all(topics.matches(wide, t) for t in UNIVERSE if topics.matches(narrow, t))
    assert covers(wide, narrow) == included


@given(channels)
def test_a_channel_comes_back_from_its_topic(channel: str) -> None:
    mapped = TopicMap("north/1")
    assert mapped.topic(channel).startswith("heron/north%2F1/")
    assert mapped.channel(mapped.topic(channel)) == channel


def test_topics_of_other_environments_are_no_channels() -> None:
    mapped = TopicMap("one")
    assert mapped.channel("heron/two/agents/MG1/action") is None
    assert mapped.channel("heron/one") is None
    assert mapped.channel("vendor/x") is None


def test_a_mapped_channel_lives_on_its_topic_and_only_its_filters_are_added() -> None:
    mapped = TopicMap("e", {"devices/MG1/ess/telemetry": "vendor/7/state"})
    assert mapped.topic("devices/MG1/ess/telemetry") == "vendor/7/state"
    assert mapped.channel("vendor/7/state") == "devices/MG1/ess/telemetry"
    assert mapped.filters("devices/MG1/ess/telemetry") == ("vendor/7/state",)
    assert mapped.filters("devices/+/+/telemetry") == ("heron/e/devices/+/+/telemetry", "vendor/7/state")
    assert mapped.filters("agents/#") == ("heron/e/agents/#",)


@pytest.mark.parametrize(
    "overrides",
    [{"a": "x", "b": "x"}, {"a": "x/+"}, {"a/#": "x"}, {"a": ""}, {"a": "heron/e/b"}],
    ids=["twice", "wildcard-topic", "wildcard-channel", "empty", "anothers-topic"],
)
def test_an_ambiguous_map_is_refused(overrides: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        TopicMap("e", overrides)


def test_two_channels_may_change_places() -> None:
    mapped = TopicMap("e", {"a": "heron/e/b", "b": "heron/e/a"})
    assert mapped.channel(mapped.topic("a")) == "a"
    assert mapped.channel(mapped.topic("b")) == "b"


@pytest.mark.parametrize("rule", topics.RULES, ids=lambda rule: rule.pattern)
def test_a_rule_holds_for_its_channels_and_for_none_with_a_level_more_less_or_empty(
    rule: topics.Rule,
) -> None:
    channel = re.sub(r"{\w+}", "x", rule.pattern)
    others = {f"{channel}/more", f"more/{channel}", f"{channel}/", channel[:-1], f"{channel}x"}
    others.add(rule.pattern.replace("{agent}", "").replace("{operator}", "").replace("{client}", ""))
    regex = re.compile("|".join(re.sub(r"{\w+}", "[^/]+", known.pattern) for known in topics.RULES))
    assert topics.away_of(channel) == rule.away
    assert topics.is_vital(f"heron/env/{channel}") == rule.vital
    for other in others:
        if not regex.fullmatch(other):
            assert topics.away_of(other) == "queued"
            assert not topics.is_vital(f"heron/env/{other}")
            assert topics.kind_of(other) == ""


def test_what_moves_a_device_or_gives_rights_never_waits_and_what_tells_of_the_past_does() -> None:
    away = {topics.fill(rule.pattern, {}).replace("+", "x"): rule.away for rule in topics.RULES}
    stored = {channel for channel in away if topics.while_away(channel, {"active": True}) == "stored"}
    dropped = {channel for channel in away if topics.while_away(channel, {"active": False}) == "dropped"}
    assert stored == {
        *("estop", "agents/x/action", "p2p/x/x"),
        *("devices/x/x/telemetry", "devices/x/x/authority_state"),
    }
    assert dropped == {
        *("estop", "devices/x/x/setpoint", "devices/x/x/authority", "devices/x/x/take"),
    }


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "estop", "active": True}, "stored"),
        ({"type": "estop", "active": False}, "dropped"),
        ({"active": False, "env_id": "another"}, "dropped"),
        ({"active": 0}, "stored"),
        ({"active": "false"}, "stored"),
        ({}, "stored"),
    ],
)
def test_a_stop_is_stored_and_its_release_is_not(message: dict[str, object], expected: str) -> None:
    assert topics.while_away("estop", message) == expected


@each_row(
    ("topic_filter", "expected"),
    [
        ("devices/MG1/ess/telemetry", True),
        ("devices/+/+/telemetry", True),
        ("devices/MG1/+/telemetry", True),
        ("agents/+/action", True),
        ("p2p/+/MG1", True),
        ("devices/MG1/ess/authority_state", True),
        ("estop", False),
        ("devices/MG1/ess/setpoint", False),
        ("devices/MG1/ess/+", False),
        ("agents/MG1/+", False),
        ("devices/#", False),
        ("p2p/#", False),
        ("#", False),
        ("control", False),
    ],
)
def test_a_filter_may_be_kept_only_if_all_under_it_may_come_late(topic_filter: str, expected: bool) -> None:
    assert topics.is_storable(topic_filter) is expected


def test_names_that_cannot_be_seen_or_look_like_another_one_are_refused() -> None:
    for name in ("", " ", " a", "a ", "a\x00b", "a\nb", "a\u200b", "e\u0301"):
        assert topics.name_problem(name) is not None, repr(name)
        assert topics.user_problem(name) is not None, repr(name)
    for name in ("MG1", "Süd/Netz", "50%", "a b", "-", "$SYS", "a%2Fb"):
        assert topics.name_problem(name) is None, repr(name)
    for name in ("-", "a+", "#", "%u", "a//b", "/a"):
        assert topics.user_problem(name) is not None, repr(name)
