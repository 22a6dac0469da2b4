"""Where a channel lives in Kafka."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging.kafka.names import log_of, pattern_of, topic_of
from heron_mqtt.messaging.topics import matches

LEVELS = st.text(st.sampled_from("ab._-%! 20Eé"), min_size=1, max_size=6)
TOPICS = st.one_of(
    st.lists(LEVELS, min_size=1, max_size=3).map(lambda levels: "/".join(["heron", "plant.1", *levels])),
    st.lists(LEVELS, min_size=1, max_size=3).map("/".join),
)


@given(TOPICS)
def test_a_topic_comes_back_from_its_name_and_key(topic: str) -> None:
    name, key = log_of(topic)
    assert topic_of(name, key) == topic
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name)


@given(TOPICS, st.lists(st.one_of(LEVELS, st.just("+")), max_size=3), st.booleans())
def test_a_filter_looks_where_everything_is_that_it_matches(
    topic: str, levels: list[str], all_below: bool
) -> None:
    topic_filter = "/".join(["heron", "plant.1", *levels, *["#"] * (all_below or not levels)])
    pattern, is_wide = pattern_of(topic_filter)
    name, _ = log_of(topic)
    if matches(topic_filter, topic) and topic.count("/") > 1:
        assert name.startswith(pattern) if is_wide else name == pattern


@pytest.mark.parametrize(
    ("topic", "name", "key"),
    [
        ("heron/plant/agents/MG1/action", "heron.plant.agents", "agents/MG1/action"),
        ("heron/plant/estop", "heron.plant.estop", "estop"),
        ("heron/site.1/p2p/a/b", "heron.site_2E1.p2p", "p2p/a/b"),
        ("site/bat1/out", "site", "site/bat1/out"),
    ],
)
def test_a_topic_for_each_prefix_and_the_channel_as_key(topic: str, name: str, key: str) -> None:
    assert log_of(topic) == (name, key)


def test_a_name_that_kafka_would_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 249 characters"):
        log_of(f"heron/{'x' * 300}/agents/MG1/action")
