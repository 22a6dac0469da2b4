"""Many clients, much data, and neighbours that misbehave: the broker lives and others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heron_mqtt.messaging.embedded import EmbeddedBroker
from support.raw_mqtt import CONNACK, connect_packet, connected, opened, packet, publish_packet

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """A thousand clients in this process need more descriptors than the usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8_192 if hard == resource.RLIM_INFINITY else min(hard, 8_192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def round_trips_ms(port: int, count: int) -> list[float]:
    """Times of a message from one client of a pair to the other."""
    times: list[float] = []
    async with connected(port) as one, connected(port) as other:
        await other.subscribe(("pair", 1))
        for number in range(count):
            began_s = time.perf_counter()
            await one.send(publish_packet("pair", b"%d" % number, qos=1, packet_id=number % 1000 + 1))
            assert (await other.received(10)).payload == b"%d" % number
            times.append((time.perf_counter() - began_s) * 1e3)
            await one.expect(4)
    return times


async def test_64_mb_of_payload_are_refused_without_being_held() -> None:
    async with (
        EmbeddedBroker() as broker,
        connected(broker.port) as client,
        connected(broker.port) as bystander,
    ):
        before = resident_bytes(broker.pid)
        data = publish_packet("x", bytes(64 * MIB))
        with contextlib.suppress(ConnectionError):
            client.writer.write(data)
            await client.writer.drain()
        await client.expect_end(10)
        assert resident_bytes(broker.pid) - before < 4 * MIB
        await bystander.publish("x", b"", qos=1)


async def test_64_mb_in_packets_of_the_limit_pass_and_are_not_kept() -> None:
    async with EmbeddedBroker() as broker, connected(broker.port) as client, connected(broker.port) as reader:
        await reader.subscribe(("x", 1))
        before = resident_bytes(broker.pid)
        for _ in range(64):
            await client.publish("x", bytes(MIB - 100), qos=1)
            assert len((await reader.received()).payload) == MIB - 100
        assert resident_bytes(broker.pid) - before < 16 * MIB


@pytest.mark.slow
async def test_a_thousand_idle_connections() -> None:
    async with EmbeddedBroker() as broker, contextlib.AsyncExitStack() as stack:
        async with connected(broker.port):
            before = resident_bytes(broker.pid)
        clients = [
            await stack.enter_async_context(connected(broker.port, f"idle{number}")) for number in range(1000)
        ]
        assert (resident_bytes(broker.pid) - before) / 1000 < 30_000
        times_ms = await round_trips_ms(broker.port, 200)
        assert statistics.median(times_ms) < 10
        async with asyncio.timeout(5):
            while (await broker.read_stats()).clients != 1000:  # the pair's end is noticed a moment later
                await asyncio.sleep(0.01)
        for client in (clients[0], clients[-1]):
            await client.send(packet(0xC0, b""))
            await client.expect(13)


async def test_five_hundred_connect_at_once() -> None:
    async with EmbeddedBroker() as broker, contextlib.AsyncExitStack() as stack:
        began_s = time.monotonic()

        async def come(number: int) -> None:
            client = await stack.enter_async_context(opened(broker.port))
            await client.send(connect_packet(f"c{number}"))
            assert (await client.expect(CONNACK, 20))[1] == 0

        await asyncio.gather(*(come(number) for number in range(500)))
        assert time.monotonic() - began_s < 10
        assert (await broker.read_stats()).clients == 500


# A process of its own, so that what it costs is not mistaken for a delay in the broker: one connection
# subscribes at QoS 1 and never reads, another publishes 30,000 messages as fast as they are acknowledged.
FLOOD = """
import socket, sys
def string(text): return len(text).to_bytes(2, "big") + text
def connect(name):
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    body = string(b"MQTT") + bytes([4, 0, 0, 0]) + string(name)
    sock.sendall(bytes([0x10, len(body)]) + body)
    assert sock.recv(4) == bytes([0x20, 2, 0, 0])
    return sock
stuck, flood = connect(b"stuck"), connect(b"flood")
stuck.sendall(bytes([0x82, 10, 0, 1]) + string(b"flood") + bytes([1]))
body = string(b"flood") + bytes([0, 1]) + bytes(281)
message = bytes([0x32, len(body) & 127 | 128, len(body) >> 7]) + body
sent = acknowledged = 0
while acknowledged < 4 * 30000:
    while sent < 30000 and sent - acknowledged // 4 < 200:
        flood.sendall(message)
        sent += 1
    acknowledged += len(flood.recv(65536))
"""


@pytest.mark.slow
async def test_beside_a_stuck_reader_and_30000_messages_a_pair_loses_nothing_and_stays_quick() -> None:
    async with EmbeddedBroker() as broker:
        before = resident_bytes(broker.pid)
        quiet_ms = statistics.quantiles(await round_trips_ms(broker.port, 1_000), n=100)[98]
        flood = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, str(broker.port))
        times_ms: list[float] = []
        while flood.returncode is None:
            times_ms += await round_trips_ms(broker.port, 50)
        assert flood.returncode == 0
        busy_ms = statistics.quantiles(times_ms, n=100)[98]
        stats = await broker.read_stats()
        # The stuck reader's queue holds 10,000 messages, then its connection is ended.
        assert stats.slow_readers == 1
        assert stats.dropped <= 30_000 - 10_000
        assert resident_bytes(broker.pid) - before < 32 * MIB
        assert len(times_ms) >= 200
        assert busy_ms < 5 * quiet_ms, f"p99 {busy_ms:.2f} ms, quiet {quiet_ms:.2f} ms"
