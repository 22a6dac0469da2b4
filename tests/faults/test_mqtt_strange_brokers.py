"""Brokers that are hard to live with, within their rights or not: each is served, or named in one line."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from heron_mqtt.errors import BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker, send_queue, subscriber
from heron_mqtt.messaging.mqtt.connection import Connection
from heron_mqtt.messaging.mqtt.read_pacing import ReadPacing
from support.raw_mqtt import read_packet
from support.waiting import until

CONNACK_4, CONNACK_5 = b"\x20\x02\0\0", b"\x20\x03\0\0\0"
Packet = tuple[int, bytes]


def packet(first: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes([first]) + bytes(encoded) + body


def publish(
    topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, properties: bytes = b""
) -> bytes:
    name = topic.encode()
    middle = packet_id.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1, len(name).to_bytes(2, "big") + name + middle + properties + payload)


@dataclass
class Strange:
    """A broker made of a function: it is given each packet, and returns what to answer; None = hang up."""

    answer: Callable[[int, bytes], bytes | None]
    connack: bytes = CONNACK_4
    connections: int = 0
    got: list[Packet] = field(default_factory=list)
    url: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                first, body = await read_packet(reader)
                self.got.append((first, body))
                reply = self.connack if first == 0x10 else self.answer(first, body)
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        writer.close()

    def ids(self, kind: int) -> list[int]:
        return [int.from_bytes(body[:2], "big") for first, body in self.got if first & 0xF0 == kind]


@contextlib.asynccontextmanager
async def strange(
    answer: Callable[[int, bytes], bytes | None], connack: bytes = CONNACK_4
) -> AsyncIterator[Strange]:
    made = Strange(answer, connack)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.close()


def filters_of(body: bytes, *, five: bool = False) -> list[str]:
    at, found = 3 if five else 2, []
    while at < len(body):
        length = int.from_bytes(body[at : at + 2], "big")
        found.append(body[at + 2 : at + 2 + length].decode())
        at += 3 + length
    return found


def obliging(first: int, body: bytes) -> bytes:
    """Answer as a good broker does, without delivering anything."""
    if first == 0x82:
        return packet(0x90, body[:2] + b"\1" * len(filters_of(body)))
    if first & 0xF6 == 0x32:
        at = 2 + int.from_bytes(body[:2], "big")
        return packet(0x40, body[at : at + 2])
    return b"\xd0\0" if first == 0xC0 else packet(0xB0, body[:2]) if first == 0xA2 else b""


def broker_of(server: Strange, **options: Any) -> MqttBroker:
    return MqttBroker(server.url, rng=random.Random(1), **options)


async def awaited(something: Awaitable[Any]) -> None:
    await something


# -- SUBSCRIBE ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 8])
async def test_a_broker_that_takes_few_filters_a_packet_gets_few(most: int) -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        return None if first == 0x82 and len(filters_of(body)) > most else obliging(first, body)

    async with strange(answer) as server, broker_of(server) as broker:
        subscriptions = [broker.subscribe(f"c{i}", lambda _: None) for i in range(30)]
        await asyncio.wait_for(asyncio.gather(*map(awaited, subscriptions)), 10)
        assert broker.connected


async def test_a_broker_that_takes_small_packets_gets_small_ones() -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        return None if len(body) > 100 else obliging(first, body)

    async with strange(answer) as server, broker_of(server) as broker:
        subscriptions = [broker.subscribe(f"c{i}", lambda _: None) for i in range(30)]
        await asyncio.wait_for(asyncio.gather(*map(awaited, subscriptions)), 10)


async def test_a_filter_that_ends_every_connection_is_named_and_the_others_work() -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        return None if first == 0x82 and any("bad" in f for f in filters_of(body)) else obliging(first, body)

    async with strange(answer) as server, broker_of(server) as broker:
        good = [broker.subscribe(f"c{i}", lambda _: None) for i in range(5)]
        bad = broker.subscribe("bad", lambda _: None)
        good += [broker.subscribe(f"d{i}", lambda _: None) for i in range(5)]
        with pytest.raises(BrokerRefused, match="'heron/default/bad': 3 times it ended the connection"):
            await asyncio.wait_for(awaited(bad), 20)
        await asyncio.wait_for(asyncio.gather(*map(awaited, good)), 5)
        assert broker.connected
        connections = server.connections
        for writer in server.writers:
            writer.close()
        await until(lambda: server.connections == connections + 1, "reconnecting")
        await broker.publish("c", {})
        assert server.connections == connections + 1, "the bad filter was not asked for again"


async def test_a_subscription_that_is_never_answered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriber, "ANSWER_S", 0.2)
    monkeypatch.setattr(subscriber.Subscriber.__init__, "__defaults__", (0.2,))

    def answer(first: int, body: bytes) -> bytes | None:
        return b"" if first == 0x82 and "bad" in "".join(filters_of(body)) else obliging(first, body)

    async with strange(answer) as server, broker_of(server) as broker:
        good = broker.subscribe("c", lambda _: None)
        bad = broker.subscribe("bad", lambda _: None)
        with pytest.raises(BrokerRefused, match=r"'heron/default/bad'.*did not answer within 0.2 s"):
            await asyncio.wait_for(awaited(bad), 10)
        await asyncio.wait_for(awaited(good), 5)
        assert server.connections <= 4


async def test_a_refusal_of_the_moment_is_asked_again() -> None:
    times = []

    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x82:
            times.append(first)
            if len(times) < 3:
                return packet(0x90, body[:2] + b"\x80")
        return obliging(first, body)

    async with strange(answer) as server, broker_of(server) as broker:
        await asyncio.wait_for(awaited(broker.subscribe("c", lambda _: None)), 5)
        assert len(times) == 3
        assert server.connections == 1


async def test_a_refusal_for_good_names_filter_reason_and_user() -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        return packet(0x90, body[:2] + b"\x80") if first == 0x82 else obliging(first, body)

    async with strange(answer) as server, broker_of(server, username="ann") as broker:
        with pytest.raises(
            BrokerRefused, match=r"'heron/default/c' \(.+\): check the access rights of user 'ann'"
        ):
            await asyncio.wait_for(awaited(broker.subscribe("c", lambda _: None)), 5)


async def test_mqtt_5_says_when_it_is_about_rights_and_is_not_asked_again() -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        return packet(0x90, body[:2] + b"\0\x87") if first == 0x82 else obliging(first, body)

    async with strange(answer, CONNACK_5) as server, broker_of(server, protocol="5") as broker:
        with pytest.raises(BrokerRefused, match="Not authorized"):
            await asyncio.wait_for(awaited(broker.subscribe("c", lambda _: None)), 5)
        assert len(server.ids(0x80)) == 1


# -- what comes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_beyond_our_limit_is_counted_acknowledged_and_locks_nobody_out(qos: int) -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x82:
            huge = publish("heron/default/c", b"x" * 3_000_000, qos=qos, packet_id=7)
            return obliging(first, body) + huge + publish("heron/default/c", b'{"i": 1}')
        if first == 0x50:
            return b"\x62\x02" + body[:2]
        return obliging(first, body)

    got: list[Received] = []
    async with strange(answer) as server, broker_of(server) as broker:
        await asyncio.wait_for(awaited(broker.subscribe("c", got.append)), 5)
        await until(lambda: got)
        assert got == [{"i": 1}]
        assert broker.stats.rejected == 1
        (report,) = broker.stats.reports
        assert report.where == "heron/default/c"
        assert "over the limit of 1048576" in report.what
        await until(lambda: not qos or server.ids(0x40 if qos == 1 else 0x70) == [7], "the acknowledgement")
        assert server.connections == 1


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a message that came alone, the next is read an hour later."""
    monkeypatch.setattr(ReadPacing, "pause_s", lambda _, packets, **__: 3_600.0 if packets == 1 else 0.0)


def telling(first: int, body: bytes) -> bytes | None:
    """Answer as a good broker does, and tell of every message that it was sent."""
    told = publish("heron/default/c", b'{"i": 1}', qos=1, packet_id=7) if first & 0xF6 == 0x32 else b""
    return obliging(first, body) + told


@pytest.mark.usefixtures("long_pauses")
async def test_what_is_sent_ends_a_pause_between_two_reads() -> None:
    got: list[Received] = []
    async with strange(telling) as server:
        broker = broker_of(server)
        async with asyncio.timeout(10):
            await broker.connect()  # a single packet was read
            await broker.subscribe("c", got.append)
            await broker.publish("d", {})
            await until(lambda: got, "the message")
            await until(lambda: server.ids(0x40) == [7], "the acknowledgement")
            await broker.close()


@pytest.mark.usefixtures("long_pauses")
async def test_what_has_no_answer_does_not_end_it() -> None:
    async with strange(obliging) as server:
        broker = broker_of(server)
        async with asyncio.timeout(10):
            await broker.connect()
            connection = broker._session._connection
            assert isinstance(connection, Connection)
            await broker.publish("d", {}, qos=0)
            assert connection._pause is not None
            await broker.publish("d", {})
            await broker.close()


async def test_what_a_read_has_left_is_read_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    drained: list[bool] = []

    def pause_s(_: ReadPacing, _packets: int, *, is_drained: bool) -> float:
        drained.append(is_drained)
        return 0.01 if is_drained else 0.0

    def telling_much(first: int, body: bytes) -> bytes | None:
        return obliging(first, body) + (much if first & 0xF0 == 0x80 else b"")

    monkeypatch.setattr(ReadPacing, "pause_s", pause_s)
    much = 200 * publish("heron/default/c", b'{"i": "%s"}' % bytes(1_000).replace(b"\0", b"x"), qos=0)
    got: list[Received] = []
    async with strange(telling_much) as server, broker_of(server) as broker:
        await asyncio.wait_for(awaited(broker.subscribe("c", got.append)), 5)
        await until(lambda: len(got) == 200, "all of them")
    assert {True, False} == set(drained)


@pytest.mark.usefixtures("long_pauses")
async def test_a_connection_can_be_closed_within_a_pause_between_two_reads() -> None:
    async with strange(obliging) as server:
        broker = broker_of(server)
        async with asyncio.timeout(10):
            await broker.connect()
            await broker.close()
        await until(lambda: server.got[-1][0] == 0xE0, "the goodbye")


async def test_a_connection_that_ends_within_a_pause_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadPacing, "pause_s", lambda *_, **__: 0.01)
    got: list[Received] = []
    async with strange(telling) as server, broker_of(server) as broker:
        await asyncio.wait_for(awaited(broker.subscribe("c", got.append)), 5)
        server.writers[0].close()
        await until(lambda: broker.stats.reconnects == 1 and broker.connected, "another connection")
        await asyncio.wait_for(awaited(broker.publish("d", {})), 5)
        await until(lambda: got, "the message")


async def test_a_message_of_qos_2_is_delivered_once() -> None:
    message = publish("heron/default/c", b'{"i": 1}', qos=2, packet_id=7)

    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x82:
            return obliging(first, body) + message + message.replace(b"\x34", b"\x3c", 1)
        if first == 0x50:
            return b"\x62\x02" + body[:2]
        return obliging(first, body)

    got: list[Received] = []
    async with strange(answer) as server, broker_of(server) as broker:
        await asyncio.wait_for(awaited(broker.subscribe("c", got.append)), 5)
        await until(lambda: server.ids(0x70), "PUBCOMP")
        await asyncio.sleep(0.05)
        assert got == [{"i": 1}]


async def test_topic_aliases_that_nobody_asked_for_are_understood() -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        if first != 0x82:
            return obliging(first, body)
        suback = packet(0x90, body[:2] + b"\0\1")
        alias, both = b"\x03\x23\0\5", b"\x0a\x03\0\4text\x23\0\5"
        return (
            suback
            + publish("heron/default/c", b'{"i": 1}', properties=both)
            + publish("", b'{"i": 2}', properties=alias)
            + publish("", b'{"i": 3}', qos=1, packet_id=3, properties=alias)
        )

    got: list[Received] = []
    async with strange(answer, CONNACK_5) as server, broker_of(server, protocol="5") as broker:
        await asyncio.wait_for(awaited(broker.subscribe("c", got.append)), 5)
        await until(lambda: len(got) == 3)
        assert [m["i"] for m in got] == [1, 2, 3]
        assert {m.channel for m in got} == {"c"}


# -- what goes ---------------------------------------------------------------------------------------------


async def test_limits_that_an_mqtt_5_broker_names_are_kept() -> None:
    # Server Keep Alive 1 s, Maximum Packet Size 200, Retain Available 0
    connack = packet(0x20, b"\0\0" + bytes([10]) + b"\x13\0\1" + b"\x27\0\0\0\xc8" + b"\x25\0")

    def answer(first: int, body: bytes) -> bytes | None:
        return obliging(first, body) if len(body) <= 198 else None

    async with strange(answer, connack) as server, broker_of(server, protocol="5", keepalive_s=60) as broker:
        with pytest.raises(BrokerRefused, match=r"'heron/default/c' was not sent: \d+ bytes .* limit of 200"):
            await broker.publish("c", {"text": "x" * 300})
        with pytest.raises(BrokerRefused, match="keeps no retained messages"):
            await broker.publish("c", {"i": 1}, retain=True)
        await asyncio.wait_for(awaited(broker.publish("c", {"i": 1})), 5)
        await until(lambda: any(first == 0xC0 for first, _ in server.got), "a ping within the second", 3.0)
        assert server.connections == 1


async def test_packet_ids_on_their_way_are_not_given_twice() -> None:
    withheld: list[int] = []

    def answer(first: int, body: bytes) -> bytes | None:
        reply = obliging(first, body)
        if first == 0x32 and not withheld:  # this one is never acknowledged
            withheld.append(int.from_bytes(reply[2:], "big"))
            return b""
        return reply

    async with strange(answer) as server, broker_of(server) as broker:
        lasting = broker.publish("c", {"i": -1})
        client = broker._session._connection._client  # type: ignore[union-attr]
        assert client is not None
        await until(lambda: bool(withheld))
        client._last_mid = 65_500
        for i in range(100):
            await broker.publish("c", {"i": i})
        assert not lasting.done()
        ids = server.ids(0x30) and [
            int.from_bytes(b[2 + int.from_bytes(b[:2], "big") :][:2], "big")
            for f, b in server.got
            if f == 0x32
        ]
        assert len(ids) == 101
        assert ids.count(withheld[0]) == 1


async def test_a_message_that_is_never_acknowledged_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_queue.SendQueue.__init__, "__defaults__", (0.2,))

    def answer(first: int, body: bytes) -> bytes | None:
        return b"" if b"/bad" in body else obliging(first, body)

    async with strange(answer) as server, broker_of(server) as broker:
        bad = broker.publish("bad", {"i": 1})
        for i in range(10):
            await asyncio.wait_for(awaited(broker.publish("good", {"i": i})), 5)
        with pytest.raises(
            BrokerRefused, match=r"does not acknowledge 7 bytes on 'heron/default/bad' within 0.2 s"
        ):
            await asyncio.wait_for(awaited(bad), 10)
        await asyncio.wait_for(awaited(broker.publish("good", {"i": 1})), 5)
        assert server.connections <= 4


async def test_messages_of_qos_0_are_bounded_while_the_broker_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(send_queue, "MAX_PENDING_BYTES", 1 << 20)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(CONNACK_4)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1 << 10)
    broker = MqttBroker(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await broker.connect()
    for i in range(400):
        broker.publish("c", {"text": "x" * 100_000}, qos=0)
        if i % 10 == 0:
            await asyncio.sleep(0.001)
    queue = broker._session._send_queue
    assert queue._pending_bytes <= 1 << 20
    assert broker.stats.overflowed > 100
    server.close()
    await broker.__aexit__(ValueError, None, None)


# -- the first connection ----------------------------------------------------------------------------------


async def test_the_first_connection_waits_for_a_broker_that_restarts() -> None:
    made = Strange(obliging)
    holder = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    holder.close()
    await holder.wait_closed()
    broker = MqttBroker(f"mqtt://127.0.0.1:{port}", patience_s=10.0, rng=random.Random(1))
    connecting = asyncio.create_task(broker.connect())
    await asyncio.sleep(0.3)
    assert not connecting.done()
    server = await asyncio.start_server(made.serve, "127.0.0.1", port)
    await asyncio.wait_for(connecting, 5)
    assert broker.connected
    await broker.close()
    server.close()


async def test_its_patience_ends() -> None:
    with pytest.raises(BrokerUnavailable, match="no answer"):
        await asyncio.wait_for(MqttBroker("mqtt://127.0.0.1:1", patience_s=0.3).connect(), 3)


async def test_an_announcement_that_meets_a_restarting_broker_is_made_in_the_end() -> None:
    hung_up = []

    def answer(first: int, body: bytes) -> bytes | None:
        return obliging(first, body)

    made = Strange(answer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if made.connections == 1 and len(hung_up) < 2:  # the announcement's own connection
            hung_up.append(True)
            writer.close()
            return
        await made.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with broker_of(made) as broker:
        announcement = await asyncio.wait_for(
            broker.announce("s", {"state": "online"}, {"state": "offline"}), 10
        )
        assert len(hung_up) == 2
        await announcement.withdraw()
    server.close()


# -- texts -------------------------------------------------------------------------------------------------


async def test_a_port_that_hangs_up_at_once_is_explained() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(BrokerUnavailable, match=r"may expect TLS .*use mqtts://.*refuse further connections"):
        await MqttBroker(f"mqtt://127.0.0.1:{port}").connect()
    server.close()


# -- what MQTT 5 says beside it ----------------------------------------------------------------------------


def _reason(text: str) -> bytes:
    said = text.encode()
    properties = b"\x1f" + len(said).to_bytes(2, "big") + said
    return bytes([len(properties)]) + properties


async def test_a_broker_s_own_words_stand_behind_its_refusals() -> None:
    words = "over the quota of\r\n5 messages\x1b[31m"

    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x82:
            return packet(0x90, body[:2] + _reason("not below secret") + b"\x87")
        if first & 0xF6 == 0x32:
            at = 2 + int.from_bytes(body[:2], "big")
            return packet(0x40, body[at : at + 2] + b"\x97" + _reason(words))
        if first & 0xF6 == 0x34:
            at = 2 + int.from_bytes(body[:2], "big")
            return packet(0x50, body[at : at + 2] + b"\x97" + _reason("once too often"))
        return obliging(first, body)

    async with strange(answer, CONNACK_5) as server, broker_of(server, protocol="5") as broker:
        with pytest.raises(BrokerRefused, match=r"Quota exceeded: over the quota of  5 messages \[31m$"):
            await broker.publish("c", {"i": 1})
        with pytest.raises(BrokerRefused, match="Quota exceeded: once too often"):
            await broker.publish("c", {"i": 1}, qos=2)
        with pytest.raises(
            BrokerRefused, match=r"\(Not authorized: not below secret\): check the access rights"
        ):
            await broker.subscribe("secret", lambda _: None)
        server.writers[-1].write(packet(0xE0, b"\x8b" + _reason("maintenance until noon")))
        await until(lambda: broker.stats.reconnects == 1)
        assert any("Server shutting down: maintenance until noon" in r.what for r in broker.stats.reports)


async def test_a_broker_s_own_words_stand_behind_a_refused_connection() -> None:
    connack = packet(0x20, b"\0\x87" + _reason("ask the yard office"))
    async with strange(obliging, connack) as server:
        with pytest.raises(
            BrokerRefused, match=r"does not authorize .*\(the broker says: ask the yard office\)$"
        ):
            await MqttBroker(server.url, protocol="5").connect()


async def test_metadata_that_does_not_fit_is_left_to_the_payload() -> None:
    connack = packet(0x20, b"\0\0" + bytes([5]) + b"\x27\0\0\0\x8c")  # at most 140 bytes
    message = {"sender": "MG1/ess", "boot": "b", "seq": 1, "text": "x" * 50}
    async with strange(obliging, connack) as server, broker_of(server, protocol="5") as broker:
        await broker.publish("c", {**message, "sender": "MG1"})
        await broker.publish("c", {**message, "text": "x"})
        bodies = [body for first, body in server.got if first == 0x32]
    assert len(bodies) == 2
    assert b"\x26\0\6sender" not in bodies[0]
    assert b"\x26\0\6sender\0\7MG1/ess" in bodies[1]
