"""TopicPattern: what stands for + and {name} in a topic, and which topics are others."""

from __future__ import annotations

import pytest

from heron_mqtt.field.vendor.topic_patterns import TopicPattern


@pytest.mark.parametrize(
    ("text", "topic_filter", "names", "matches"),
    [
        ("box/p", "box/p", (), {"box/p": {}, "box/q": None, "box/p/x": None, "box": None}),
        ("box.1/p", "box.1/p", (), {"box.1/p": {}, "boxx1/p": None}),
        (
            "box/+/p",
            "box/+/p",
            ("level_2",),
            {"box/7/p": {"level_2": "7"}, "box//p": {"level_2": ""}, "box/7/8/p": None, "box/p": None},
        ),
        ("+/+", "+/+", ("level_1", "level_2"), {"a/b": {"level_1": "a", "level_2": "b"}, "a": None}),
        ("box/{id}/p", "box/+/p", ("id",), {"box/7/p": {"id": "7"}, "box/7/8/p": None, "box/7/q": None}),
        (
            "a.{id}-{part}z/+",
            "+/+",
            ("id", "part", "level_2"),
            {"a.1-2z/x": {"id": "1", "part": "2", "level_2": "x"}, "ab1-2z/x": None, "a.1-2/x": None},
        ),
    ],
)
def test_what_stands_for_a_name_is_found_in_topics_that_fit(
    text: str, topic_filter: str, names: tuple[str, ...], matches: dict[str, dict[str, str] | None]
) -> None:
    pattern = TopicPattern(text)
    assert (pattern.text, pattern.filter, pattern.names) == (text, topic_filter, names)
    assert {topic: pattern.match(topic) for topic in matches} == matches


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("box/#", "# takes in everything below: say + for each level that varies"),
        ("box/a+b", "wildcard"),
        ("{id}/a#", "wildcard"),
    ],
)
def test_a_topic_that_cannot_be_subscribed_to_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("+", r"\+")):
        TopicPattern(text)
