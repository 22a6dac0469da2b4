"""Acknowledgements of ours go with what is said next, or alone after a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from paho.mqtt.client import CallbackAPIVersion

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker, ack_holding
from heron_mqtt.messaging.mqtt.paho_client import Client
from support.raw_mqtt import packet, read_packet, string
from support.waiting import until

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


def message(n: int) -> dict[str, Any]:
    return {"type": "probe", "n": n}


def arriving(n: int, packet_id: int = 0) -> bytes:
    middle = packet_id.to_bytes(2, "big") if packet_id else b""
    first = 0x32 if packet_id else 0x30
    return packet(first, string("heron/default/probe") + middle + b'{"type": "probe", "n": %d}' % n)


async def test_one_goes_with_what_is_said_next(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_one_goes_alone_after_a_while() -> None:
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.subscribe("probe", lambda _: None)
        server.send(arriving(1, packet_id=7))
        await until(lambda: server.got[-1] == 0x40, within_s=5.0)


async def test_many_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_holding, "MAX_HOLD_S", NEVER_S)
    async with served() as server, MqttBroker(server.url) as broker:
        await broker.subscribe("probe", lambda _: None)
        for n in range(1, ack_holding.MAX_HELD + 1):
            server.send(arriving(n, packet_id=n))
        await until(lambda: server.got.count(0x40) == ack_holding.MAX_HELD, within_s=5.0)


async def test_one_goes_before_the_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ack_holding, "MAX_HOLD_S", NEVER_S)
    heard: asyncio.Queue[Received] = asyncio.Queue()
    async with served() as server:
        async with MqttBroker(server.url) as broker:
            await broker.subscribe("probe", heard.put_nowait)
            server.send(arriving(1, packet_id=7))
            await heard.get()
        await until(lambda: server.got[-1] == 0xE0, within_s=5.0)
        assert server.got[-2] == 0x40


def test_acknowledgements_of_one_read_are_written_together_and_in_its_order() -> None:
    client, written, owed = Client(CallbackAPIVersion.VERSION2), [], []
    client.five, client.stream = False, SimpleNamespace(send=written.append)  # type: ignore[assignment]
    client.received, client.acknowledges = lambda _: None, owed.append
    for packet_id in (7, 5, 9):
        body = string("probe") + packet_id.to_bytes(2, "big") + b"{}"
        client.take(0x32, body)
    assert not written, "a message is acknowledged when it was handed on, and what it woke may speak first"
    client.acknowledge_taken()
    client.acknowledge_taken()  # nothing is acknowledged twice
    assert written == [b"\x40\x02\0\7\x40\x02\0\5\x40\x02\0\x09"]
    assert owed == [3]


async def test_what_was_taken_is_acknowledged_though_the_connection_ends_within_the_read() -> None:
    async with served() as server, asyncio.timeout(5.0):
        broker = MqttBroker(server.url)
        await broker.connect()

        def leave(message: Received) -> None:
            if message["n"] == 2:
                connection = broker._session._connection
                assert connection is not None
                connection.disconnect()

        await broker.subscribe("probe", leave)
        server.send(arriving(1, packet_id=7) + arriving(2, packet_id=8))
        await until(lambda: 0xE0 in server.got, "goodbye")
        await broker.close()
        assert 0x40 in server.got[: server.got.index(0xE0)], "the first message, before the goodbye"
