"""Random, truncated and mutated packet streams: a connection may end, nothing else may happen."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from heron_mqtt.messaging.embedded import BrokerOptions, EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.server.server import BrokerServer
from support.raw_mqtt import (
    Will,
    connect_packet,
    connected,
    opened,
    packet,
    publish_packet,
    string,
    subscribe_packet,
)

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.server.connection import ClientConnection

STREAMS = 10_000


def stream(rng: random.Random) -> bytes:
    """Return what a confused, old or hostile client might send."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(1, 400))
    parts = []
    if kind < 0.95:
        will = Will("fuzz/will", b"w", rng.randrange(3), rng.random() < 0.3) if rng.random() < 0.3 else None
        parts.append(connect_packet(rng.choice(["", "f1", "f2"]), clean=rng.random() < 0.7, will=will))
    parts += [rng.choice(PARTS)(rng) for _ in range(rng.randrange(8))]
    data = bytearray(b"".join(parts))
    if kind > 0.3 and data:
        for _ in range(rng.randrange(1, 6)):
            mutate(data, rng)
    return bytes(data)


def mutate(data: bytearray, rng: random.Random) -> None:
    """Flip, cut, repeat, insert or remove."""
    if not data:
        return
    at = rng.randrange(len(data))
    match rng.randrange(6):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + rng.randrange(1, 10)]
        case 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 10))
        case 5:
            data[at:at] = data[at : at + rng.randrange(1, 40)]


def _topic(rng: random.Random) -> str:
    return "/".join(rng.choice(["fuzz", "a", "+", "#", "", "$SYS", "ü"]) for _ in range(rng.randrange(1, 5)))


PARTS = [
    lambda rng: publish_packet(
        "fuzz/" + rng.choice("abc"),
        rng.randbytes(rng.randrange(200)),
        qos=rng.randrange(3),
        retain=rng.random() < 0.2,
        packet_id=rng.randrange(1, 5),
    ),
    lambda rng: publish_packet(_topic(rng), b"x", qos=rng.randrange(4), packet_id=rng.randrange(3)),
    lambda rng: subscribe_packet(
        rng.randrange(3), *((_topic(rng), rng.randrange(4)) for _ in range(rng.randrange(4)))
    ),
    lambda rng: packet(0xA2, b"\0\1" + string(_topic(rng))),
    lambda rng: packet(rng.choice([0x40, 0x50, 0x62, 0x70]), rng.randrange(6).to_bytes(2, "big")),
    lambda rng: packet(0xC0, b""),
    lambda rng: packet(0xE0, b""),
    lambda rng: packet(rng.randrange(256), rng.randbytes(rng.randrange(20))),
]


class FakeLink:
    """A link that takes everything and remembers only whether it is closed."""

    peer = "127.0.0.1:1"
    paused = False

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        pass

    def unsent(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def certificate(self) -> None:
        return None


@pytest.mark.parametrize("count", [2_000, pytest.param(STREAMS, marks=pytest.mark.slow)])
async def test_thousands_of_streams_end_at_most_their_own_connection(count: int) -> None:
    """Straight into the connection, in pieces of any size; any exception fails the test."""
    rng = random.Random(20_260_101)
    limits = Limits(max_packet_bytes=5_000, max_log_lines_per_s=1, sys_interval_s=0)
    broker = BrokerServer(BrokerOptions(limits=limits))
    await broker.open()
    malformed = ended = 0
    try:
        for number in range(count):
            link = FakeLink()
            connection: ClientConnection | None = broker._accept_transport(link)
            assert connection is not None
            data, pos = stream(rng), 0
            while pos < len(data) and not connection.ended:
                size = rng.choice([1, 2, 7, 50, 10_000])
                connection.feed(data[pos : pos + size])
                pos += size
            assert connection.ended == link.closed
            ended += connection.ended
            connection.lost(None)
            if number % 500 == 0:
                await asyncio.sleep(0)
        malformed = broker.stats.malformed
        assert not broker._connections
        assert broker.stats.clients == 0
        assert malformed > count / 4  # the generator does reach the refusals
        assert broker.stats.received > count / 10  # and what is beyond them
        held = sum(session.held_bytes for session, _ in broker._sessions.values())
        assert broker.stats.queued_bytes == held
        assert broker.stats.queued == sum(len(session.queue) for session, _ in broker._sessions.values())
        assert not any(session.clean_session for session, _ in broker._sessions.values())
    finally:
        await broker.shutdown()


async def _fuzz_over_sockets(port: int, seed: int, count: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        with contextlib.suppress(ConnectionError):
            async with opened(port) as client:
                client.writer.write(stream(rng))
                client.writer.write_eof()
                async with asyncio.timeout(5):
                    while await client.reader.read(65_536):
                        pass


@pytest.mark.parametrize("count", [300, pytest.param(STREAMS, marks=pytest.mark.slow)])
async def test_streams_over_sockets_disturb_nobody(count: int, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        EmbeddedBroker(limits=Limits(max_packet_bytes=5_000)) as broker,
        connected(broker.port, "pair-a") as one,
        connected(broker.port, "pair-b") as other,
    ):
        await other.subscribe(("pair/x", 1))
        fuzzing = [
            asyncio.create_task(_fuzz_over_sockets(broker.port, seed, count // 4)) for seed in range(4)
        ]
        number = 0
        while not all(task.done() for task in fuzzing):
            await one.publish("pair/x", b"%d" % number, qos=1)
            assert (await other.received()).payload == b"%d" % number
            number += 1
        await asyncio.gather(*fuzzing)
        assert number > 50
        stats = await broker.read_stats()
        assert stats.clients == 2
    assert "Traceback" not in caplog.text
