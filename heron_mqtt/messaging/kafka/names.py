"""Where a channel lives in Kafka: the topic is its prefix (environment and first level), the key the rest.

A Kafka topic name contains letters, digits, ``-``, ``_`` and ``.`` only. Any other byte in an identifier is
written as ``_`` and two hexadecimal digits, so that no two identifiers share a name.
"""

from __future__ import annotations

import functools
import re

from heron_mqtt.messaging.topics import ROOT, is_filter

MAX_NAME = 249
_TO_ESCAPE = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"_([0-9A-F]{2})")


@functools.lru_cache(maxsize=10_000)
def log_of(topic: str) -> tuple[str, str]:
    """Return the Kafka topic and the key of an MQTT topic.

    ``heron/plant/agents/MG1/action`` is ``heron.plant.agents`` and ``agents/MG1/action``. A topic outside of
    an environment is its own key, in the Kafka topic of its first level.

    Raises:
        ValueError: The name would be longer than Kafka allows.
    """
    levels = topic.split("/")
    inside = levels[0] == ROOT and len(levels) > 2
    name = ".".join(_escape(level) for level in levels[: 3 if inside else 1])
    if len(name) > MAX_NAME:
        raise ValueError(
            f"topic {topic[:80]!r}: its topic in Kafka would be longer than {MAX_NAME} characters"
        )
    return name, "/".join(levels[2:]) if inside else topic


def topic_of(name: str, key: str) -> str:
    """Return the MQTT topic that ``log_of`` turned into a Kafka topic and a key."""
    parts = name.split(".")
    return f"{ROOT}/{_unescape(parts[1])}/{key}" if len(parts) == 3 and parts[0] == ROOT else key


def pattern_of(topic_filter: str) -> tuple[str, bool]:
    """Return the Kafka topic that has everything under a filter; or what their names begin with, and True."""
    levels = topic_filter.split("/")
    inside = levels[0] == ROOT and len(levels) > 2
    named = levels[: 3 if inside else 1]
    wide = next((n for n, level in enumerate(named) if is_filter(level)), None)
    if wide is None:
        return log_of(topic_filter)[0], False
    return "".join(f"{_escape(level)}." for level in named[:wide]), True


def _escape(level: str) -> str:
    return _TO_ESCAPE.sub(lambda m: b"_%02X" % m[0][0], level.encode()).decode()


def _unescape(name: str) -> str:
    return _ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), name.encode()).decode()
