"""Messages with a time limit, while the broker is away or does not read: never queued, never sent late.

Seen by an independent subscriber (plain paho), not by the broker object that published.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator

import paho.mqtt.client as paho
import pytest

from heron_mqtt.errors import MessageExpired
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from support.mosquitto_server import Mosquitto
from support.waiting import until


class Observer:
    """A subscriber of its own that outlives the server: it connects again and subscribes again."""

    def __init__(self, server: Mosquitto) -> None:
        self.topics: list[str] = []
        self.ready = False
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = lambda c, d, m: self.topics.append(m.topic)
        self._client.on_connect = lambda c, *_: c.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: setattr(self, "ready", True)
        self._client.on_disconnect = lambda *_: setattr(self, "ready", False)
        self._client.connect("127.0.0.1", server.port)
        self._client.loop_start()

    def on(self, channel: str) -> int:
        return sum(topic.endswith("/" + channel) for topic in self.topics)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def server(own_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    return own_mosquitto()


@pytest.fixture
def observer(server: Mosquitto) -> Iterator[Observer]:
    made = Observer(server)
    yield made
    made.close()


def _in_s(delay_s: float) -> float:
    return asyncio.get_running_loop().time() + delay_s


async def test_nothing_with_a_time_limit_is_queued_while_disconnected(
    server: Mosquitto, observer: Observer
) -> None:
    async with MqttBroker(server.url, rng=random.Random(1)) as broker:
        server.kill()
        await until(lambda: not broker.connected)
        deliveries = [broker.publish("setpoint", {"i": i}, not_after=_in_s(60.0)) for i in range(20)]
        plain = broker.publish("plain", {})
        for delivery in deliveries:
            with pytest.raises(MessageExpired, match="there is no connection"):
                await asyncio.wait_for(delivery, 1)
        assert broker.stats.expired == 20
        observer.ready = False
        await asyncio.to_thread(server.start)
        await until(lambda: observer.ready)
        await asyncio.wait_for(plain, 10)
        await broker.publish("last", {})
        await until(lambda: observer.on("last") == 1)
        assert observer.on("setpoint") == 0


async def test_what_was_not_acknowledged_when_the_connection_died_is_not_sent_again(
    server: Mosquitto, observer: Observer
) -> None:
    assert server.process is not None
    async with MqttBroker(server.url, rng=random.Random(1)) as broker:
        os.kill(server.process.pid, signal.SIGSTOP)  # takes the bytes into its socket, and nothing more
        timed = broker.publish("setpoint", {"i": 1}, not_after=_in_s(60.0))
        plain = broker.publish("plain", {})
        await asyncio.sleep(0.05)
        server.kill()
        with pytest.raises(MessageExpired, match="lost before it was acknowledged"):
            await asyncio.wait_for(timed, 5)
        observer.ready = False
        await asyncio.to_thread(server.start)
        await until(lambda: observer.ready)
        await asyncio.wait_for(plain, 10)
        await broker.publish("last", {})
        await until(lambda: observer.on("last") == 1)
        assert observer.on("setpoint") == 0


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_waits_while_the_broker_does_not_read_is_dropped_when_its_time_passes(
    server: Mosquitto, observer: Observer, qos: int
) -> None:
    """The socket's buffers are full: nothing that was published then may arrive after its time."""
    assert server.process is not None
    await until(lambda: observer.ready)
    async with MqttBroker(server.url, rng=random.Random(1)) as broker:
        await broker.publish("first", {})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            big = {"text": "x" * 500_000}
            fill = [broker.publish("fill", big, qos=0) for _ in range(40)]
            await asyncio.sleep(0.2)  # what the kernel takes is gone
            timed = [broker.publish("setpoint", {"i": i}, qos=qos, not_after=_in_s(0.3)) for i in range(50)]
            for delivery in timed:
                with pytest.raises(MessageExpired):
                    await asyncio.wait_for(delivery, 2)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await asyncio.wait_for(asyncio.gather(*(_awaited(d) for d in fill)), 10)
        await broker.publish("last", {})
        await until(lambda: observer.on("last") == 1)
        assert observer.on("fill") == 40
        assert observer.on("setpoint") == 0
        assert broker.stats.expired == 50


async def test_what_is_handed_over_together_with_much_else_is_taken_back_too(
    server: Mosquitto, observer: Observer
) -> None:
    """Published in one go, behind more bytes than the socket takes: not yet known to be stuck."""
    assert server.process is not None
    await until(lambda: observer.ready)
    async with MqttBroker(server.url, rng=random.Random(1)) as broker:
        await broker.publish("first", {})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for _ in range(40):  # small enough to be taken, until the kernel is full
                broker.publish("fill", {"text": "x" * 200_000}, qos=0)
                timed = broker.publish("setpoint", {}, not_after=_in_s(0.2))
                await asyncio.sleep(0.01)
            with pytest.raises(MessageExpired):
                await asyncio.wait_for(timed, 2)
            before = broker.stats.expired
            await asyncio.sleep(0.25)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await broker.publish("last", {})
        await until(lambda: observer.on("last") == 1)
        assert before > 0
        assert observer.on("setpoint") == 40 - broker.stats.expired


async def _awaited(delivery: object) -> None:
    await delivery  # type: ignore[misc]


async def test_raw_messages_have_time_limits_too(server: Mosquitto, observer: Observer) -> None:
    async with (
        MqttBroker(server.url, rng=random.Random(1)) as broker,
        RawMqtt(broker.options, broker.stats) as raw,
    ):
        await raw.publish_raw("vendor/setpoint", b"1", not_after=_in_s(5.0))
        with pytest.raises(MessageExpired):
            await raw.publish_raw("vendor/setpoint", b"2", not_after=_in_s(-1.0))
        await until(lambda: observer.on("setpoint") == 1)
        server.kill()
        await until(lambda: not raw.connected)
        with pytest.raises(MessageExpired):
            await raw.publish_raw("vendor/setpoint", b"3", not_after=_in_s(5.0))


async def test_behind_an_impaired_network_it_holds_as_well(server: Mosquitto, observer: Observer) -> None:
    inner = MqttBroker(server.url, rng=random.Random(1))
    table = ImpairmentTable.model_validate({"rules": [{"delay_s": 0.3}]})
    async with ImpairedBroker(inner, table) as broker:
        on_its_way = broker.publish("setpoint", {}, not_after=_in_s(0.1))
        await asyncio.wait_for(_awaited(on_its_way), 5)  # it left in time: the wire is slow, not the sender
        await until(lambda: observer.on("setpoint") == 1)
        server.kill()
        await until(lambda: not inner.connected)
        with pytest.raises(MessageExpired):
            await asyncio.wait_for(_awaited(broker.publish("setpoint", {}, not_after=_in_s(5.0))), 5)
        assert broker.stats.expired == 1
