"""MqttBroker: MQTT 3.1.1 and 5, over TCP or TLS.

Loops and threads: a broker lives in one event loop, its *home loop*. Connected explicitly (``await
broker.connect()`` or ``async with``) that is the running loop, the fast way: no thread hop. Used without
connecting, from synchronous or asynchronous code, it connects by itself in the process's background
loop. It may then be used from any thread and loop; calls are handed to the home loop. The home loop must
be able to watch sockets, as every loop on Linux and macOS is (on Windows: a selector event loop).

While disconnected: ``publish`` queues (bounded; the oldest is dropped, its delivery fails with
``BrokerOverflow``), subscriptions are restored, reconnecting continues with growing, jittered delays until
``close``. Only the very first connection may fail: then everything that waits raises the same error, and
the next use tries again.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.messaging.base import Announcement, Delivery, Features
from heron_mqtt.messaging.codec import decode, encode
from heron_mqtt.messaging.mqtt.announcements import Presences
from heron_mqtt.messaging.mqtt.kept_session import KeptSession
from heron_mqtt.messaging.mqtt.lasting import (
    DEFAULT_MAX_AGE_S,
    DEFAULT_MAX_MB,
    DEFAULT_SESSION_EXPIRY_S,
    read_lasting,
)
from heron_mqtt.messaging.mqtt.options import (
    DEFAULT_KEEPALIVE_S,
    LastWill,
    read_options,
)
from heron_mqtt.messaging.mqtt.outbox_reports import OutboxReports
from heron_mqtt.messaging.mqtt.session import MqttSession
from heron_mqtt.messaging.mqtt.session_broker import SessionBroker
from heron_mqtt.messaging.outbox import Outbox, OutboxStore
from heron_mqtt.messaging.topics import (
    ESTOP,
    TopicMap,
    is_filter,
    kind_of,
    session,
    while_away,
)


class MqttBroker(SessionBroker):
    """Publishes and subscribes at an MQTT broker.

    Args:
        url: ``mqtt://[user:password@]host[:port]``; ``mqtts://`` for TLS, ``ws://`` and ``wss://`` for
            WebSockets; several hosts, separated by commas, stand in for each other.
        env_id: The environment; its topics are ``heron/<env_id>/...``.
        client_id: MQTT client id, unique at the broker; made at random if left out.
        username, password: Win over the URL; the URL wins over the environment variables
            ``HERON_MQTT_USERNAME`` and ``HERON_MQTT_PASSWORD``.
        password_file: Holds the password in its first line.
        keepalive_s: A broker that is silent for up to twice as long is given up; it gives us up after 1.5.
            The default says nothing: environment or scenario may say something else.
        protocol: ``"3.1.1"``, which it is if nothing is said, or ``"5"``.
        ca: PEM file of the authority that signed the broker's certificate; the system's if left out.
        cert, key: PEM files of a client certificate, unencrypted.
        server_name: The name that the broker's certificate must have, if not the host of the URL.
        alpn: Application protocol to name in the TLS handshake; several are separated by commas.
        topic_prefix: Topic levels that stand before ``heron/`` at this broker: ``"sites/7"``.
        connect_timeout_s: Bound of one attempt to connect, name resolution to MQTT answer.
        patience_s: How long the first connection is tried for without an answer; 0 = once. Refusals
            (credentials, rights) are final at once.
        max_pending: Messages that may wait to be sent.
        topics: Where channels live, if not simply below ``heron/<env_id>/``.
        will: Channel and message that the broker publishes (retained) if this connection dies.
        rng: Jitters the delays of reconnecting.
        defaults: Settings where neither arguments nor URL nor environment say anything, by name.
        clean_start: False: the MQTT broker keeps a session while we are away, and what others publish
            meanwhile comes later, where it may (see ``docs/brokers.md``). Needs ``client_id``.
        session_expiry_s: How long it shall keep it; with MQTT 3.1.1 the broker decides.
        outbox: File that keeps what was published while the broker was away, for later and over a restart:
            telemetry, actions, trades, authority states and stops. None = there is none.
        outbox_max_mb: What it may hold, 10^6 bytes; then the oldest goes, stops last.
        outbox_max_age_s: What is older is not sent any more; stops are.
        lasting: Whether this is the one connection of the process to which ``client_id`` and ``outbox`` of
            the environment and of ``defaults`` belong, as for ``open_broker``.

    Raises:
        ConfigError: A URL, file or value is wrong.
    """

    features: ClassVar[Features] = Features(wildcards=True, retain=True, will=True, external=True)

    def __init__(
        self,
        url: str,
        *,
        env_id: str = "default",
        client_id: str | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: str | Path | None = None,
        keepalive_s: float = DEFAULT_KEEPALIVE_S,
        protocol: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str | None = None,
        alpn: str | None = None,
        topic_prefix: str | None = None,
        connect_timeout_s: float = 5.0,
        patience_s: float = 0.0,
        max_pending: int = 20_000,
        topics: TopicMap | None = None,
        will: tuple[str, Mapping[str, Any]] | None = None,
        rng: random.Random | None = None,
        defaults: Mapping[str, str] | None = None,
        clean_start: bool = True,
        session_expiry_s: int = DEFAULT_SESSION_EXPIRY_S,
        outbox: str | Path | None = None,
        outbox_max_mb: float = DEFAULT_MAX_MB,
        outbox_max_age_s: float = DEFAULT_MAX_AGE_S,
        lasting: bool = False,
    ) -> None:
        if max_pending < 1:
            raise ConfigError(f"MqttBroker: max_pending {max_pending!r}: expected at least 1")
        kept = read_lasting(
            {
                "client_id": client_id,
                "clean_start": None if clean_start else False,
                "session_expiry_s": (
                    None if session_expiry_s == DEFAULT_SESSION_EXPIRY_S else session_expiry_s
                ),
                "outbox": outbox,
                "outbox_max_mb": None if outbox_max_mb == DEFAULT_MAX_MB else outbox_max_mb,
                "outbox_max_age_s": None if outbox_max_age_s == DEFAULT_MAX_AGE_S else outbox_max_age_s,
            },
            defaults,
            use_environment=lasting,
        )
        options = read_options(
            url,
            client_id=f"heron-{secrets.token_hex(6)}" if kept.client_id is None else kept.client_id,
            username=username,
            password=password,
            password_file=password_file,
            ca=ca,
            cert=cert,
            key=key,
            server_name=server_name,
            alpn=alpn,
            protocol=protocol,
            topic_prefix=topic_prefix,
            # the default says nothing: then environment or scenario may
            keepalive_s=None if keepalive_s == DEFAULT_KEEPALIVE_S else keepalive_s,
            connect_timeout_s=connect_timeout_s,
            defaults=defaults,
        )
        rng = rng or random.Random()  # noqa: S311 - spreads reconnections, nothing secret
        super().__init__(f"the MqttBroker of {options.address}", options, topics or TopicMap(env_id))
        if kept.outbox is not None:
            self.outbox = Outbox(
                OutboxStore(kept.outbox, self.topic_map.env_id),
                self.stats,
                max_bytes=kept.outbox_max_bytes,
                max_age_s=kept.outbox_max_age_s,
                may_come_late=self._may_come_late,
                kind_of=lambda topic: kind_of(self.topic_map.channel(topic) or ""),
            )
            self._outbox_reports = OutboxReports(
                self.outbox,
                options.client_id,
                lambda: self.stats.outbox_errors,
                partial(
                    self._report, self.topic_map.topic(session(options.username, options.client_id, "outbox"))
                ),
            )
        self._session = MqttSession(
            self.options,
            self,
            self.stats,
            will=LastWill(self._topic(will[0]), encode(will[1])) if will else None,
            wanted=self._wanted_filters,
            rng=rng,
            max_pending=max_pending,
            patience_s=patience_s,
            outbox=self.outbox,
        )
        if kept.session_expiry_s is not None:
            mark = self.topic_map.topic(session(options.username, options.client_id, "probe"))
            self._kept = KeptSession(
                options,
                kept.session_expiry_s,
                mark,
                self,
                self.stats,
                wanted=self._kept_filters,
                rng=rng,
                patience_s=patience_s,
            )
        will_channel = will[0] if will else None
        self._presences = Presences(
            self, self.options, self._owner_loop, self._session, will_channel, rng, self.tell_presence
        )

    def _report(self, topic: str, payload: bytes) -> bool:
        """Publish what is of no use later, unless it would have to wait; return whether that was done."""
        if not self._session.sends_at_once:
            return False
        self._session.publish(topic, payload, 0, False, counted=False)
        return True

    def _may_come_late(self, topic: str, payload: bytes) -> bool:
        """Whether what an outbox file holds may be sent: the file is not believed to hold only what we wrote.

        What cannot be read on ``estop`` is a stop.
        """
        channel = self.topic_map.channel(topic)
        if channel is None or is_filter(channel):
            return False
        message: Mapping[str, Any] = {}
        if channel == ESTOP:
            with contextlib.suppress(MessageError):
                message = decode(payload)
        return while_away(channel, message) == "stored"

    def _sessions(self) -> list[MqttSession]:
        return [*super()._sessions(), *self._presences.own_sessions()]

    async def _say_goodbye(self) -> None:
        await self._presences.leave()
        if self._outbox_reports is not None:
            self._outbox_reports.tell()

    def on_connected(self, again: bool) -> None:
        """Say again that we are here: meanwhile the broker may have published the will."""
        if again:
            self._presences.repeat()
        if self._outbox_reports is not None:
            self._outbox_reports.begin()
        super().on_connected(again)

    # -- messages ----------------------------------------------------------------------------------

    def publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        *,
        qos: int = 1,
        retain: bool = False,
        not_after: float | None = None,
    ) -> Delivery:
        """Publish a JSON object; see ``MessageBroker.publish``.

        Args:
            channel: No wildcards.
            message: A JSON object; an empty one with ``retain`` deletes what was retained.
            qos: 0: at most once, done when it is handed to the connection; 1: at least once; 2: once.
            retain: Keep it for late subscribers.
            not_after: The latest time to send it, by the clock of the home loop; see
                ``MessageBroker.publish``. What the operating system has taken is beyond recall.

        Returns:
            Done when the MQTT broker has acknowledged it. Awaiting it may raise ``BrokerOverflow``,
            ``MessageExpired``, ``BrokerRefused``, ``BrokerUnavailable`` (never connected) or
            ``BrokerClosed``.
        """
        if qos not in {0, 1, 2}:
            raise ValueError(f"qos must be 0, 1 or 2, got {qos!r}")
        payload = encode(message) if message or not retain else b""
        return self._publish(channel, message, payload, qos, retain, not_after)

    async def announce(
        self, channel: str, online: Mapping[str, Any], offline: Mapping[str, Any]
    ) -> Announcement:
        """Publish ``online``, retained, with ``offline`` as the will; see ``MessageBroker.announce``.

        An MQTT connection carries one will. Unless this broker's own is on ``channel``, the
        announcement gets a small connection of its own.
        """
        topic = self._topic(channel)
        self._owner_loop.acquire()
        return await self._owner_loop.run(self._presences.announce(channel, topic, online, offline))

    def tell_presence(self, channel: str, message: Mapping[str, Any], payload: bytes) -> None:
        """Tell the tap of a presence, which goes over a connection of its own."""
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, message, payload, True)
