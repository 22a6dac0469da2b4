"""Hears what a broker has kept and what comes, of one environment or of all of them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from heron_mqtt.errors import BrokerRefused, MessageError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import Json, decode
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.connection import Events
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.session import MqttSession
from heron_mqtt.messaging.mqtt.socket_stream import RawMessage
from heron_mqtt.messaging.mqtt.watching import WatchingConnection

MAX_PENDING = 100
KNOWN_TOPICS = 20_000
QUIET_S, LONGEST_S = 0.4, 3.0  # what the broker has kept is here when nothing of it has come for so long

PRESENCE = ("run/state", "run/owner", "agents/+/status", "devices/+/+/status")
"""What tells whether an environment is alive."""


class Heard:
    """One message; its payload is decoded when it is first used, and once.

    Args:
        env_id: Its environment.
        channel: Within the environment.
        fields: Its contents; None = it could not be decoded, or is empty.
        malformed: Why it could not be decoded.
        retained: Whether the broker had kept it.
        at_s: When it came, by the loop's clock.
        payload: What ``fields`` and ``malformed`` are to be found in; None = they are given.
    """

    __slots__ = ("_fields", "_is_decoded", "_malformed", "at_s", "channel", "env_id", "payload", "retained")

    def __init__(
        self,
        env_id: str,
        channel: str,
        fields: Json | None,
        malformed: str | None,
        retained: bool,
        at_s: float,
        payload: bytes | None = None,
    ) -> None:
        self.env_id, self.channel, self.retained, self.at_s = env_id, channel, retained, at_s
        self._fields, self._malformed, self.payload = fields, malformed, payload
        self._is_decoded = payload is None

    @property
    def fields(self) -> Json | None:
        """What it says; None = it could not be decoded, or it is empty."""
        if not self._is_decoded:
            self._decode()
        return self._fields

    @property
    def malformed(self) -> str | None:
        """Why it could not be decoded."""
        if not self._is_decoded:
            self._decode()
        return self._malformed

    def _decode(self) -> None:
        self._is_decoded = True
        try:
            self._fields = decode(self.payload) if self.payload else None
        except MessageError as exc:
            self._malformed = str(exc)


class Observer:
    """A connection that reads channels, and has no way to publish.

    Args:
        url: Of the broker, or its options.
        env_id: Whose channels; None = those of every environment.
        channels: Channels and filters to read.
        on_message: Called with each message.
        needs_all: Whether a channel that may not be read is an error.
        only_watches: Nothing is decided by what is heard: see ``WatchingConnection``.
        on_messages: With ``only_watches``: called with what has come in one piece, where ``on_message`` would
            be called with each; ``heard`` makes of them what that would get.

    Raises:
        ConfigError: The URL or environment is wrong.
    """

    def __init__(
        self,
        url: str | MqttOptions,
        env_id: str | None,
        channels: tuple[str, ...],
        on_message: Callable[[Heard], None],
        *,
        needs_all: bool = True,
        only_watches: bool = False,
        on_messages: Callable[[list[RawMessage]], None] | None = None,
    ) -> None:
        self.refusal: str | None = None
        """Why a channel cannot be read; only where not all are needed."""
        self._needs_all = needs_all
        # The class: every environment of an MQTT broker is read, with a session of its own.
        self.options = MqttBroker(url).options if isinstance(url, str) else url
        level = "+" if env_id is None else topics.escape(env_id)
        self._filters = tuple(f"{topics.ROOT}/{level}/{channel}" for channel in channels)
        self._held: tuple[str, ...] = ()  # what a new connection asks for; not the first: see __aenter__
        self._on_message, self._on_messages = on_message, on_messages or self._hand_over
        self._places: dict[str, tuple[str, str]] = {}
        self._kept_at_s = 0.0
        self._news = asyncio.Event()
        self._link = MqttSession(
            replace(self.options, client_id=f"heron-operator-{secrets.token_hex(6)}"),
            self,
            MessageStats(),
            will=None,
            wanted=lambda: self._held,
            rng=random.Random(),  # noqa: S311 - spreads reconnections, nothing secret
            max_pending=MAX_PENDING,
            make_connection=self._watching if only_watches else None,
        )

    def _watching(self, options: MqttOptions, events: Events, will: LastWill | None) -> WatchingConnection:
        return WatchingConnection(options, events, will, self._on_messages)

    def _hand_over(self, messages: list[RawMessage]) -> None:
        at_s = asyncio.get_running_loop().time()
        for message in messages:
            if (heard := self.heard(message, at_s)) is not None:
                self._on_message(heard)

    async def __aenter__(self) -> Self:
        """Connect and subscribe.

        Raises:
            BrokerUnavailable, BrokerRefused: No answer, or a right is missing.
        """
        try:
            await asyncio.shield(self._link.start())
            self._held = self._filters  # asked for twice, what is retained would come twice
            await self._subscribe()
        except BaseException:
            await self._link.abort()
            raise
        self._kept_at_s = asyncio.get_running_loop().time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._link.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link.connected

    async def _subscribe(self) -> None:
        try:
            await self._link.subscribe(self._filters)
        except BrokerRefused as exc:
            if self._needs_all:
                raise
            self.refusal = str(exc)

    async def settle(self) -> None:
        """Return when what the broker has kept is here."""
        ends_s = self._kept_at_s + LONGEST_S
        try:
            while True:
                self._news.clear()
                async with asyncio.timeout_at(min(self._kept_at_s + QUIET_S, ends_s)):
                    await self._news.wait()
        except TimeoutError:
            pass

    # -- called by the link ------------------------------------------------------------------------

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Hand a message over."""
        self._on_message(self._heard(topic, payload, retained, asyncio.get_running_loop().time()))

    def heard(self, message: RawMessage, at_s: float) -> Heard | None:
        """Return a message as it is handed over; None where its topic cannot be one of ours.

        Args:
            message: As the connection has read it.
            at_s: When it came, by the loop's clock: the same for all that came in one piece.
        """
        topic, payload, retained = message
        try:
            return self._heard(topic.decode(), payload, bool(retained), at_s)
        except UnicodeDecodeError:
            return None

    def _heard(self, topic: str, payload: bytes, retained: bool, at_s: float) -> Heard:
        if retained:
            self._kept_at_s = at_s
            self._news.set()
        env_id, channel = self._places.get(topic) or self._place(topic)
        return Heard(env_id, channel, None, None, retained, at_s, payload)

    def _place(self, topic: str) -> tuple[str, str]:
        """Return environment and channel of a topic, and remember them: the same few come again and again."""
        if len(self._places) >= KNOWN_TOPICS:
            self._places.clear()
        level, _, channel = topic.partition("/")[2].partition("/")
        return self._places.setdefault(topic, (topics.unescape(level), channel))

    def on_bad_topic(self, topic: str) -> None:
        """Ignore what cannot be one of ours."""

    def on_oversized(self, topic: str, size: int) -> None:
        """Hand on that something came which is too large to be read."""
        _, level, channel = topic.split("/", 2)
        now_s, why = asyncio.get_running_loop().time(), f"a message of {size} bytes"
        self._on_message(Heard(topics.unescape(level), channel, None, why, False, now_s))

    def on_connected(self, again: bool) -> None:
        """Continue."""


class PublishingObserver(Observer):
    """An observer that also publishes a message or two."""

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> asyncio.Future[None]:
        """Publish at QoS 1; what is returned is done when the broker has acknowledged it."""
        return self._link.publish(topic, payload, 1, retain, None)
