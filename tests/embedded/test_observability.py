"""What the broker says about itself: log lines, counts, and ``$SYS/broker/...``."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import fields

import pytest

from heron_mqtt.messaging.embedded import BrokerStats, EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.stats import SYS_TOPICS
from support.raw_mqtt import Will, connected, opened, publish_packet


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.partition(" ")[0] for line in caplog.messages]


async def test_a_life_of_a_connection_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heron_mqtt.broker")
    async with EmbeddedBroker(in_process=True) as broker:
        async with connected(broker.port, "c1") as client:
            await client.disconnect()
        async with connected(broker.port, "c2") as client:
            await client.send(publish_packet("", b"x"))
            await client.expect_end()
        async with opened(broker.port) as client:
            await client.connect("v5", level=5)
            await client.expect_end()
    lines = "\n".join(caplog.messages)
    assert re.search(r'^connected client="c1" user="" peer="127\.0\.0\.1:\d+"$', lines, re.MULTILINE)
    assert re.search(
        r'^disconnected client="c1" peer="\S+" reason="disconnect" detail=""$', lines, re.MULTILINE
    )
    assert 'reason="malformed" detail="an empty topic"' in lines
    assert "MQTT 3.1.1" in lines
    assert caplog.messages[0].startswith('started url="mqtt://127.0.0.1:')
    assert caplog.messages[-1].startswith("stopped ")


@pytest.mark.parametrize(
    ("reason", "level"),
    [("keepalive", "WARNING"), ("taken_over", "WARNING"), ("connection_lost", "INFO"), ("shutdown", "INFO")],
)
async def test_every_disconnect_has_its_reason(
    reason: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "heron_mqtt.broker")
    async with EmbeddedBroker(in_process=True) as broker, connected(broker.port, "c", keepalive=1) as client:
        match reason:
            case "keepalive":
                await client.expect_end()
            case "taken_over":
                async with connected(broker.port, "c"):
                    await client.expect_end()
            case "connection_lost":
                client.drop()
                async with connected(broker.port, "other") as other:
                    while broker.stats.disconnects == 0:
                        await other.arrived()
            case "shutdown":
                await broker.close()
    found = [record for record in caplog.records if f'reason="{reason}"' in record.message]
    assert [record.levelname for record in found][:1] == [level]


async def test_what_a_client_sends_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heron_mqtt.broker")
    async with (
        EmbeddedBroker(in_process=True) as broker,
        connected(broker.port, 'a"\n\x1b[2Jforged') as client,
    ):
        await client.subscribe(("x/#/" + "y" * 10_000, 0))
    assert all("\n" not in line and "\x1b" not in line and len(line) < 1_000 for line in caplog.messages)


async def test_the_counts_are_those_of_what_happened() -> None:
    async with (
        EmbeddedBroker(in_process=True, limits=Limits(sys_interval_s=0)) as broker,
        connected(broker.port, "sender") as sender,
        connected(broker.port, "away", clean=False) as away,
    ):
        await away.subscribe(("x", 1))
        await away.disconnect()
        await sender.publish("x", b"1", qos=1, retain=True)
        await sender.publish("x", b"2", qos=1)
        await sender.publish("$no", b"", qos=1)
        assert await sender.subscribe(("$share/a/b", 0), ("y", 0)) == [0x80, 0]
        async with connected(broker.port, "dies", will=Will("y", b"")) as dying:
            dying.drop()
            await sender.received()
        stats = broker.stats
        assert (stats.connects, stats.disconnects, stats.clients, stats.max_clients) == (3, 2, 1, 2)
        assert (stats.received, stats.delivered, stats.wills, stats.denied, stats.refusals) == (3, 1, 1, 1, 1)
        assert (stats.queued, stats.longest_queue, stats.retained, stats.subscriptions) == (2, 2, 1, 2)
        assert (stats.sessions, stats.dropped) == (2, 0)
        assert stats.queued_bytes > 0
        async with connected(broker.port, "away", clean=False) as away_again:
            await away_again.received(ack=False)
            await away_again.received(ack=False)
            away_again.drop()
        async with connected(broker.port, "away", clean=False) as away_again:
            await away_again.arrived()
        stats = broker.stats
        assert (stats.delivered, stats.redelivered, stats.queued) == (5, 2, 0)


async def test_sys_topics_say_what_the_counts_say() -> None:
    async with (
        EmbeddedBroker(in_process=True, limits=Limits(sys_interval_s=0.05)) as broker,
        connected(broker.port) as client,
    ):
        await client.subscribe(("$SYS/#", 0))
        seen: dict[str, str] = {}
        async with asyncio.timeout(5):
            while seen.get("$SYS/broker/clients/connected") != "1" or len(seen) <= len(SYS_TOPICS):
                message = await client.received()
                seen[message.topic] = message.payload.decode()
        assert seen["$SYS/broker/version"].startswith("heron-mqtt ")
        assert {topic.removeprefix("$SYS/broker/") for topic in seen} == {*SYS_TOPICS.values(), "version"}
        assert float(seen["$SYS/broker/uptime"]) >= 0


async def test_sys_topics_can_be_turned_off() -> None:
    async with (
        EmbeddedBroker(in_process=True, limits=Limits(sys_interval_s=0)) as broker,
        connected(broker.port) as client,
    ):
        await client.subscribe(("$SYS/#", 0))
        assert await client.arrived() == []


def test_every_count_has_a_topic_of_its_own() -> None:
    assert set(SYS_TOPICS) == {item.name for item in fields(BrokerStats)}
    assert len(set(SYS_TOPICS.values())) == len(SYS_TOPICS)


@pytest.mark.slow  # it waits for mosquitto to tell its counts
async def test_the_topics_are_mosquittos_where_it_has_them(mosquitto_port: int) -> None:
    shared = {
        f"$SYS/broker/{name}"
        for name in SYS_TOPICS.values()
        if name.startswith(("bytes/", "subscriptions/", "retained messages/count", "store/messages/count"))
        or name in {"clients/connected", "clients/maximum", "clients/total", "publish/messages/dropped"}
        or name in {"publish/messages/received", "publish/messages/sent", "store/messages/bytes", "uptime"}
    }
    async with connected(mosquitto_port) as client:
        await client.subscribe(("$SYS/broker/#", 0))
        async with asyncio.timeout(40):
            while shared:
                shared.discard((await client.received()).topic)
