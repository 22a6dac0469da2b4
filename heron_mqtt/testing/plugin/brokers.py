"""The brokers behind the fixture ``mqtt_broker``: one process of a kind, topics of its own for each test."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.schemes import open_broker, without_login
from heron_mqtt.messaging.topics import TopicMap
from heron_mqtt.messaging.urls import parse_url
from heron_mqtt.testing.embedded_server import EmbeddedServer
from heron_mqtt.testing.mosquitto_server import Mosquitto, executable


@dataclass(frozen=True, slots=True)
class BrokerForTests:
    """A broker as one test sees it.

    Attributes:
        url: Where it is.
        env_id: The test's own environment: second level of its topics.
    """

    url: str
    env_id: str

    def __repr__(self) -> str:
        return f"<broker for tests {without_login(self.url)}, {self.env_id}>"

    @property
    def prefix(self) -> str:
        """What the test's topics begin with."""
        return TopicMap(self.env_id).prefix

    def topic(self, channel: str) -> str:
        """Return the topic of a channel, for clients that know topics only."""
        return TopicMap(self.env_id).topic(channel)

    def connect(self) -> MessageBroker:
        """Return a connection to it, not open yet: ``async with mqtt_broker.connect() as broker:``."""
        return open_broker(self.url, env_id=self.env_id)


def asked_for(item: pytest.Item) -> tuple[str, str]:
    """Return the kind of broker that a test asks for, and where it does so.

    Raises:
        UsageError: Its marker does not name one broker.
    """
    marker = item.get_closest_marker("mqtt_broker")
    if marker is None:
        return item.config.getoption("--mqtt-broker"), "--mqtt-broker"
    where = f"{item.nodeid}: @pytest.mark.mqtt_broker"
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], str):
        raise pytest.UsageError(f'{where}: expected one broker, as mqtt_broker("mosquitto")')
    return marker.args[0], where


class BrokersForTests:
    """Starts a broker of each kind when it is first asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: dict[str, EmbeddedServer | Mosquitto] = {}

    def get(self, kind: str, asked_by: str) -> BrokerForTests:
        """Return a broker for a test.

        Args:
            kind: ``embedded``, ``mosquitto``, or the URL of one that is there.
            asked_by: What named it, for messages.

        Raises:
            UsageError: There is no such kind.
        """
        return BrokerForTests(self._url(kind, asked_by), f"test-{uuid.uuid4().hex[:12]}")

    def close(self) -> None:
        """End what was started."""
        for server in self._running.values():
            server.stop()

    def _url(self, kind: str, asked_by: str) -> str:
        if kind not in {"embedded", "mosquitto"}:
            try:
                parse_url(kind)
            except ConfigError as exc:
                raise pytest.UsageError(f"{asked_by}: {exc}; or embedded, mosquitto") from None
            return kind
        if kind not in self._running:
            if kind == "mosquitto":
                if executable() is None:
                    pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
                self._running[kind] = Mosquitto(self._folders.mktemp("mosquitto")).start()
            else:
                self._running[kind] = EmbeddedServer().start()
        return self._running[kind].url
