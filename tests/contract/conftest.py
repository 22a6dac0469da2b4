"""The brokers that the contract suite is run against."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.kafka import KafkaBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.session_broker import SessionBroker
from heron_mqtt.messaging.nats import NatsBroker

MQTT_KINDS = ["mosquitto", "mosquitto-mqtt5", "mosquitto-kept", "embedded"]
EXTERNAL_KINDS = [*MQTT_KINDS, "nats", "kafka"]
IMPAIRED_KINDS = ["impaired-memory", "impaired-embedded"]  # by a perfect network
SLOW_KINDS = {"mosquitto-mqtt5", "mosquitto-kept", "impaired-embedded"}
"""Of which another one is quick; what is theirs alone is tested in ``tests/faults``, too."""


class QueueBroker(MessageBroker):
    """What a user writes who knows only the two methods."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)

    async def publish(self, channel: str, message: dict[str, Any]) -> None:  # type: ignore[override]
        await self._queues[channel].put(message)

    async def consume(self, channel: str) -> dict[str, Any]:
        return await self._queues[channel].get()


def _params(*names: str) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_KINDS else []) for name in names]


@dataclass(frozen=True)
class Kind:
    """One kind of broker."""

    name: str
    make: Callable[[], MessageBroker]
    """Make a broker, not connected. Those of MQTT made within a test reach one environment."""

    @property
    def mqtt(self) -> bool:
        return self.name in MQTT_KINDS


@pytest.fixture(params=_params("memory", *EXTERNAL_KINDS, "two-methods", *IMPAIRED_KINDS))
def kind(request: pytest.FixtureRequest, env_id: str) -> Kind:
    return _kind(request.param, request, env_id)


@pytest.fixture(params=_params(*MQTT_KINDS))
def mqtt_kind(request: pytest.FixtureRequest, env_id: str) -> Kind:
    """Only those that MQTT clients can connect to."""
    return _kind(request.param, request, env_id)


@pytest.fixture(params=_params(*EXTERNAL_KINDS))
def external_kind(request: pytest.FixtureRequest, env_id: str) -> Kind:
    """Only those that other processes can connect to."""
    return _kind(request.param, request, env_id)


@pytest.fixture(params=_params("memory", *EXTERNAL_KINDS, *IMPAIRED_KINDS))
def full_kind(request: pytest.FixtureRequest, env_id: str) -> Kind:
    """Those that are used from any thread, and carry wildcards."""
    return _kind(request.param, request, env_id)


@pytest.fixture(params=_params("memory", *MQTT_KINDS, *IMPAIRED_KINDS))
def retaining_kind(request: pytest.FixtureRequest, env_id: str) -> Kind:
    """Those that keep retained messages as well."""
    return _kind(request.param, request, env_id)


@pytest.fixture
async def broker(kind: Kind) -> AsyncIterator[MessageBroker]:
    async with kind.make() as made:
        yield made


@pytest.fixture
async def full_broker(full_kind: Kind) -> AsyncIterator[MessageBroker]:
    async with full_kind.make() as made:
        yield made


@pytest.fixture
async def retaining_broker(retaining_kind: Kind) -> AsyncIterator[MessageBroker]:
    async with retaining_kind.make() as made:
        yield made


@pytest.fixture
async def external_broker(external_kind: Kind) -> AsyncIterator[SessionBroker]:
    async with external_kind.make() as made:
        assert isinstance(made, SessionBroker)
        yield made


@pytest.fixture
async def mqtt_broker(mqtt_kind: Kind) -> AsyncIterator[MqttBroker]:
    async with mqtt_kind.make() as made:
        assert isinstance(made, MqttBroker)
        yield made


@pytest.fixture
async def another(external_kind: Kind) -> AsyncIterator[Callable[[], Awaitable[SessionBroker]]]:
    """Make further connections to the environment of ``external_broker``."""
    made: list[MessageBroker] = []

    async def make() -> SessionBroker:
        further = external_kind.make()
        assert isinstance(further, SessionBroker)
        made.append(further)
        await further.connect()
        return further

    yield make
    for further in made:
        await further.close()


def _kind(name: str, request: pytest.FixtureRequest, env_id: str) -> Kind:
    if name in IMPAIRED_KINDS:
        inner = _kind(name.removeprefix("impaired-"), request, env_id)
        return Kind(name, lambda: ImpairedBroker(inner.make(), ImpairmentTable()))
    if name == "memory":
        return Kind(name, InMemoryBroker)
    if name == "two-methods":
        return Kind(name, QueueBroker)
    if name == "embedded":
        url = request.getfixturevalue("embedded_url")
        return Kind(name, lambda: MqttBroker(url, env_id=env_id))
    if name == "kafka":
        kafka = request.getfixturevalue("kafka_server")
        return Kind(name, lambda: KafkaBroker([kafka.address], env_id=env_id))
    if name == "nats":
        server = request.getfixturevalue("nats_server")
        return Kind(name, lambda: NatsBroker(server.url, env_id=env_id))
    url = request.getfixturevalue("mosquitto").url
    if name == "mosquitto-kept":  # with an outbox and a session that the broker keeps
        folder, numbers = request.getfixturevalue("tmp_path"), itertools.count()

        def make() -> MqttBroker:
            own = f"{env_id}-{next(numbers)}"
            return MqttBroker(
                url, env_id=env_id, outbox=folder / own, client_id=own, clean_start=False, session_expiry_s=60
            )

        return Kind(name, make)
    protocol = "5" if name == "mosquitto-mqtt5" else "3.1.1"
    return Kind(name, lambda: MqttBroker(url, env_id=env_id, protocol=protocol))
