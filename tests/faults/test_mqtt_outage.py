"""The MQTT broker dies and comes back: nothing acknowledged is lost, everything else is counted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from heron_mqtt.errors import BrokerOverflow, BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.waiting import until


async def _restart(server: Mosquitto, *brokers: MqttBroker) -> None:
    server.kill()
    await until(lambda: not any(b.connected for b in brokers), "noticing the loss")
    await asyncio.to_thread(server.start)
    for broker in brokers:
        await broker.wait_connected(10)


async def test_everything_published_through_restarts_is_acknowledged_in_the_end(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    """One connection publishes and hears itself: an acknowledged message that it did not hear is lost.

    The broker keeps nothing, so a message may be acknowledged and die with the broker before it is
    delivered; then the sequence numbers must say so.
    """
    server = own_mosquitto()
    got: list[int] = []
    acknowledged: list[int] = []
    async with MqttBroker(server.url, rng=random.Random(1)) as broker:
        await broker.subscribe("c", lambda m: got.append(m["seq"]))
        stop = asyncio.Event()

        async def publish() -> int:
            seq = 0
            pending: set[asyncio.Task[None]] = set()

            async def send(number: int) -> None:
                await broker.publish("c", {"sender": "MG1", "boot": "b", "seq": number})
                acknowledged.append(number)

            while not stop.is_set():
                pending.add(asyncio.create_task(send(seq)))
                seq += 1
                await asyncio.sleep(0.0005)
            await asyncio.gather(*pending)
            return seq

        publishing = asyncio.create_task(publish())
        for _ in range(3):
            before = len(got)
            await until(lambda before=before: len(got) > before + 100)  # type: ignore[misc]
            await _restart(server, broker)
        stop.set()
        n = await asyncio.wait_for(publishing, 20)
        await until(lambda: n - 1 in got)
        assert sorted(acknowledged) == list(range(n))
        assert len(got) == len(set(got)), "a message was delivered twice"
        missing = set(range(n)) - set(got)
        assert broker.stats.lost == len(missing)
        assert broker.stats.reconnects == 3
        assert broker.stats.undelivered == 0
        assert got == sorted(got)


async def test_what_is_published_before_and_during_an_outage_arrives_in_order(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    got: list[int] = []
    async with MqttBroker(server.url) as broker:
        await broker.subscribe("c", lambda m: got.append(m["i"]))
        deliveries = [broker.publish("c", {"i": i}) for i in range(2_000)]
        server.kill()  # some were handed to the connection, none is acknowledged
        await until(lambda: not broker.connected)
        deliveries += [broker.publish("c", {"i": i}) for i in range(2_000, 3_000)]
        assert not any(d.done() for d in deliveries)
        server.start()
        await asyncio.wait_for(deliveries[-1], 10)
        await until(lambda: len(got) == 3_000)
        assert got == list(range(3_000))


async def test_subscriptions_made_and_ended_during_an_outage_hold_after_it(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    before: list[Received] = []
    ended: list[Received] = []
    during: list[Received] = []
    async with MqttBroker(server.url) as broker:
        await broker.subscribe("agents/+/action", before.append)
        unsubscribe = await broker.subscribe("ended", ended.append)
        consumer = asyncio.ensure_future(broker.consume("consumed"))
        await broker.subscribe("other", lambda _: None)
        server.kill()
        await until(lambda: not broker.connected)
        unsubscribe()
        subscription = broker.subscribe("during", during.append)
        server.start()
        await asyncio.wait_for(_awaited(subscription), 10)
        for channel in ("agents/MG1/action", "ended", "during", "consumed"):
            await broker.publish(channel, {"on": channel})
        await until(lambda: before and during)
        assert await asyncio.wait_for(consumer, 5) == {"on": "consumed"}
        assert before == [{"on": "agents/MG1/action"}]
        assert ended == []


async def _awaited(awaitable: object) -> None:
    await awaitable  # type: ignore[misc]


async def test_a_gap_during_an_outage_is_counted(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    got: list[int] = []
    async with MqttBroker(server.url) as listener, MqttBroker(server.url) as speaker:
        await listener.subscribe("c", lambda m: got.append(m["seq"]))
        await speaker.publish("c", {"sender": "MG1", "boot": "b", "seq": 0})
        await until(lambda: got == [0])
        await _restart(server, listener, speaker)
        # 1 and 2 went to the broker that died, so to say
        await speaker.publish("c", {"sender": "MG1", "boot": "b", "seq": 3})
        await until(lambda: got == [0, 3])
        assert listener.stats.lost == 2


async def test_the_queue_is_bounded_and_drops_the_oldest(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    got: list[int] = []
    async with MqttBroker(server.url, max_pending=10) as broker:
        await broker.subscribe("c", lambda m: got.append(m["i"]))
        server.kill()
        await until(lambda: not broker.connected)
        deliveries = [broker.publish("c", {"i": i}) for i in range(15)]
        for dropped in deliveries[:5]:
            with pytest.raises(BrokerOverflow, match="more than 10 messages wait"):
                await dropped
        assert broker.stats.overflowed == 5
        server.start()
        await asyncio.wait_for(deliveries[-1], 10)
        await until(lambda: len(got) == 10)
        assert got == list(range(5, 15))
        reports = [r.what for r in broker.stats.reports if r.kind == "overflow"]
        assert len(reports) == 2
        assert "5 messages were dropped" in reports[1]


async def test_close_during_an_outage_ends_in_time_and_fails_what_waits(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    broker = MqttBroker(server.url)
    await broker.connect()
    for agent in ("MG1", "MG2"):
        await broker.announce(f"agents/{agent}/status", {"state": "online"}, {"state": "offline"})
    server.kill()
    await until(lambda: not broker.connected)
    delivery = broker.publish("c", {})
    loop = asyncio.get_running_loop()
    start = loop.time()
    await broker.close()
    assert loop.time() - start < 1.8
    with pytest.raises(Exception, match="was closed"):
        await delivery
    assert broker.stats.undelivered == 1


async def test_close_ends_in_time_when_the_broker_has_stopped_answering(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    broker = MqttBroker(server.url)
    await broker.connect()
    await broker.announce("agents/MG1/status", {"state": "online"}, {"state": "offline"})
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        broker.publish("c", {})
        loop = asyncio.get_running_loop()
        start = loop.time()
        await broker.close()
        assert loop.time() - start < 1.8
        assert broker.stats.undelivered >= 1
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


async def test_waiting_for_a_connection_is_bounded(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    async with MqttBroker(server.url) as broker:
        server.kill()
        await until(lambda: not broker.connected)
        with pytest.raises(BrokerUnavailable, match=r"within 0\.05 s"):
            await broker.wait_connected(0.05)


async def test_an_outage_is_reported_with_the_address(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    async with MqttBroker(server.url) as broker:
        await _restart(server, broker)
        whats = [r.what for r in broker.stats.reports if r.kind == "connection" and r.where == server.url]
        assert any("connection lost" in what for what in whats)


async def test_a_message_that_ends_every_connection_is_given_up(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto("allow_anonymous true", "max_packet_size 1000")
    got: list[Received] = []
    async with MqttBroker(server.url, rng=random.Random(1)) as broker:
        await broker.subscribe("c", got.append)
        poison = broker.publish("c", {"fill": "x" * 2_000})
        after = broker.publish("c", {"i": 1})
        with pytest.raises(BrokerRefused, match=r"20\d\d bytes .*'heron/default/c'.*size limit"):
            await asyncio.wait_for(_awaited(poison), 20)
        await asyncio.wait_for(_awaited(after), 20)
        await until(lambda: got)
        assert got == [{"i": 1}]
        assert broker.stats.undelivered == 1


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_descriptor_is_left_after_outages_and_closing(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    async with MqttBroker(server.url):
        pass
    before = _descriptors()
    for _ in range(3):
        async with MqttBroker(server.url) as broker:
            await broker.announce("agents/MG1/status", {"state": "online"}, {"state": "offline"})
            await _restart(server, broker)
        failing = MqttBroker("mqtt://127.0.0.1:1", connect_timeout_s=0.5)
        with pytest.raises(BrokerUnavailable):
            await failing.connect()
        await failing.close()
    assert _descriptors() == before


async def test_a_half_open_connection_is_given_up(own_mosquitto: Callable[..., Mosquitto]) -> None:
    """The broker's host vanishes without a word: a stopped process answers no ping."""
    server = own_mosquitto()
    async with MqttBroker(server.url, keepalive_s=1) as broker:
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            await until(lambda: not broker.connected, "giving up", within_s=5)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await broker.wait_connected(10)
        await broker.publish("c", {})


async def test_a_birth_that_is_broken_off_is_taken_back(own_mosquitto: Callable[..., Mosquitto]) -> None:
    """It is on its way when the program is told to end; a clean end of the session publishes no will."""
    server, status = own_mosquitto(), "devices/MG1/ess/status"
    online, offline = {"type": "status", "state": "online"}, {"type": "status", "state": "offline"}
    async with MqttBroker(server.url, env_id="site", will=(status, offline)) as broker:
        os.kill(server.process.pid, signal.SIGSTOP)
        appearing = asyncio.create_task(broker.announce(status, online, offline))
        await asyncio.sleep(0.1)
        appearing.cancel()
        await asyncio.sleep(0.1)
        os.kill(server.process.pid, signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await appearing
    told: list[Received] = []
    async with MqttBroker(server.url, env_id="site") as later:
        await later.subscribe(status, told.append)
        await until(lambda: told, "what is retained")
    assert [message["state"] for message in told] == ["offline"]
