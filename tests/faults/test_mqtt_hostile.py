"""A broker that stalls, or sends what no broker should: the client survives and says what happened."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.socket_stream import Stream
from support.mosquitto_server import Mosquitto
from support.waiting import until

CONNACK = b"\x20\x02\x00\x00"


@contextlib.asynccontextmanager
async def impostor(then: bytes) -> AsyncIterator[str]:
    """A server that accepts every CONNECT, and then sends some bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1_000)
            writer.write(CONNACK)
            await writer.drain()
            await reader.read(1_000)
            writer.write(then)
            await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("bytes_sent", "why"),
    [
        (b"\x30\xff\xff\xff\x7f" + b"x" * 100, "a packet of 268435455 bytes is over"),
        (b"\x30\xff\xff\xff\xff\xff\x7f", "protocol"),
        (b"\x00\x00", "protocol"),
        (b"\xf0\x00", "protocol"),
        (b"\x36\x04\x00\x01a{", "protocol"),
        (b"\x90\x01\x00", "protocol"),
        (b"\x40\x01\x00", "protocol"),
    ],
    ids=["huge", "endless-length", "reserved-0", "reserved-15", "qos-3", "short-suback", "short-puback"],
)
async def test_a_packet_that_breaks_the_protocol_ends_the_connection_not_the_client(
    bytes_sent: bytes, why: str
) -> None:
    async with impostor(bytes_sent) as url, MqttBroker(url) as broker:
        broker.subscribe("c", lambda _: None)
        await until(lambda: broker.stats.reconnects >= 1, "reconnecting")
        (first, *_) = [r.what for r in broker.stats.reports if r.kind == "connection"]
        assert "connection lost" in first
        assert why.lower() in first.lower()


async def test_packets_nobody_asked_for_change_nothing() -> None:
    stray = (
        b"\x40\x02\x12\x34"
        + b"\x90\x03\x12\x34\x00"
        + b"\xb0\x02\x12\x34"
        + b"\xd0\x00"
        + b"\x20\x02\x00\x00"
    )
    topic = b"heron/default/c"
    message = b'{"i": 1}'
    publish = bytes([0x30, 2 + len(topic) + len(message), 0, len(topic)]) + topic + message
    async with impostor(stray + publish) as url, MqttBroker(url) as broker:
        got: list[Received] = []
        subscription = broker.subscribe("c", got.append)
        await until(lambda: got)
        assert got == [{"i": 1}]
        assert broker.connected
        subscription()


async def test_topics_that_are_not_ours_or_not_text_are_counted() -> None:
    alien = b"\x30\x0c\x00\x07alien/x{}" + b"x" * 1
    not_text = b"\x30\x06\x00\x02\xff\xfe{}"
    async with impostor(alien + not_text) as url, MqttBroker(url) as broker:
        broker.subscribe("c", lambda _: None)
        await until(lambda: broker.stats.rejected == 2)
        assert [r.where for r in broker.stats.reports if r.kind == "rejected"] == ["alien/x", r"b'\xff\xfe'"]
        assert broker.connected


async def test_a_broker_that_stalls_gets_everything_in_the_end(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    got: list[int] = []
    async with MqttBroker(server.url) as broker:
        await broker.subscribe("c", lambda m: got.append(m["i"]))
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            deliveries = [broker.publish("c", {"i": i, "fill": "x" * 200_000}) for i in range(100)]
            await asyncio.sleep(0.05)  # the kernel's buffers are full by now
            assert not deliveries[-1].done()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await asyncio.wait_for(asyncio.gather(*(_awaited(d) for d in deliveries)), 20)
        await until(lambda: len(got) == 100)
        assert got == list(range(100))
        assert broker.stats.reconnects == 0


async def test_a_kernel_that_takes_bytes_now_and_then_gets_all_of_them(
    mosquitto: Mosquitto, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()
    flush = Stream.flush
    monkeypatch.setattr(Stream, "flush", lambda self: bool(next(calls) % 2) and flush(self))
    async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
        deliveries = [broker.publish("c", {"fill": "x" * 200_000}) for _ in range(20)]
        await asyncio.wait_for(asyncio.gather(*(_awaited(d) for d in deliveries)), 10)


async def _awaited(awaitable: object) -> None:
    await awaitable  # type: ignore[misc]
