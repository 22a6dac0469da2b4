"""Topics as NATS subjects, and which copy of a message counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging import topics
from heron_mqtt.messaging.nats_subjects import (
    SubscriptionTable,
    matches,
    subject_of,
    subjects_of,
    topic_of,
)

LEVELS = st.text(st.sampled_from("ab.*>%! /20Eé"), max_size=6).map(lambda text: text.replace("/", ""))
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.lists(st.one_of(LEVELS, st.just("+")), min_size=1, max_size=4).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"])]).filter(bool)
)


@given(TOPICS)
def test_a_topic_comes_back_unchanged_from_its_subject(topic: str) -> None:
    subject = subject_of(topic)
    assert topic_of(subject) == topic
    assert all(token and token not in {"*", ">"} and " " not in token for token in subject.split("."))


@given(st.lists(TOPICS, min_size=2, max_size=2, unique=True))
def test_two_topics_have_two_subjects(two: list[str]) -> None:
    assert subject_of(two[0]) != subject_of(two[1])


@given(FILTERS, TOPICS)
def test_subjects_of_a_filter_match_what_the_filter_matches(topic_filter: str, topic: str) -> None:
    found = [s for s in subjects_of(topic_filter) if matches(s, subject_of(topic))]
    assert len(found) == topics.matches(topic_filter, topic), "one of them, or none"


@pytest.mark.parametrize(
    ("topic", "subject"),
    [
        ("heron/plant/run/state", "heron.plant.run.state"),
        ("a.b/c", "a//b.c"),
        ("/a", "/.a"),
        ("a//b", "a./.b"),
        ("MG 1", "MG%!201"),
        ("a%2Fb", "a%2Fb"),
    ],
)
def test_subjects_are_those_of_the_mqtt_listener_where_it_has_one(topic: str, subject: str) -> None:
    assert subject_of(topic) == subject


def counted(table: SubscriptionTable, *numbers: int) -> list[int]:
    return [n for n in numbers if table.brings(n, "a.b")]


def test_the_copy_of_the_oldest_subscription_counts() -> None:
    table = SubscriptionTable()
    table.add(1, "a.>")
    table.add(2, "a.b")
    table.add(3, "*.b")
    assert counted(table, 1, 2, 3) == [1]


def test_while_a_subscription_ends_no_copy_is_dropped_and_then_the_next_oldest_counts() -> None:
    table = SubscriptionTable()
    table.add(1, "a.>")
    table.add(2, "a.b")
    table.add(3, "*.b")
    table.end(1, "a.>")
    assert counted(table, 1, 2, 3) == [1, 2]
    table.remove(1)
    assert counted(table, 1, 2, 3) == [2]


def test_of_two_subscriptions_to_one_subject_one_counts() -> None:
    table = SubscriptionTable()
    table.add(1, "a.b")
    table.add(2, "a.b")
    assert counted(table, 1, 2) == [1]
    table.end(1, "a.b")
    table.remove(1)
    assert counted(table, 1, 2) == [2]
