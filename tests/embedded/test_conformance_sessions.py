"""MQTT 3.1.1 on raw sockets, part one: connections and sessions. Ours, and mosquitto as a second opinion."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from support.raw_mqtt import (
    CONNACK,
    PINGRESP,
    PUBACK,
    PUBREC,
    PUBREL,
    Ended,
    Will,
    connect_packet,
    connected,
    opened,
    packet,
    publish_packet,
    subscribe_packet,
)

if TYPE_CHECKING:
    from support.other_brokers import Target


@pytest.fixture
def name() -> str:
    """A topic level and client identifier that no other test uses: mosquitto serves them all."""
    return "t" + secrets.token_hex(6)


# These wait for seconds; the second opinion is asked for in the slow run only.
waiting = pytest.mark.parametrize(
    "broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.slow)], indirect=True
)


@waiting
async def test_a_will_is_sent_when_keepalive_passes_one_and_a_half_times_in_silence(
    broker: Target, name: str
) -> None:
    async with connected(broker.port, f"{name}-watcher") as watcher:
        await watcher.subscribe((f"{name}/will", 1))
        async with connected(broker.port, name, keepalive=1, will=Will(f"{name}/will", b"gone", 1)) as device:
            begin_s = time.monotonic()
            message = await watcher.received(8)
            took_s = time.monotonic() - begin_s
            assert (message.topic, message.payload) == (f"{name}/will", b"gone")
            assert took_s > 0.9
            if broker.name == "embedded":  # mosquitto looks only now and then
                assert 1.4 < took_s < 2.2
            await device.expect_end()


@waiting
async def test_any_packet_counts_as_a_sign_of_life(broker: Target, name: str) -> None:
    async with connected(broker.port, name, keepalive=1) as device:
        end_s = time.monotonic() + 2.2
        while time.monotonic() < end_s:
            await device.publish(f"{name}/x", b"", qos=1)
            await asyncio.sleep(0.2)
        await device.send(packet(0xC0, b""))
        await device.expect(PINGRESP)


async def test_keepalive_zero_is_never_enforced(embedded: EmbeddedBroker, name: str) -> None:
    async with connected(embedded.port, name, keepalive=0) as device:
        with pytest.raises(TimeoutError):
            await device.next_packet(1.8)


async def test_half_a_packet_is_no_sign_of_life(embedded: EmbeddedBroker, name: str) -> None:
    async with connected(embedded.port, name, keepalive=1) as device:
        began_s = time.monotonic()
        unfinished = publish_packet("a", b"x" * 100)
        ended = asyncio.create_task(device.expect_end(4))
        for position in range(20):
            if ended.done():
                break
            device.writer.write(unfinished[position : position + 1])
            await asyncio.wait([ended], timeout=0.2)
        assert ended.done()
        assert 1.4 < time.monotonic() - began_s < 2.5


async def test_a_will_is_sent_when_the_connection_breaks(broker: Target, name: str) -> None:
    async with connected(broker.port, f"{name}-watcher") as watcher:
        await watcher.subscribe((f"{name}/will", 2))
        async with connected(broker.port, name, will=Will(f"{name}/will", b"gone", 1)) as device:
            device.drop()
            message = await watcher.received()
        assert (message.payload, message.qos, message.retain) == (b"gone", 1, False)


async def test_a_retained_will_is_kept_for_later_subscribers(broker: Target, name: str) -> None:
    async with connected(broker.port, f"{name}-watcher") as watcher:
        await watcher.subscribe((f"{name}/will", 1))
        async with connected(broker.port, name, will=Will(f"{name}/will", b"gone", 1, retain=True)) as device:
            device.drop()
            assert not (await watcher.received()).retain
    async with connected(broker.port, f"{name}-late") as late:
        await late.subscribe((f"{name}/#", 1))
        message = await late.received()
        assert (message.payload, message.retain) == (b"gone", True)
        await late.publish(f"{name}/will", b"", retain=True, qos=1)


async def test_no_will_after_disconnect(broker: Target, name: str) -> None:
    async with connected(broker.port, f"{name}-watcher") as watcher:
        await watcher.subscribe((f"{name}/will", 1))
        async with connected(broker.port, name, will=Will(f"{name}/will", b"gone", 1)) as device:
            await device.disconnect()
        assert await watcher.arrived() == []


async def test_a_will_is_sent_when_a_client_breaks_the_protocol(broker: Target, name: str) -> None:
    async with connected(broker.port, f"{name}-watcher") as watcher:
        await watcher.subscribe((f"{name}/will", 1))
        async with connected(broker.port, name, will=Will(f"{name}/will", b"gone", 1)) as device:
            await device.send(publish_packet(f"{name}/+", b"a wildcard in a topic name"))
            await device.expect_end()
        assert (await watcher.received()).payload == b"gone"


async def test_a_second_connect_ends_the_connection(embedded: EmbeddedBroker, name: str) -> None:
    async with connected(embedded.port, name) as device:
        await device.send(connect_packet(name))  # MQTT-3.1.0-2
        await device.expect_end()


async def test_a_persistent_session_keeps_its_subscriptions_and_an_offline_queue(
    broker: Target, name: str
) -> None:
    async with connected(broker.port, name, clean=False) as device:
        assert not device.session_present
        await device.subscribe((f"{name}/1", 1), (f"{name}/2", 2))
        await device.disconnect()
    async with connected(broker.port, f"{name}-sender") as sender:
        for number in range(10):
            await sender.publish(f"{name}/1", b"%d" % number, qos=1)
        await sender.publish(f"{name}/2", b"exactly once", qos=2)
    async with connected(broker.port, name, clean=False) as device:
        assert device.session_present
        got = [await device.received() for _ in range(11)]
        assert [message.payload for message in got] == [b"%d" % number for number in range(10)] + [
            b"exactly once"
        ]
        assert [message.qos for message in got] == [1] * 10 + [2]
        assert not any(message.dup or message.retain for message in got)
        assert await device.arrived() == []


async def test_a_clean_session_forgets_everything(broker: Target, name: str) -> None:
    async with connected(broker.port, name, clean=False) as device:
        await device.subscribe((f"{name}/1", 1))
        await device.disconnect()
    async with connected(broker.port, f"{name}-sender") as sender:
        await sender.publish(f"{name}/1", b"lost on purpose", qos=1)
        async with connected(broker.port, name, clean=True) as device:
            assert not device.session_present
            await sender.publish(f"{name}/1", b"nobody subscribed", qos=1)
            assert await device.arrived() == []
            await device.disconnect()
    async with connected(broker.port, name, clean=False) as device:
        assert not device.session_present


@pytest.mark.parametrize("qos", [1, 2])
async def test_unacknowledged_messages_come_again_in_order_with_dup_after_a_reconnect(
    broker: Target, name: str, qos: int
) -> None:
    async with (
        connected(broker.port, f"{name}-sender") as sender,
        connected(broker.port, name, clean=False) as device,
    ):
        await device.subscribe((f"{name}/x", qos))
        for number in range(5):
            await sender.publish(f"{name}/x", b"%d" % number, qos=qos)
        first = [await device.received(ack=False) for _ in range(5)]
        assert not any(message.dup for message in first)
        device.drop()
        async with connected(broker.port, name, clean=False) as again:
            assert again.session_present
            second = [await again.received(ack=False) for _ in range(5)]
            for message in second:
                await again.acknowledge(message)
            assert [message.payload for message in second] == [b"0", b"1", b"2", b"3", b"4"]
            assert [message.packet_id for message in second] == [message.packet_id for message in first]
            assert all(message.dup for message in second)
            assert await again.arrived() == []
            await again.disconnect()
        async with connected(broker.port, name, clean=False) as third:
            assert await third.arrived() == []


async def test_qos_2_goes_on_with_pubrel_after_a_reconnect(broker: Target, name: str) -> None:
    async with (
        connected(broker.port, f"{name}-sender") as sender,
        connected(broker.port, name, clean=False) as device,
    ):
        await device.subscribe((f"{name}/x", 2))
        await sender.publish(f"{name}/x", b"once", qos=2)
        message = await device.received(ack=False)
        raw_id = message.packet_id.to_bytes(2, "big")
        await device.send(packet(0x50, raw_id))  # PUBREC: we have it
        assert await device.expect(PUBREL) == raw_id
        device.drop()  # before PUBCOMP
        async with connected(broker.port, name, clean=False) as again:
            assert await again.expect(PUBREL) == raw_id
            await again.send(packet(0x70, raw_id))
            assert await again.arrived() == []


@pytest.mark.slow
@waiting
async def test_a_late_puback_loses_nothing(broker: Target, name: str) -> None:
    """Later than the 5 s after which amqtt drops a message."""
    async with (
        connected(broker.port, f"{name}-sender") as sender,
        connected(broker.port, name, clean=False) as device,
    ):
        await device.subscribe((f"{name}/x", 1))
        await sender.publish(f"{name}/x", b"patience", qos=1)
        message = await device.received(ack=False)
        await asyncio.sleep(5.5)
        device.drop()
        async with connected(broker.port, name, clean=False) as again:
            repeated = await again.received()
            assert (repeated.payload, repeated.packet_id, repeated.dup) == (
                b"patience",
                message.packet_id,
                True,
            )


@pytest.mark.parametrize("clean", [True, False])
async def test_a_takeover_closes_the_old_connection_sends_its_will_and_works(
    broker: Target, name: str, *, clean: bool
) -> None:
    async with connected(broker.port, f"{name}-watcher") as watcher:
        await watcher.subscribe((f"{name}/will", 1))
        async with connected(broker.port, name, clean=clean, will=Will(f"{name}/will", b"old", 1)) as old:
            await old.subscribe((f"{name}/x", 1))
            async with connected(broker.port, name, clean=clean, will=Will(f"{name}/will", b"new", 1)) as new:
                await old.expect_end()
                wills = [message.payload for message in await watcher.arrived()]
                if clean or broker.name == "embedded":  # mosquitto 2.0.11 forgets it (MQTT-3.1.2-8)
                    assert wills == [b"old"]
                assert new.session_present is not clean
                if clean:
                    await new.subscribe((f"{name}/x", 1))
                await watcher.publish(f"{name}/x", b"to the new one", qos=1)
                assert (await new.received()).payload == b"to the new one"
                assert await new.arrived() == []
                await new.disconnect()
        assert await watcher.arrived() == []


async def test_a_message_in_flight_survives_a_takeover(broker: Target, name: str) -> None:
    async with (
        connected(broker.port, f"{name}-sender") as sender,
        connected(broker.port, name, clean=False) as old,
    ):
        await old.subscribe((f"{name}/x", 1))
        await sender.publish(f"{name}/x", b"precious", qos=1)
        await old.received(ack=False)
        async with connected(broker.port, name, clean=False) as new:
            message = await new.received()
            assert (message.payload, message.dup) == (b"precious", True)


async def test_an_empty_client_identifier_gets_a_name_of_its_own(broker: Target, name: str) -> None:
    async with connected(broker.port, "") as one, connected(broker.port, "") as other:
        await one.subscribe((f"{name}/x", 0))
        await other.publish(f"{name}/x", b"hello", qos=1)
        assert (await one.received()).payload == b"hello"
        assert await other.arrived() == []


async def test_an_empty_client_identifier_needs_a_clean_session(broker: Target) -> None:
    async with opened(broker.port) as client:
        assert await client.connect("", clean=False) == 2  # MQTT-3.1.3-8: identifier rejected
        await client.expect_end()


@pytest.mark.parametrize("level", [3, 5, 42])
async def test_another_protocol_version_is_refused_with_the_return_code_of_the_standard(
    embedded: EmbeddedBroker, level: int
) -> None:
    async with opened(embedded.port) as client:
        assert await client.connect("x", level=level) == 1  # MQTT-3.1.2-2
        await client.expect_end()


async def test_requests_may_follow_connect_without_waiting_for_its_answer(broker: Target, name: str) -> None:
    async with opened(broker.port) as client:
        everything = (
            connect_packet(name)
            + subscribe_packet(1, (f"{name}/x", 1))
            + publish_packet(f"{name}/x", b"in one go", qos=1, packet_id=9)
        )
        await client.send(everything)
        await client.expect(CONNACK)
        await client.expect(9)
        message = await client.received() if broker.name == "embedded" else None
        assert await client.expect(PUBACK) == b"\0\x09"
        assert (message or await client.received()).payload == b"in one go"


async def test_a_repeated_qos_2_publish_is_delivered_once(broker: Target, name: str) -> None:
    async with connected(broker.port, name) as device, connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/x", 2))
        await device.send(publish_packet(f"{name}/x", b"once", qos=2, packet_id=7))
        await device.expect(PUBREC)
        await device.send(publish_packet(f"{name}/x", b"once", qos=2, packet_id=7, dup=True))
        await device.expect(PUBREC)
        await device.send(packet(0x62, b"\0\x07"))
        await device.expect(7)
        assert [message.payload for message in [await reader.received(), *await reader.arrived()]] == [
            b"once"
        ]


async def test_a_qos_2_publish_repeated_after_a_reconnect_is_delivered_once(
    broker: Target, name: str
) -> None:
    async with connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/x", 2))
        async with connected(broker.port, name, clean=False) as device:
            await device.send(publish_packet(f"{name}/x", b"once", qos=2, packet_id=7))
            await device.expect(PUBREC)
            device.drop()
        async with connected(broker.port, name, clean=False) as device:
            await device.send(publish_packet(f"{name}/x", b"once", qos=2, packet_id=7, dup=True))
            await device.expect(PUBREC)
            await device.send(packet(0x62, b"\0\x07"))
            await device.expect(7)
        assert [message.payload for message in [await reader.received(), *await reader.arrived()]] == [
            b"once"
        ]


async def test_bytes_after_disconnect_are_not_acted_upon(embedded: EmbeddedBroker, name: str) -> None:
    port = embedded.port
    async with connected(port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/x", 0))
        async with connected(port, name) as device:
            await device.send(packet(0xE0, b"") + publish_packet(f"{name}/x", b"ghost"))
            await device.expect_end()
        assert await reader.arrived() == []


async def test_silence_before_connect_ends_the_connection() -> None:
    assert Limits().connect_timeout_s == 5.0
    async with (
        EmbeddedBroker(in_process=True, limits=Limits(connect_timeout_s=0.3)) as broker,
        opened(broker.port) as silent,
        opened(broker.port) as halfway,
    ):
        began_s = time.monotonic()
        await halfway.send(connect_packet("x")[:-1])
        for client in (silent, halfway):
            with pytest.raises(Ended):
                await client.next_packet()
        assert 0.25 < time.monotonic() - began_s < 2
