"""The topics of a broker: each with its rate, its contents, and what these may mean."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.app.probe.meaning import Guess, guess
from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.payloads import parse_json, parse_text
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt

MAX_TOPICS = 5_000
SAMPLE = 4_096  # bytes of a payload that are kept
VALUES = 100  # of one payload that are looked at
LISTEN_S = 10.0


@dataclass(slots=True)
class TopicHeard:
    """One topic.

    Attributes:
        topic: As on the broker.
        messages: How many came live.
        retained: Whether the broker has kept one.
        first_s: When the first live one came, s.
        last_s: When the last live one came, s.
        sample: The newest payload, cut off.
        samples: Up to three different payloads, the oldest first.
    """

    topic: str
    messages: int = 0
    retained: bool = False
    first_s: float = 0.0
    last_s: float = 0.0
    sample: bytes = b""
    samples: list[bytes] = field(default_factory=list)
    _parsed: dict[bytes, Any] = field(default_factory=dict)

    @property
    def every_s(self) -> float | None:
        """Time between two messages, s; None = fewer than two came."""
        return (self.last_s - self.first_s) / (self.messages - 1) if self.messages > 1 else None

    @property
    def text(self) -> str:
        """The newest payload as text; empty if it is none."""
        return _text(self.sample)

    @property
    def is_almost_json(self) -> bool:
        """Whether the newest payload needs ``tolerant = true``."""
        return self._document(self.sample) is not None and _document(self.text, tolerant=False) is None

    @property
    def pairs(self) -> KeyValuePairs | None:
        """The newest payload as pairs of name and value; None = it is none, or JSON."""
        return None if self._document(self.sample) is not None else pairs_in(self.text)

    def texts(self) -> list[str]:
        """Return the payloads that are kept, as text, the newest first."""
        return [_text(one) for one in dict.fromkeys([self.sample, *self.samples])]

    def documents(self) -> list[Any]:
        """Return those that are JSON, or nearly so."""
        found = (self._document(one) for one in dict.fromkeys([self.sample, *self.samples]))
        return [document for document in found if document is not None]

    def _document(self, payload: bytes) -> Any:
        if payload not in self._parsed:
            if len(self._parsed) > len(self.samples):
                self._parsed.clear()
            text = _text(payload)
            is_whole = text[:1] in {"{", "["} and text[-1:] in {"}", "]"}
            self._parsed[payload] = _document(text, tolerant=is_whole)
        return self._parsed[payload]

    def values(self) -> Iterator[tuple[str, Any]]:
        """Return what the payload holds: path (JMESPath, or a key; empty = the whole payload) and value."""
        if not self.text:
            return
        document = self._document(self.sample)
        if document is None:
            pairs = pairs_in(self.text)
            found = [("", self.text)] if pairs is None else list(pairs.values.items())[:VALUES]
            yield from found
            return
        yield from list(_leaves(document, "", 0))[:VALUES]

    def values_within(self) -> Iterator[tuple[str, Any]]:
        """Return what all kept payloads hold that are JSON, the oldest first."""
        for document in reversed(self.documents()):
            yield from list(_leaves(document, "", 0))[:VALUES]


@dataclass(frozen=True, slots=True)
class KeyValuePairs:
    """A payload of ``format = "key_value"``: what stands between its parts, and them."""

    separator: str
    assign: str
    values: dict[str, str]


_KEY = re.compile(r"[A-Za-z_][\w .-]{0,30}")


def pairs_in(text: str) -> KeyValuePairs | None:
    """Return a text as pairs, ``P=4,0;SOC=55``; None = it is not two or more of them."""
    for separator in (";", "\n", "&", "|", ",", " "):
        parts = [part.strip() for part in text.split(separator) if part.strip()]
        for assign in ("=", ":"):
            split = [part.partition(assign) for part in parts]
            found = {key.strip(): value.strip() for key, _, value in split}
            is_pairs = len(found) >= 2 and len(found) == len(parts) and all(found.values())
            if is_pairs and all(map(_KEY.fullmatch, found)):
                return KeyValuePairs(separator, assign, found)
    return None


def _text(payload: bytes) -> str:
    try:
        return parse_text(payload)
    except MessageError:
        return ""


def _document(text: str, *, tolerant: bool) -> Any:
    """Return a payload as JSON; None = it is none."""
    try:
        return parse_json(text, tolerant=tolerant)
    except (MessageError, RecursionError):
        return None


def _leaves(node: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > 6:
        return
    if isinstance(node, dict):
        for key, value in node.items():
            plain = key if key.isidentifier() else json.dumps(key)
            yield from _leaves(value, f"{path}.{plain}" if path else plain, depth + 1)
    elif isinstance(node, list):
        for n, value in enumerate(node[:8]):
            yield from _leaves(value, f"{path}[{n}]", depth + 1)
    else:
        yield path, node


@dataclass(slots=True)
class ListenResult:
    """What was heard in a while.

    Attributes:
        topics: By name.
        listened_s: For how long, s.
        more: Topics beyond the number that is kept.
        left_out: Messages on our own topics and the broker's own, which are not of devices.
        topic_prefix: What stands before our own topics at this broker.
    """

    topics: dict[str, TopicHeard] = field(default_factory=dict)
    listened_s: float = 0.0
    more: int = 0
    left_out: int = 0
    topic_prefix: str = ""

    def take(self, topic: str, payload: bytes, retained: bool, now_s: float) -> None:
        """Take one message; what is ours and the broker's own is counted, and left out."""
        if topic.startswith((f"{topics.ROOT}/", f"{self.topic_prefix}{topics.ROOT}/", "$")):
            self.left_out += 1
            return
        one = self.topics.get(topic)
        if one is None:
            if len(self.topics) >= MAX_TOPICS:
                self.more += 1
                return
            one = self.topics[topic] = TopicHeard(topic)
        if retained:
            one.retained = True
        else:
            one.first_s = one.first_s if one.messages else now_s
            one.last_s = now_s
            one.messages += 1
        one.sample = payload[:SAMPLE]
        if one.sample not in one.samples and len(one.samples) < 3:
            one.samples.append(one.sample)

    def meanings(self) -> list[tuple[TopicHeard, str, Any, Guess]]:
        """Return what the values may mean: topic, path, value, guess; the surest first."""
        found = [
            (one, path, value, meant)
            for one in self.topics.values()
            for path, value in one.values()
            if (meant := guess(one.topic, path, value)) is not None
        ]
        return sorted(found, key=lambda each: (-each[3].sure, each[0].topic, each[1]))


async def listen(url: str, topic_filter: str, listen_s: float) -> ListenResult:
    """Listen for a while.

    Args:
        url: Of the broker.
        topic_filter: What to listen to.
        listen_s: For how long, s.

    Raises:
        ConfigError: URL or filter are wrong.
        BrokerError: The broker is not there or refuses.
    """
    try:
        topics.check_filter(topic_filter)
    except ValueError as exc:
        raise ConfigError(f"--topic {topic_filter}: {exc}") from None
    options = MqttBroker(url).options  # the class: a device is heard on topics of its own, over MQTT
    client = RawMqtt(options, MessageStats(), patience_s=0.0)
    heard = ListenResult(listened_s=listen_s, topic_prefix=options.topic_prefix)
    loop = asyncio.get_running_loop()
    await client.connect()
    try:
        client.subscribe_raw(
            topic_filter, lambda topic, payload, retained: heard.take(topic, payload, retained, loop.time())
        )
        await asyncio.sleep(listen_s)
    finally:
        await client.close()
    return heard
