"""NatsBroker: core NATS, for agents that talk within a site.

What a NATS server has taken it hands on at once, at most once, to those who are connected; it keeps
nothing. So there are no retained messages and no last will here, and ``features`` says so: what safety
depends on is missing, and no hardware is driven over it. A NATS server with its MQTT listener has both:
connect to that with ``MqttBroker``.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.mqtt.forwarding_broker import ForwardingBroker
from heron_mqtt.messaging.mqtt.options import DEFAULT_KEEPALIVE_S, read_options
from heron_mqtt.messaging.topics import TopicMap
from heron_mqtt.messaging.urls import NATS_URLS

try:
    from heron_mqtt.messaging.nats.connection import NatsConnection
except ModuleNotFoundError as exc:
    if exc.name is None or exc.name.partition(".")[0] != "nats":
        raise
    raise ConfigError("NatsBroker needs nats-py: pip install 'heron-mqtt[nats]'") from None


class NatsBroker(ForwardingBroker):
    """Publishes and subscribes at a NATS server.

    Topics are those of MQTT, as subjects: ``heron/plant/run/state`` is ``heron.plant.run.state``, as the
    MQTT listener of the same server has it. A delivery is done when the server has confirmed the message:
    those who are connected then will get it, if they read.

    Args:
        url: ``nats://[user:password@]host[:port]``, ``nats+tls://`` for TLS; several hosts, separated by
            commas, stand in for each other.
        env_id: The environment; its subjects begin with ``heron.<env_id>.``.
        client_id: Name of the connection in the server's monitoring; made at random if left out.
        username, password, password_file, ca, cert, key, server_name: As of ``MqttBroker``.
        keepalive_s: A server that is silent for up to twice as long is given up.
        connect_timeout_s: Bound of one attempt to connect, name resolution included.
        patience_s: How long the first connection is tried for without an answer; 0 = once.
        max_pending: Messages that may wait to be sent.
        topics: Where channels live, if not simply below ``heron/<env_id>/``.
        rng: Jitters the delays of reconnecting.
        defaults: Settings where neither arguments nor URL nor environment say anything, by name.

    Raises:
        ConfigError: A URL, file or value is wrong, or nats-py is not installed.
    """

    keeps_nothing: ClassVar[str] = "core NATS keeps no message for those who subscribe later"

    def __init__(
        self,
        url: str = "nats://127.0.0.1:4222",
        *,
        env_id: str = "default",
        client_id: str | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: str | Path | None = None,
        keepalive_s: float = DEFAULT_KEEPALIVE_S,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str | None = None,
        connect_timeout_s: float = 5.0,
        patience_s: float = 0.0,
        max_pending: int = 20_000,
        topics: TopicMap | None = None,
        rng: random.Random | None = None,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        if max_pending < 1:
            raise ConfigError(f"NatsBroker: max_pending {max_pending!r}: expected at least 1")
        options = read_options(
            url,
            client_id=f"heron-{secrets.token_hex(6)}" if client_id is None else client_id,
            username=username,
            password=password,
            password_file=password_file,
            ca=ca,
            cert=cert,
            key=key,
            server_name=server_name,
            # the default says nothing: then environment or scenario may
            keepalive_s=None if keepalive_s == DEFAULT_KEEPALIVE_S else keepalive_s,
            connect_timeout_s=connect_timeout_s,
            defaults=defaults,
            kind=NATS_URLS,
        )
        super().__init__(
            options,
            topics or TopicMap(env_id),
            NatsConnection,
            max_pending=max_pending,
            patience_s=patience_s,
            rng=rng,
        )
