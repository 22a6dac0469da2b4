"""An acknowledgement that nobody waits for wakes nobody; nothing else comes later for it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker, ack_holding, connection
from heron_mqtt.messaging.mqtt.connection import Connection
from support.raw_mqtt import packet, read_packet, string
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="low-water marks are Linux's")

NEVER_S = 60.0


class Served:
    """A broker for one client: acknowledges everything, and sends what a test says."""

    def __init__(self, connack: bytes) -> None:
        self.connack = connack
        self.got: list[int] = []
        self.writer: asyncio.StreamWriter | None = None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                first, body = await read_packet(reader)
                self.got.append(first & 0xF0)
                if first & 0xF0 == 0x30:
                    at = 2 + int.from_bytes(body[:2], "big")
                    writer.write(packet(0x40, body[at : at + 2]))
                else:
                    subscribed = packet(0x90, body[:2] + b"\1")
                    writer.write({0x10: self.connack, 0x82: subscribed, 0xC0: b"\xd0\0"}.get(first, b""))
        writer.close()

    def send(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)


@contextlib.asynccontextmanager
async def served(connack: bytes = b"\x20\x02\0\0") -> AsyncIterator[Served]:
    made = Served(connack)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made
        if made.writer is not None:
            made.writer.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each time that a connection was read."""
    found: list[float] = []
    read = Connection._on_readable

    def counted(self: Connection) -> None:
        found.append(asyncio.get_running_loop().time())
        read(self)

    monkeypatch.setattr(Connection, "_on_readable", counted)
    return found


@pytest.fixture(autouse=True)
def _unread_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_ACKS_S", NEVER_S)


def message(n: int) -> dict[str, Any]:
    return {"type": "probe", "n": n}


def arriving(n: int, packet_id: int = 0) -> bytes:
    middle = packet_id.to_bytes(2, "big") if packet_id else b""
    first = 0x32 if packet_id else 0x30
    return packet(first, string("heron/default/probe") + middle + b'{"type": "probe", "n": %d}' % n)


async def test_one_that_comes_alone_is_read_with_the_next_message(reads: list[float]) -> None:
    heard: asyncio.Queue[Received] = asyncio.Queue()
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.subscribe("probe", heard.put_nowait)
        before = len(reads)
        sent = broker.publish("other", message(1))
        await until(lambda: server.got[-1] == 0x30)
        await asyncio.sleep(0.05)  # it has come by now
        assert (len(reads), sent.done()) == (before, False)
        server.send(arriving(2))
        async with asyncio.timeout(2.0):
            assert (await heard.get())["n"] == 2
        assert sent.done()


async def test_one_that_comes_alone_is_read_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_ACKS_S", 0.05)
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.publish("other", message(1))
        sent = broker.publish("other", message(2))
        await until(sent.done)


async def test_one_that_somebody_waits_for_is_read_at_once() -> None:
    async with served() as server, MqttBroker(server.url) as broker, asyncio.timeout(5.0):
        for n in range(3):
            await broker.publish("other", message(n))
            broker.publish("other", message(n))
        late = broker.publish("other", message(4))
        await asyncio.sleep(0.01)  # it has come before anybody waits
        await late


async def test_the_last_bytes_of_a_message_are_read_when_they_come(reads: list[float]) -> None:
    heard: asyncio.Queue[Received] = asyncio.Queue()
    async with served() as server, MqttBroker(server.url) as broker, asyncio.timeout(5.0):
        await broker.subscribe("probe", heard.put_nowait)
        before, whole = len(reads), arriving(3)
        server.send(whole[:-2])
        await until(lambda: len(reads) > before)
        server.send(whole[-2:])
        assert (await heard.get())["n"] == 3


async def test_a_window_of_one_message_does_not_wait() -> None:
    one_at_a_time = packet(0x20, b"\0\0" + b"\3\x21\0\1")
    async with served(one_at_a_time) as server, MqttBroker(server.url, protocol="5") as broker:
        for n in range(5):
            broker.publish("other", message(n))
        await until(lambda: server.got.count(0x30) == 5, within_s=5.0)


async def test_the_end_of_the_connection_is_noticed_at_once(reads: list[float]) -> None:
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.publish("other", message(1))
        before = len(reads)
        assert server.writer is not None
        server.writer.close()
        await until(lambda: len(reads) > before)


# -- acknowledgements of ours --------------------------------------------------------------------------


async def test_ours_goes_with_what_is_said_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_holding, "MAX_HOLD_S", NEVER_S)
    heard: asyncio.Queue[Received] = asyncio.Queue()
    async with served() as server, MqttBroker(server.url) as broker, asyncio.timeout(5.0):
        await broker.subscribe("probe", heard.put_nowait)
        before = len(server.got)
        server.send(arriving(1, packet_id=7))
        await heard.get()
        await asyncio.sleep(0.02)
        assert len(server.got) == before, "it waits"
        broker.publish("other", message(2))
        await until(lambda: len(server.got) == before + 2)
        assert server.got[before:] == [0x40, 0x30], "in the order of what happened"


async def test_ours_goes_alone_after_a_while() -> None:
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.subscribe("probe", lambda _: None)
        server.send(arriving(1, packet_id=7))
        await until(lambda: server.got[-1] == 0x40, within_s=5.0)


async def test_many_of_ours_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_holding, "MAX_HOLD_S", NEVER_S)
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.subscribe("probe", lambda _: None)
        for n in range(1, ack_holding.MAX_HELD + 1):
            server.send(arriving(n, packet_id=n))
        await until(lambda: server.got.count(0x40) == ack_holding.MAX_HELD, within_s=5.0)


async def test_ours_goes_before_the_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_holding, "MAX_HOLD_S", NEVER_S)
    heard: asyncio.Queue[Received] = asyncio.Queue()
    async with served() as server:
        async with MqttBroker(server.url) as broker:
            await broker.subscribe("probe", heard.put_nowait)
            server.send(arriving(1, packet_id=7))
            await heard.get()
        await until(lambda: server.got[-1] == 0xE0, within_s=5.0)
        assert server.got[-2] == 0x40


@pytest.mark.slow
async def test_answers_to_pings_are_read(reads: list[float]) -> None:
    async with served() as server, MqttBroker(server.url, keepalive_s=1) as broker:
        await until(lambda: server.got.count(0xC0) == 3, within_s=10.0)
        assert broker.stats.reconnects == 0
    assert reads
