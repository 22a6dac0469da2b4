"""Topic filters of the embedded broker: what is valid, what covers what, the trees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging.embedded.protocol.topic_filters import (
    MAX_LEVELS,
    FilterTree,
    TopicTree,
    covers,
    filter_problem,
)
from support.rows import each_row

LEVEL = st.sampled_from(["", "a", "b", "$s"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from(["", "a", "b", "$s", "+"]), min_size=0, max_size=3))
    levels += draw(st.sampled_from([["#"], ["a"], ["+"]]))
    return "/".join(levels)


def matches(topic_filter: str, topic: str) -> bool:
    """Match as MQTT 3.1.1 section 4.7 says it, one level after the other."""
    asked, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and asked[0] in {"+", "#"}:
        return False
    while asked:
        first, *asked = asked
        if first == "#":
            return True
        if not levels or first not in {"+", levels[0]}:
            return False
        levels = levels[1:]
    return not levels


@each_row(
    "topic_filter",
    ["a", "/", "+", "#", "a/#", "+/+", "a/+/b", "a/+/#", "$SYS/#", "$share", "/".join("a" * MAX_LEVELS)],
)
def test_a_valid_filter_has_no_problem(topic_filter: str) -> None:
    assert filter_problem(topic_filter) is None


@each_row(
    ("topic_filter", "problem"),
    [
        ("", "an empty topic filter"),
        ("$share/g/a", "shared subscriptions need MQTT 5"),
        ("#/a", "# must be the whole last level"),
        ("a/#/b", "# must be the whole last level"),
        ("a#", "# must be the whole last level"),
        ("a/b#", "# must be the whole last level"),
        ("#a/b", "# must be the whole last level"),
        ("a+", "+ must be a whole level"),
        ("+a/b", "+ must be a whole level"),
        ("/".join("a" * (MAX_LEVELS + 1)), f"more than {MAX_LEVELS} levels"),
    ],
)
def test_an_invalid_filter_is_named(topic_filter: str, problem: str) -> None:
    assert filter_problem(topic_filter) == problem


@each_row(
    ("granted", "asked"),
    [
        ("a", "a"),
        ("a/b", "a/b"),
        ("+", "a"),
        ("+/b", "a/b"),
        ("+/b", "+/b"),
        ("#", "a/b/c"),
        ("#", "#"),
        ("a/#", "a"),
        ("a/#", "a/+/#"),
        ("a/+", "a/+"),
        ("$s/#", "$s/a"),
    ],
)
def test_a_filter_covers(granted: str, asked: str) -> None:
    assert covers(granted, asked)


@each_row(
    ("granted", "asked"),
    [
        ("a", "b"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b", "a/+"),
        ("a/+", "a/#"),
        ("a/+", "a"),
        ("+", "#"),
        ("+/+", "+/#"),
        ("a/b/#", "a"),
        ("a/b/#", "a/#"),
        ("#", "$s/a"),
        ("+/a", "$s/a"),
        ("a", "+"),
    ],
)
def test_a_filter_does_not_cover(granted: str, asked: str) -> None:
    assert not covers(granted, asked)


@given(filters(), filters(), st.lists(TOPICS, max_size=8))
def test_what_is_covered_is_matched(granted: str, asked: str, topics: list[str]) -> None:
    if covers(granted, asked):
        assert all(matches(granted, topic) for topic in topics if matches(asked, topic))


@given(filters(), TOPICS)
def test_covering_a_topic_is_matching_it(granted: str, topic: str) -> None:
    assert covers(granted, topic) == matches(granted, topic)


@given(st.sets(filters(), max_size=6), TOPICS)
def test_subscribers_are_found_as_the_standard_says(known: set[str], topic: str) -> None:
    tree: FilterTree[str, int] = FilterTree()
    for topic_filter in known:
        tree.put(topic_filter, topic_filter, 1)
    assert sorted(key for key, _ in tree.match(topic)) == sorted(f for f in known if matches(f, topic))


@given(st.sets(TOPICS, max_size=6), filters())
def test_topics_are_found_as_the_standard_says(known: set[str], topic_filter: str) -> None:
    tree: TopicTree[str] = TopicTree()
    for topic in known:
        tree.put(topic, None, topic)
    assert sorted(tree.match(topic_filter)) == sorted(t for t in known if matches(topic_filter, t))


@pytest.mark.parametrize("topic_filter", ["#", "+/a", "+"])
def test_a_wildcard_does_not_find_what_begins_with_a_dollar_sign(topic_filter: str) -> None:
    topics: TopicTree[str] = TopicTree()
    subscribers: FilterTree[str, int] = FilterTree()
    subscribers.put(topic_filter, "k", 0)
    for topic in ("$s", "$s/a"):
        topics.put(topic, None, topic)
        assert list(subscribers.match(topic)) == []
    assert topics.match(topic_filter) == []
    assert topics.match("$s/#") == ["$s", "$s/a"]
    assert topics.match("$s/+") == ["$s/a"]


def test_a_value_is_replaced_found_and_removed_and_counted_once() -> None:
    tree: FilterTree[str, int] = FilterTree()
    assert tree.put("a/b", "k", 1) is None
    assert tree.put("a/b", "k", 2) == 1
    assert tree.put("a/b", "l", 3) is None
    assert len(tree) == 2
    assert (tree.get("a/b", "k"), tree.get("a/b", "m"), tree.get("a/c", "k"), tree.get("a", "k")) == (
        2,
        None,
        None,
        None,
    )
    assert tree.discard("a/b", "k") == 2
    assert (tree.discard("a/b", "k"), tree.discard("a/x", "k"), tree.discard("a", "k")) == (None, None, None)
    assert len(tree) == 1
    assert list(tree.match("a/b")) == [("l", 3)]


def test_empty_branches_are_cut_off_and_others_stay() -> None:
    tree: FilterTree[str, int] = FilterTree()
    tree.put("a/b/c", "k", 1)
    tree.put("a/b", "k", 2)
    tree.put("a/d", "k", 3)
    tree.discard("a/b/c", "k")
    assert list(tree._root.children["a"].children["b"].children) == []
    tree.discard("a/b", "k")
    assert list(tree._root.children["a"].children) == ["d"]
    tree.discard("a/d", "k")
    assert tree._root.children == {}
    assert len(tree) == 0
