"""Connecting where it cannot work: each failure is one clear line, in time, wherever it surfaces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import BrokerClosed, BrokerError, BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.waiting import until


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"mqtt://127.0.0.1:{sock.getsockname()[1]}"


@contextlib.asynccontextmanager
async def listener(answer: bytes) -> AsyncIterator[str]:
    """A port that accepts, and answers a CONNECT with some bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_nobody_there_is_said_at_once(nobody: str) -> None:
    broker = MqttBroker(nobody)
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert time.monotonic() - start < 1.0
    assert nobody in str(caught.value)
    assert "\n" not in str(caught.value)
    assert broker.home_loop is None
    await broker.close()


@pytest.mark.parametrize("use", ["publish", "subscribe", "consume", "announce", "wait_connected"])
async def test_nobody_there_reaches_whoever_waits_without_connecting(nobody: str, use: str) -> None:
    broker = MqttBroker(nobody)

    async def run() -> None:
        if use == "publish":
            await broker.publish("c", {})
        elif use == "subscribe":
            await broker.subscribe("c", lambda _: None)
        elif use == "consume":
            await broker.consume("c")
        elif use == "announce":
            await broker.announce("c", {"state": "online"}, {"state": "offline"})
        else:
            await broker.wait_connected(0.2)

    with pytest.raises(BrokerUnavailable, match=nobody):
        await asyncio.wait_for(run(), 5)
    await broker.close()


async def test_an_ignored_publish_that_never_left_is_counted_and_reported(nobody: str) -> None:
    broker = MqttBroker(nobody)
    for _ in range(3):
        broker.publish("c", {})
    await until(lambda: broker.stats.undelivered == 3)
    assert {r.kind for r in broker.stats.reports} == {"connection", "delivery"}
    await broker.close()


async def test_the_next_use_tries_again(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    server.stop()
    broker = MqttBroker(server.url)
    got: list[Received] = []
    broker.subscribe("c", got.append)
    with pytest.raises(BrokerUnavailable):
        await broker.publish("c", {"i": 1})
    server.start()
    await broker.publish("c", {"i": 2})
    await until(lambda: got)
    assert got == [{"i": 2}]
    await broker.close()


async def test_connect_may_be_tried_again(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    server.stop()
    broker = MqttBroker(server.url)
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    server.start()
    async with broker:
        await broker.publish("c", {})


async def test_a_port_that_says_nothing_is_given_up_in_time() -> None:
    async with listener(b"") as url:
        broker = MqttBroker(url, connect_timeout_s=0.2)
        start = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"did not answer as an MQTT broker within 0\.2 s"):
            await broker.connect()
        assert time.monotonic() - start < 1.0
        await broker.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 50,
        b"\xff" * 50,
        b"\x20\x7f",
        b"\x30\x02\x00\x09",
        b"\x40\x01\x00",
    ],
    ids=["http", "zeros", "ones", "long-connack", "bad-publish", "short-puback"],
)
async def test_a_port_that_speaks_something_else_is_no_mqtt_broker(answer: bytes) -> None:
    async with listener(answer) as url:
        broker = MqttBroker(url, connect_timeout_s=0.5)
        with pytest.raises(BrokerUnavailable, match=url):
            await broker.connect()
        await broker.close()


async def test_an_unknown_host_is_named() -> None:
    broker = MqttBroker("mqtt://no-such-host.invalid", connect_timeout_s=2)
    with pytest.raises(BrokerUnavailable, match=r"no-such-host\.invalid:1883"):
        await broker.connect()
    await broker.close()


async def test_giving_up_connect_leaves_nothing_behind() -> None:
    async with listener(b"") as url:
        before = asyncio.all_tasks()
        broker = MqttBroker(url, connect_timeout_s=60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.connect(), 0.1)
        await until(lambda: not any(t.get_name().startswith("mqtt") for t in asyncio.all_tasks() - before))
        await broker.close()


async def test_mqtt_5_at_a_broker_without_it_says_which_to_choose(embedded_url: str) -> None:
    broker = MqttBroker(embedded_url, protocol="5", connect_timeout_s=2)
    with pytest.raises(BrokerError) as caught:
        await broker.connect()
    await broker.close()
    assert isinstance(caught.value, BrokerRefused)
    assert "protocol='3.1.1'" in str(caught.value)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[str]:
    """A broker with access rights that are enforced at the subscription, which mosquitto does not do."""
    rights = tmp_path / "acl"
    rights.write_text("topic readwrite heron/default/mine/#\ntopic write heron/default/other\n")
    async with EmbeddedBroker(in_process=True, acl_file=rights) as server:
        yield server.url


async def test_a_refused_subscription_raises_and_is_reported(guarded: str) -> None:
    async with MqttBroker(guarded) as broker:
        got: list[Received] = []
        with pytest.raises(BrokerRefused, match=r"heron/default/theirs/#.*access rights"):
            await broker.subscribe("theirs/#", lambda _: None)
        assert "heron/default/theirs/#" in [r.where for r in broker.stats.reports]
        await broker.subscribe("mine/a", got.append)
        await broker.publish("mine/a", {"i": 1})
        await until(lambda: got)


async def test_a_refused_wide_filter_does_not_take_narrow_ones_with_it(guarded: str) -> None:
    async with MqttBroker(guarded) as broker:
        got: list[Received] = []
        wide = broker.subscribe("#", lambda _: None)
        narrow = broker.subscribe("mine/a", got.append)
        await narrow
        with pytest.raises(BrokerRefused):
            await wide
        await broker.publish("mine/a", {"i": 1})
        await until(lambda: got)
        assert got == [{"i": 1}]


async def test_a_refused_consumer_says_so(guarded: str) -> None:
    async with MqttBroker(guarded) as broker:
        with pytest.raises(BrokerRefused, match="heron/default/theirs/a"):
            await broker.consume("theirs/a")


async def test_a_loop_that_ended_without_close_says_so(mosquitto: Mosquitto) -> None:
    broker = MqttBroker(mosquitto.url)
    await asyncio.to_thread(lambda: asyncio.run(broker.connect()))
    for use in (lambda: broker.publish("c", {}), lambda: broker.subscribe("c", lambda _: None)):
        with pytest.raises(BrokerClosed, match=r"event loop .* has ended"):
            use()
    with pytest.raises(BrokerClosed, match=r"event loop .* has ended"):
        await broker.consume("c")
    await broker.close()


def test_a_synchronous_script_gets_no_traceback_from_the_background(nobody: str) -> None:
    broker = MqttBroker(nobody)
    delivery: Any = broker.publish("c", {})

    async def wait() -> None:
        await delivery

    with pytest.raises(BrokerUnavailable):
        run_sync(wait())
    run_sync(broker.close())
