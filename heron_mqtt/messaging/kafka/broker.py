"""KafkaBroker: channels over Kafka, for agents whose messages shall stay in a log that others read.

A topic for each channel prefix, the channel as the key, so that a channel keeps its order in its partition. A
message takes some milliseconds. Kafka stores everything, but has no retained messages and no last will;
``features`` says so. Safety depends on both, so no hardware is driven over it.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.mqtt.connection import Events
from heron_mqtt.messaging.mqtt.forwarding_broker import ForwardingBroker
from heron_mqtt.messaging.mqtt.options import DEFAULT_KEEPALIVE_S, LastWill, MqttOptions, read_options
from heron_mqtt.messaging.topics import TopicMap
from heron_mqtt.messaging.urls import KAFKA_URLS

try:
    from heron_mqtt.messaging.kafka.connection import KafkaConnection, KafkaSettings, ReadState
except ModuleNotFoundError as exc:
    if exc.name is None or exc.name.partition(".")[0] != "aiokafka":
        raise
    raise ConfigError("KafkaBroker needs aiokafka: pip install 'heron-mqtt[kafka]'") from None

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaBroker(ForwardingBroker):
    """Publishes and subscribes at Kafka.

    Every process reads for itself, without a consumer group, from the end of the log at its first
    subscription. After a lost connection it reads on from where it was. A delivery is done when every
    replica that is in sync has the message (``acks=all``).

    Args:
        bootstrap_servers: ``host[:port]`` of one or more servers, a list or separated by commas; or a URL:
            ``kafka://[user:password@]host[:port]``, ``kafka+tls://`` for TLS.
        env_id: The environment; its topics begin with ``heron.<env_id>.``.
        client_id: For the server's log; made at random if left out.
        username, password, password_file, ca, cert, key: As of ``MqttBroker``.
        sasl_mechanism: How to log in: ``PLAIN``, ``SCRAM-SHA-256`` or ``SCRAM-SHA-512``.
        partitions, replication_factor: Of topics that are made; one that exists is taken as it is.
        keepalive_s: A server that does not answer within as long is given up; it is asked twice in it.
        connect_timeout_s: Bound of one attempt to connect, name resolution included.
        patience_s: How long the first connection is tried for without an answer; 0 = once.
        max_pending: Messages that may wait to be sent.
        topics: Where channels live, if not simply below ``heron/<env_id>/``.
        rng: Jitters the delays of reconnecting.
        defaults: Settings where neither arguments nor URL nor environment say anything, by name.

    Raises:
        ConfigError: An address, file or value is wrong, or aiokafka is not installed.
    """

    keeps_nothing: ClassVar[str] = "who subscribes later reads from the end of the log"

    def __init__(
        self,
        bootstrap_servers: str | Sequence[str] = "127.0.0.1:9092",
        *,
        env_id: str = "default",
        client_id: str | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: str | Path | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        sasl_mechanism: Mechanism = "PLAIN",
        partitions: int = 1,
        replication_factor: int = 1,
        keepalive_s: float = DEFAULT_KEEPALIVE_S,
        connect_timeout_s: float = 10.0,
        patience_s: float = 0.0,
        max_pending: int = 20_000,
        topics: TopicMap | None = None,
        rng: random.Random | None = None,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        counts = {
            "max_pending": max_pending,
            "partitions": partitions,
            "replication_factor": replication_factor,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"KafkaBroker: {name} {value!r}: expected at least 1")
        if sasl_mechanism not in MECHANISMS:
            raise ConfigError(
                f"KafkaBroker: sasl_mechanism {sasl_mechanism!r}: expected {', '.join(MECHANISMS)}"
            )
        options = read_options(
            _url(bootstrap_servers),
            client_id=f"heron-{secrets.token_hex(6)}" if client_id is None else client_id,
            username=username,
            password=password,
            password_file=password_file,
            ca=ca,
            cert=cert,
            key=key,
            # the default says nothing: then environment or scenario may
            keepalive_s=None if keepalive_s == DEFAULT_KEEPALIVE_S else keepalive_s,
            connect_timeout_s=connect_timeout_s,
            defaults=defaults,
            kind=KAFKA_URLS,
        )
        servers = options.hosts
        settings = KafkaSettings(
            tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers),
            sasl_mechanism,
            partitions,
            replication_factor,
        )
        self._read_state = ReadState()

        def connect(one: MqttOptions, events: Events, will: LastWill | None) -> KafkaConnection:
            return KafkaConnection(one, events, settings, self._read_state)

        super().__init__(
            options,
            topics or TopicMap(env_id),
            connect,
            max_pending=max_pending,
            patience_s=patience_s,
            rng=rng,
        )

    async def _shut(self, *exc: object) -> None:
        await super()._shut(*exc)
        await self._read_state.closed()

    async def _abort_open(self) -> None:
        await super()._abort_open()
        await self._read_state.closed()


def _url(servers: str | Sequence[str]) -> str:
    text = servers if isinstance(servers, str) else ",".join(servers)
    return text if "://" in text else f"kafka://{text}"
