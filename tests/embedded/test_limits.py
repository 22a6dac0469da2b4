"""Every bound of `Limits`, reached and passed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time

import pytest
from websockets.asyncio.client import connect as websocket_connect

from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.server.session import MESSAGE_OVERHEAD_BYTES
from support.raw_mqtt import (
    Ended,
    connect_packet,
    connected,
    opened,
    packet,
    publish_packet,
    string,
    subscribe_packet,
)


def limited(**limits: float) -> EmbeddedBroker:
    return EmbeddedBroker(in_process=True, limits=Limits(**limits))  # type: ignore[arg-type]


async def until(condition: object, what: str, wait_s: float = 5.0) -> None:
    end_s = time.monotonic() + wait_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, f"waited {wait_s} s for {what}"
        await asyncio.sleep(0.01)


async def test_a_packet_of_the_limit_passes_and_one_byte_more_ends_the_connection() -> None:
    async with limited(max_packet_bytes=10_000) as broker, connected(broker.port) as client:
        await client.subscribe(("x", 0))
        most = 10_000 - len(string("x"))
        await client.send(publish_packet("x", bytes(most)))
        assert len((await client.received()).payload) == most
        await client.send(publish_packet("x", bytes(most + 1)))
        await client.expect_end()
        assert broker.stats.malformed == 1


async def test_the_announced_length_is_enough_to_refuse_a_packet() -> None:
    async with limited() as broker, connected(broker.port) as client:
        await client.send(b"\x30\xff\xff\xff\x7f")  # 256 MiB to come
        await client.expect_end()


async def test_connections_over_the_limit_are_turned_away_and_the_others_stay() -> None:
    async with (
        limited(max_connections=2) as broker,
        connected(broker.port, "a") as first,
        connected(broker.port, "b") as second,
    ):
        async with opened(broker.port) as third:
            with pytest.raises(Ended):
                await third.connect("c")
        second.drop()
        await first.publish("x", b"", qos=1)
        await until(lambda: len(broker._server._connections) == 1, "a free place")  # type: ignore[union-attr]
        async with connected(broker.port, "d"):
            assert broker.stats.refusals == 1


async def test_sessions_over_the_limit_are_refused_as_server_unavailable() -> None:
    async with limited(max_sessions=1) as broker, connected(broker.port, "kept", clean=False) as kept:
        async with opened(broker.port) as client:
            assert await client.connect("other") == 3
        await kept.disconnect()
        async with connected(broker.port, "kept", clean=False) as again:
            assert again.session_present


async def test_the_session_that_was_left_first_gives_way_to_a_new_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with limited(max_sessions=3) as broker, connected(broker.port, "here", clean=False):
        for name in ("first", "second"):
            async with connected(broker.port, name, clean=False) as client:
                await client.disconnect()
        async with connected(broker.port, "new", clean=False):
            assert broker.stats.evicted == 1
            assert broker.stats.sessions == 3
        async with connected(broker.port, "second", clean=False) as client:
            assert client.session_present
    assert 'session_evicted client="first" user="" waiting=0' in caplog.text


async def test_a_connection_that_says_nothing_gives_way_to_one_that_logs_in() -> None:
    async with limited(max_connections=3) as broker, connected(broker.port, "a") as first:
        async with opened(broker.port) as idle, opened(broker.port), connected(broker.port, "late") as late:
            await idle.expect_end()
            await late.publish("x", b"", qos=1)
        await first.publish("x", b"", qos=1)


async def test_a_session_expires() -> None:
    async with limited(session_expiry_s=1) as broker:
        async with connected(broker.port, "kept", clean=False) as client:
            await client.disconnect()
        await until(lambda: broker.stats.sessions == 0, "the session to expire", 5)
        async with connected(broker.port, "kept", clean=False) as client:
            assert not client.session_present


async def test_the_offline_queue_is_bounded_by_number_and_keeps_the_oldest() -> None:
    async with limited(max_queued_messages=5) as broker, connected(broker.port) as sender:
        async with connected(broker.port, "away", clean=False) as client:
            await client.subscribe(("x", 1))
            await client.disconnect()
        for number in range(8):
            await sender.publish("x", b"%d" % number, qos=1)
        assert (broker.stats.dropped, broker.stats.queued) == (3, 5)
        async with connected(broker.port, "away", clean=False) as client:
            assert [(await client.received()).payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
            assert await client.arrived() == []
        assert (broker.stats.queued, broker.stats.queued_bytes) == (0, 0)


@pytest.mark.parametrize("limit", ["max_queued_bytes", "max_total_queued_bytes"])
async def test_the_offline_queue_is_bounded_by_memory(limit: str) -> None:
    size = 20_000 + len("x") + MESSAGE_OVERHEAD_BYTES  # more than what always fits
    async with limited(**{limit: 3 * size}) as broker, connected(broker.port) as sender:
        async with connected(broker.port, "away", clean=False) as client:
            await client.subscribe(("x", 1))
            await client.disconnect()
        for _ in range(5):
            await sender.publish("x", bytes(20_000), qos=1)
        assert (broker.stats.dropped, broker.stats.queued, broker.stats.queued_bytes) == (2, 3, 3 * size)
        async with connected(broker.port, "away", clean=True):
            assert (broker.stats.queued, broker.stats.queued_bytes) == (0, 0)


async def test_no_more_than_the_window_is_in_flight_and_the_rest_follows_in_order() -> None:
    async with (
        limited(max_inflight=3) as broker,
        connected(broker.port) as client,
        connected(broker.port) as sender,
    ):
        await client.subscribe(("x", 1))
        for number in range(10):
            await sender.publish("x", b"%d" % number, qos=1)
        first = await client.arrived(ack=False)
        assert [message.payload for message in first] == [b"0", b"1", b"2"]
        await client.acknowledge(first[1])  # out of order
        assert [message.payload for message in await client.arrived(ack=False)] == [b"3"]
        for message in (first[0], first[2]):
            await client.acknowledge(message)
        assert [message.payload for message in await client.arrived(ack=False)] == [b"4", b"5"]


async def test_retained_messages_are_bounded_by_number_and_known_topics_still_change() -> None:
    async with limited(max_retained_messages=3, sys_interval_s=0) as broker, connected(broker.port) as client:
        for number in range(5):
            await client.publish(f"r/{number}", b"1", qos=1, retain=True)
        await client.publish("r/0", b"2", qos=1, retain=True)
        assert (broker.stats.retained, broker.stats.unretained) == (3, 2)
        await client.publish("r/1", b"", qos=1, retain=True)
        await client.publish("r/4", b"3", qos=1, retain=True)
        await client.subscribe(("r/#", 1))
        got = sorted((message.topic, message.payload) for message in await client.arrived())
        assert got == [("r/0", b"2"), ("r/2", b"1"), ("r/4", b"3")]


async def test_retained_messages_are_bounded_by_memory() -> None:
    size = 1_000 + len("r/0") + MESSAGE_OVERHEAD_BYTES
    async with (
        limited(max_retained_bytes=2 * size, sys_interval_s=0) as broker,
        connected(broker.port) as client,
    ):
        for number in range(3):
            await client.publish(f"r/{number}", bytes(1_000), qos=1, retain=True)
        assert (broker.stats.retained, broker.stats.retained_bytes) == (2, 2 * size)
        for number in range(3):
            await client.publish(f"r/{number}", b"", qos=1, retain=True)
        assert (broker.stats.retained, broker.stats.retained_bytes) == (0, 0)


async def test_subscriptions_of_a_client_are_bounded_and_known_ones_still_change() -> None:
    async with limited(max_subscriptions=2) as broker, connected(broker.port) as client:
        assert await client.subscribe(("a", 1), ("b", 1), ("c", 1), ("a", 2)) == [1, 1, 0x80, 2]
        await client.unsubscribe("b")
        assert await client.subscribe(("c", 1)) == [1]
        assert broker.stats.subscriptions == 2


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_client_that_takes_no_byte_is_dropped_and_nobody_is_delayed(qos: int) -> None:
    async with (
        limited(stall_timeout_s=0.3) as broker,
        connected(broker.port, "sender") as sender,
        connected(broker.port, "stuck", clean=False) as stuck,
        connected(broker.port, "reader") as reader,
    ):
        await stuck.subscribe(("x", qos))
        await reader.subscribe(("x", 0))
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(100):  # more than the system's own buffers hold
            await sender.publish("x", b"%d" % number + bytes(100_000), qos=1)
            assert (await reader.received()).payload.startswith(b"%d" % number)
        await until(lambda: broker.stats.slow_readers == 1, "the stuck reader to be dropped")
        assert broker.stats.clients == 2


async def test_a_connected_client_whose_queue_is_full_is_dropped_and_finds_its_queue_again() -> None:
    async with (
        limited(max_queued_messages=10, max_inflight=5) as broker,
        connected(broker.port, "sender") as sender,
        connected(broker.port, "lazy", clean=False) as lazy,
    ):
        await lazy.subscribe(("x", 1))
        for number in range(16):
            await sender.publish("x", b"%d" % number, qos=1)
        await lazy.expect_end()
        assert (broker.stats.slow_readers, broker.stats.dropped) == (1, 1)
        async with connected(broker.port, "lazy", clean=False) as lazy_again:
            assert [int((await lazy_again.received()).payload) for _ in range(15)] == list(range(15))


@pytest.mark.parametrize("sent", [1_200, pytest.param(3_000, marks=pytest.mark.slow)])
async def test_a_stall_under_load_loses_nothing(sent: int) -> None:
    """What mosquitto's defaults lose silently: 1,000 messages a second at QoS 1 to a gateway that stalls."""
    async with (
        EmbeddedBroker() as broker,
        connected(broker.port, "sender") as sender,
        connected(broker.port, "gateway", clean=False) as gateway,
    ):
        await gateway.subscribe(("x", 1))
        gateway.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(sent):
            await sender.send(publish_packet("x", b"%d" % number + bytes(281), qos=1, packet_id=number + 1))
            await sender.expect(4)
        gateway.writer.transport.resume_reading()  # type: ignore[attr-defined]
        numbers = [int((await gateway.received()).payload.rstrip(b"\0")) for _ in range(sent)]
        assert numbers == list(range(sent))
        stats = await broker.read_stats()
        assert (stats.dropped, stats.slow_readers, stats.queued) == (0, 0, 0)


@pytest.mark.slow  # messages that are not read: above
async def test_answers_that_are_not_read_do_not_pile_up() -> None:
    async with limited(max_queued_bytes=1_000) as broker, connected(broker.port) as rude:
        rude.writer.transport.pause_reading()  # type: ignore[attr-defined]
        # Small windows: else the system itself takes millions of answers before the broker keeps one.
        rude.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        (served,) = broker._server._connections  # type: ignore[union-attr]
        sending = served.transport._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        pings = packet(0xC0, b"") * 5_000
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(60):
                while broker.stats.slow_readers == 0:
                    rude.writer.write(pings)
                    await rude.writer.drain()
                    await asyncio.sleep(0)
        assert broker.stats.slow_readers == 1


async def test_a_flood_of_events_is_no_flood_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with limited(max_log_lines_per_s=5) as broker, connected(broker.port) as client:
        for _ in range(200):
            await client.publish("$no", b"", qos=1)
        await asyncio.sleep(1.05)  # the next second reports what was left out
        await client.publish("$no", b"", qos=1)
    denied = [line for line in caplog.messages if line.startswith("publish_denied")]
    assert 6 <= len(denied) <= 20
    suppressed = [line for line in caplog.messages if line.startswith('suppressed of="publish_denied"')]
    assert sum(int(line.rpartition("=")[2]) for line in suppressed) == 201 - len(denied)


async def test_a_websocket_that_takes_no_byte_is_dropped() -> None:
    async with (
        EmbeddedBroker(in_process=True, websocket_port=0, limits=Limits(stall_timeout_s=0.3)) as broker,
        connected(broker.port) as sender,
        websocket_connect(str(broker.websocket_url), subprotocols=["mqtt"], max_queue=1) as stuck,  # type: ignore[list-item]
    ):
        await stuck.send(connect_packet("stuck") + subscribe_packet(1, ("x", 1)))
        await until(lambda: broker.stats.subscriptions == 1, "the subscription")
        for _ in range(100):
            await sender.publish("x", bytes(100_000), qos=1)
        await until(lambda: broker.stats.slow_readers == 1, "the stuck reader to be dropped")
        await until(lambda: broker.stats.clients == 1, "its end")
        assert broker.stats.queued_bytes == 0
        stuck.transport.abort()
