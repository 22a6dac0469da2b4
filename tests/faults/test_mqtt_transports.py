"""Other ways to the broker: WebSockets, several hosts, a name of its own in the certificate."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from heron_mqtt.errors import BrokerUnavailable, MessageExpired
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.testing.loopback_server import free_port
from support.certificates import Certificates, key_of
from support.mosquitto_server import Mosquitto
from support.waiting import until


async def _talks(broker: MqttBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("c", got.append)
    big = {"i": 0, "text": "x" * 300_000}
    await broker.publish("c", big)
    for i in range(1, 200):
        broker.publish("c", {"i": i})
    await until(lambda: len(got) == 200)
    assert [m["i"] for m in got] == list(range(200))
    assert got[0] == big


async def test_over_a_websocket_of_the_embedded_broker() -> None:
    async with EmbeddedBroker(in_process=True, websocket_port=0) as server:
        assert server.websocket_url is not None
        async with MqttBroker(server.websocket_url) as broker:
            await _talks(broker)
            assert broker.options.address.startswith("ws://127.0.0.1:")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_over_a_websocket_of_mosquitto(own_mosquitto: Callable[..., Mosquitto], protocol: str) -> None:
    port = free_port()
    own_mosquitto("allow_anonymous true", f"listener {port} 127.0.0.1", "protocol websockets")
    async with MqttBroker(f"ws://127.0.0.1:{port}", protocol=protocol, patience_s=3.0) as broker:
        await _talks(broker)


async def test_over_a_websocket_within_tls_by_another_name(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    cert = made.issue("other", "/CN=broker.example", extra="subjectAltName=DNS:broker.example")
    key = key_of(cert)
    async with EmbeddedBroker(in_process=True, websocket_port=0, tls_cert=cert, tls_key=key) as server:
        assert server.websocket_url is not None
        for url in (server.websocket_url, server.url):
            async with MqttBroker(url, ca=made.ca, server_name="broker.example", alpn="mqtt") as broker:
                await _talks(broker)


async def test_what_is_no_websocket_is_said(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    with pytest.raises(BrokerUnavailable, match=r"WebSocket|ended the connection"):
        await MqttBroker(f"ws://127.0.0.1:{server.port}", connect_timeout_s=2.0).connect()


async def test_time_limits_hold_over_a_websocket(own_mosquitto: Callable[..., Mosquitto]) -> None:
    port = free_port()
    server = own_mosquitto("allow_anonymous true", f"listener {port} 127.0.0.1", "protocol websockets")
    assert server.process is not None
    got: list[str] = []
    observer = paho.Client(paho.CallbackAPIVersion.VERSION2)
    observer.on_message = lambda c, d, m: got.append(m.topic.rpartition("/")[2])
    observer.connect("127.0.0.1", server.port)
    observer.subscribe("#")
    observer.loop_start()
    async with MqttBroker(f"ws://127.0.0.1:{port}", rng=random.Random(1), patience_s=3.0) as broker:
        await broker.publish("first", {})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for _ in range(30):
                broker.publish("fill", {"text": "x" * 500_000}, qos=0)
            await asyncio.sleep(0.2)
            limit = asyncio.get_running_loop().time() + 0.3
            timed = [broker.publish("setpoint", {}, not_after=limit) for _ in range(20)]
            for delivery in timed:
                with pytest.raises(MessageExpired):
                    await asyncio.wait_for(delivery, 2)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await asyncio.wait_for(_awaited(broker.publish("last", {})), 10)
        await until(lambda: "last" in got)
    observer.loop_stop()
    assert got.count("fill") == 30
    assert got.count("setpoint") == 0


async def _awaited(delivery: object) -> None:
    await delivery  # type: ignore[misc]


async def test_of_several_hosts_the_next_one_is_taken_when_one_is_lost(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    first, second = own_mosquitto(), own_mosquitto()
    nobody = free_port()
    url = f"mqtt://127.0.0.1:{nobody},127.0.0.1:{first.port},127.0.0.1:{second.port}"
    got: list[Received] = []
    async with MqttBroker(url, rng=random.Random(1)) as broker:
        await broker.subscribe("c", got.append)
        await broker.publish("c", {"i": 1})
        await until(lambda: len(got) == 1)
        first.kill()
        await until(lambda: not broker.connected)
        await broker.wait_connected(10)
        await broker.publish("c", {"i": 2})  # the subscription is in force at the second
        await until(lambda: len(got) == 2)
        second.kill()
        await until(lambda: not broker.connected)
        await asyncio.to_thread(first.start)
        await broker.wait_connected(10)
        await broker.publish("c", {"i": 3})
        await until(lambda: len(got) == 3)


async def test_if_nobody_answers_every_host_is_named() -> None:
    a, b = free_port(), free_port()
    with pytest.raises(BrokerUnavailable) as caught:
        await MqttBroker(f"mqtt://127.0.0.1:{a},127.0.0.1:{b}").connect()
    assert f":{a}" in str(caught.value)
    assert f":{b}" in str(caught.value)


async def test_mqtt_5_brokers_are_told_when_a_message_is_no_longer_worth_delivering(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    reader = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="reader", protocol=paho.MQTTv5)
    expiries: dict[str, int | None] = {}
    reader.on_message = lambda c, d, m: expiries.__setitem__(
        m.topic.rpartition("/")[2], getattr(m.properties, "MessageExpiryInterval", None)
    )
    reader.connect("127.0.0.1", server.port)
    reader.subscribe("#", qos=1)
    reader.loop_start()
    async with MqttBroker(server.url, protocol="5") as broker:
        now_s = asyncio.get_running_loop().time()
        await until(reader.is_connected)
        await asyncio.sleep(0.1)
        await broker.publish("setpoint", {}, not_after=now_s + 5.0)
        await broker.publish("plain", {})
        await until(lambda: len(expiries) == 2)
    reader.loop_stop()
    assert expiries["plain"] is None
    assert expiries["setpoint"] in {4, 5}
