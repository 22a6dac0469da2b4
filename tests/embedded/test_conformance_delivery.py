"""MQTT 3.1.1 on raw sockets, part two: who gets what. Ours, and mosquitto as a second opinion."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import TYPE_CHECKING

import pytest

from heron_mqtt.messaging.embedded import EmbeddedBroker
from support.raw_mqtt import connected, opened, packet, publish_packet, string

if TYPE_CHECKING:
    from support.other_brokers import Target


@pytest.fixture
def name() -> str:
    """A topic level and client identifier that no other test uses: mosquitto serves them all."""
    return "t" + secrets.token_hex(6)


@pytest.mark.parametrize(("sent", "granted"), list(itertools.product([0, 1, 2], repeat=2)))
async def test_delivery_is_at_the_lower_qos_of_publisher_and_subscriber(
    broker: Target, name: str, sent: int, granted: int
) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        assert await reader.subscribe((f"{name}/x", granted)) == [granted]
        await sender.publish(f"{name}/x", b"payload", qos=sent)
        message = await reader.received()
        assert (message.topic, message.payload, message.qos) == (f"{name}/x", b"payload", min(sent, granted))
        assert await reader.arrived() == []


async def test_overlapping_filters_deliver_one_copy_at_the_highest_qos_granted(
    broker: Target, name: str
) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/#", 0), (f"{name}/+", 2), (f"{name}/x", 1))
        await sender.publish(f"{name}/x", b"once", qos=2)
        messages = [await reader.received(), *await reader.arrived()]
        assert [message.payload for message in messages] == [b"once"]
        if broker.name == "embedded":  # mosquitto takes the first filter that matches
            assert messages[0].qos == 2


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_one_publishers_order_is_kept(broker: Target, name: str, qos: int) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/#", 2))

        async def send_all() -> None:
            for number in range(300):
                await sender.publish(f"{name}/{number % 3}", b"%d" % number, qos=qos)

        sending = asyncio.create_task(send_all())
        numbers = [int((await reader.received()).payload) for _ in range(300)]
        await sending
        assert numbers == list(range(300))


async def test_a_retained_message_goes_to_new_subscribers_and_only_then_with_the_retain_flag(
    broker: Target, name: str
) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/x", 1))
        await sender.publish(f"{name}/x", b"first", qos=1, retain=True)
        assert not (await reader.received()).retain
        await sender.publish(f"{name}/x", b"second", qos=1, retain=True)
        assert not (await reader.received()).retain
        async with connected(broker.port, f"{name}-late") as late:
            await late.subscribe((f"{name}/+", 0))
            message = await late.received()
            assert (message.payload, message.retain, message.qos) == (b"second", True, 0)
            assert await late.arrived() == []
            await sender.publish(f"{name}/x", b"", qos=1, retain=True)
            deletion = await late.received()
            assert (deletion.payload, deletion.retain) == (b"", False)
        async with connected(broker.port, f"{name}-later") as later:
            await later.subscribe((f"{name}/#", 1))
            assert await later.arrived() == []


async def test_retained_messages_keep_their_qos_up_to_that_of_the_subscriber(
    broker: Target, name: str
) -> None:
    async with connected(broker.port, name) as client:
        for qos in (0, 1, 2):
            await client.publish(f"{name}/{qos}", b"r", qos=qos, retain=True)
        await client.subscribe((f"{name}/#", 1))
        got = sorted((message.topic, message.qos, message.retain) for message in await client.arrived())
        assert got == [(f"{name}/0", 0, True), (f"{name}/1", 1, True), (f"{name}/2", 1, True)]
        for qos in (0, 1, 2):
            await client.publish(f"{name}/{qos}", b"", retain=True)


async def test_a_reconnect_alone_brings_no_retained_message(broker: Target, name: str) -> None:
    async with connected(broker.port, f"{name}-s") as sender:
        await sender.publish(f"{name}/x", b"kept", qos=1, retain=True)
        async with connected(broker.port, name, clean=False) as reader:
            await reader.subscribe((f"{name}/#", 1))
            assert (await reader.received()).retain
            assert await reader.arrived() == []
            await reader.disconnect()
        async with connected(broker.port, name, clean=False) as reader:
            assert await reader.arrived() == []
            await reader.subscribe((f"{name}/#", 1))  # but subscribing again does: MQTT-3.8.4-3
            assert (await reader.received()).retain
        await sender.publish(f"{name}/x", b"", retain=True)


async def test_a_retained_publish_at_qos_0_replaces_one_at_qos_1(broker: Target, name: str) -> None:
    async with connected(broker.port, name) as client:
        await client.publish(f"{name}/x", b"old", qos=1, retain=True)
        await client.publish(f"{name}/x", b"new", qos=0, retain=True)
        await client.subscribe((f"{name}/x", 2))
        assert [message.payload for message in await client.arrived()] == [b"new"]
        await client.publish(f"{name}/x", b"", retain=True)


async def test_subscribing_again_with_another_qos_takes_effect(broker: Target, name: str) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        for qos in (0, 2, 1):
            assert await reader.subscribe((f"{name}/x", qos)) == [qos]
            await sender.publish(f"{name}/x", b"q", qos=2)
            assert (await reader.received()).qos == qos
            assert await reader.arrived() == []


async def test_unsubscribe_really_removes_and_only_what_it_names(broker: Target, name: str) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/+", 1), (f"{name}/x", 1), (f"{name}/y", 1))
        await reader.unsubscribe(f"{name}/+", f"{name}/x", f"{name}/never-subscribed")
        await sender.publish(f"{name}/x", b"no", qos=1)
        await sender.publish(f"{name}/y", b"yes", qos=1)
        assert [message.payload for message in [await reader.received(), *await reader.arrived()]] == [b"yes"]


async def test_unsubscribe_outlives_a_reconnect(broker: Target, name: str) -> None:
    async with connected(broker.port, name, clean=False) as reader:
        await reader.subscribe((f"{name}/x", 1))
        await reader.unsubscribe(f"{name}/x")
        await reader.disconnect()
    async with connected(broker.port, f"{name}-s") as sender:
        await sender.publish(f"{name}/x", b"no", qos=1)
    async with connected(broker.port, name, clean=False) as reader:
        assert await reader.arrived() == []


MATCHES = [
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("#", "/", True),
    ("sport", "Sport", False),
    ("a//b", "a//b", True),
    ("a/+/b", "a//b", True),
    ("a/b", "a/b/", False),
    ("+/b/#", "a/b", True),
    ("+/b/#", "a/c/b", False),
]


@pytest.mark.parametrize(("topic_filter", "topic", "matches"), MATCHES)
async def test_wildcards_match_as_the_standard_says(
    embedded: EmbeddedBroker, topic_filter: str, topic: str, *, matches: bool
) -> None:
    async with connected(embedded.port) as client:
        await client.publish(topic, b"retained", qos=1, retain=True)
        await client.subscribe((topic_filter, 1))
        await client.publish(topic, b"live", qos=1)
        assert [message.payload for message in await client.arrived()] == [b"retained", b"live"] * matches


@pytest.mark.parametrize(("topic_filter", "topic", "matches"), MATCHES)
async def test_wildcards_match_as_mosquitto_does(
    mosquitto_port: int, topic_filter: str, topic: str, *, matches: bool, name: str
) -> None:
    """The table above, checked by the second broker; below a level of its own, for others publish too."""
    async with connected(mosquitto_port) as client:
        await client.subscribe((f"{name}/{topic_filter}", 1))
        await client.publish(f"{name}/{topic}", b"live", qos=1)
        assert [message.payload for message in await client.arrived()] == [b"live"] * matches


async def test_topics_beginning_with_a_dollar_are_not_matched_by_wildcards_in_front(broker: Target) -> None:
    async with connected(broker.port) as client, connected(broker.port) as other:
        await client.subscribe(("+/broker/version", 1), ("+/#", 0))
        await client.subscribe(("#", 0))
        assert not [message for message in await client.arrived() if message.topic.startswith("$")]
        await other.subscribe(("$SYS/broker/version", 0))
        assert (await other.received()).retain
        await other.subscribe(("$SYS/#", 0))
        assert await other.arrived()


async def test_publishing_below_a_dollar_changes_nothing_and_the_client_goes_on(
    embedded: EmbeddedBroker, name: str
) -> None:
    async with connected(embedded.port, name) as client, connected(embedded.port, f"{name}-r") as reader:
        await reader.subscribe(("$SYS/broker/version", 0), (f"{name}/x", 0))
        version = (await reader.received()).payload
        await client.publish("$SYS/broker/version", b"forged", qos=1, retain=True)
        await client.publish(f"{name}/x", b"still here", qos=1)
        assert [message.payload for message in await reader.arrived()] == [b"still here"]
        await reader.subscribe(("$SYS/broker/version", 0))
        assert (await reader.received()).payload == version


@pytest.mark.parametrize(
    "topic_filter", ["$share/group/a/b", "a/#/b", "a+", "a/b+", "#a", "a/#b", "/".join(["x"] * 201)]
)
async def test_a_filter_that_cannot_be_served_is_refused_at_suback_and_the_others_work(
    embedded: EmbeddedBroker, topic_filter: str
) -> None:
    async with connected(embedded.port) as client:
        assert await client.subscribe(("good/1", 1), (topic_filter, 1), ("good/2", 2)) == [1, 0x80, 2]
        await client.publish("good/2", b"served", qos=1)
        assert (await client.received()).payload == b"served"


async def test_subscribe_and_unsubscribe_churn_loses_nothing(broker: Target, name: str) -> None:
    async with (
        connected(broker.port, name) as sender,
        connected(broker.port, f"{name}-r") as reader,
        connected(broker.port, f"{name}-c") as churner,
    ):
        await reader.subscribe((f"{name}/data/#", 1))
        done = asyncio.Event()

        async def churn() -> None:
            for number in itertools.count():
                if done.is_set():
                    return
                topic_filter = f"{name}/{('data/+', 'other', 'data/#')[number % 3]}"
                await churner.subscribe((topic_filter, number % 3))
                await churner.unsubscribe(topic_filter)

        async def send() -> None:
            for number in range(500):
                await sender.publish(f"{name}/data/{number % 7}", b"%d" % number, qos=1)

        async with asyncio.TaskGroup() as group:
            group.create_task(churn())
            group.create_task(send())
            numbers = [int((await reader.received()).payload) for _ in range(500)]
            done.set()
        assert numbers == list(range(500))


async def test_large_and_empty_payloads_pass_unchanged(broker: Target, name: str) -> None:
    async with connected(broker.port, name) as sender, connected(broker.port, f"{name}-r") as reader:
        await reader.subscribe((f"{name}/#", 1))
        for size in (0, 1, 127, 128, 16_383, 16_384, 1_000_000):
            payload = secrets.token_bytes(size)
            await sender.publish(f"{name}/x", payload, qos=1)
            assert (await reader.received()).payload == payload


async def test_topics_are_any_utf8(broker: Target, name: str) -> None:
    topic = f"{name}/Wärme/电池/🔋/ spaced "
    async with connected(broker.port, name) as client:
        await client.subscribe((f"{name}/+/电池/#", 0))
        await client.publish(topic, b"ok", qos=1)
        assert (await client.received()).topic == topic


MALFORMED = {
    "an empty topic": publish_packet("", b"x"),
    "a wildcard in a topic": publish_packet("bad/+", b"x"),
    "a topic that is not UTF-8": publish_packet(b"a/\xff", b"x"),
    "a topic with U+0000": publish_packet("a/\0", b"x"),
    "a surrogate in a topic": publish_packet(b"a/\xed\xa0\x80", b"x"),
    "a topic longer than the packet": packet(0x30, b"\0\x09abc"),
    "PUBLISH without a topic": packet(0x30, b"\0"),
    "packet identifier 0": publish_packet("a", b"x", qos=1, packet_id=0),
    "QoS 3": packet(0x36, string("a") + b"\0\1x"),
    "SUBSCRIBE with QoS 3": packet(0x82, b"\0\1" + string("a") + b"\3"),
    "SUBSCRIBE with wrong flags": packet(0x80, b"\0\1" + string("a") + b"\1"),
    "SUBSCRIBE to nothing": packet(0x82, b"\0\1"),
    "UNSUBSCRIBE from nothing": packet(0xA2, b"\0\1"),
    "PUBACK of three bytes": packet(0x40, b"\0\1\2"),
    "a length of five bytes": b"\x30\xff\xff\xff\xff\x01",
    "packet type 0": packet(0x00, b""),
    "packet type 15": packet(0xF0, b""),
    "a packet only brokers send": packet(0xD0, b""),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_packet_ends_its_connection_and_nothing_else(
    embedded: EmbeddedBroker, what: str
) -> None:
    async with (
        connected(embedded.port, "bystander") as bystander,
        connected(embedded.port, "culprit") as culprit,
    ):
        await bystander.subscribe(("#", 1))
        await culprit.send(MALFORMED[what] + publish_packet("after/wards", b"must not be seen"))
        await culprit.expect_end()
        await bystander.publish("still/here", b"fine", qos=1)
        assert [message.topic for message in await bystander.arrived()] == ["still/here"]
        assert embedded.stats.malformed == 1


@pytest.mark.parametrize(
    "what", ["an empty topic", "a wildcard in a topic", "QoS 3", "a length of five bytes", "packet type 15"]
)
async def test_mosquitto_ends_the_connection_too(mosquitto_port: int, what: str) -> None:
    async with connected(mosquitto_port) as culprit:
        await culprit.send(MALFORMED[what])
        await culprit.expect_end()


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        publish_packet("a", b"before CONNECT"),
        packet(0x10, string("MQTX") + b"\4\2\0\0" + string("x")),
        packet(0x10, string("MQTT") + b"\4\3\0\0" + string("x")),  # the reserved flag: MQTT-3.1.2-3
        packet(0x10, string("MQTT") + b"\4\x42\0\0" + string("x") + string("password without user")),
        packet(0x10, string("MQTT") + b"\4\x1e\0\0" + string("x") + string("t") + string("will at QoS 3")),
        packet(0x10, string("MQTT") + b"\4\x0a\0\0" + string("x")),  # a will's QoS without a will
        packet(0x10, string("MQTT") + b"\4\2\0\0" + string("x") + b"more"),
        packet(0x10, string("MQTT") + b"\4\2\0\0" + string(b"\xff")),
    ],
    ids=["http", "publish", "name", "reserved", "password", "will-qos-3", "will-flags", "too-long", "utf8"],
)
async def test_what_is_no_valid_connect_gets_no_answer(embedded: EmbeddedBroker, first: bytes) -> None:
    async with opened(embedded.port) as client:
        await client.send(first)
        assert await client.reader.read(100) == b""
