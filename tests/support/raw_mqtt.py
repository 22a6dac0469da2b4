"""An MQTT 3.1.1 client on a bare socket, for tests: it does exactly what it is told, also what is wrong.

It shares no code with the broker, so that a mistake in the broker's codec cannot hide in the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 10, 11, 12, 13, 14
WAIT_S = 5.0


class Ended(Exception):
    """The broker closed the connection."""


class Packet(NamedTuple):
    """Any packet from the broker."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True)
class Publish:
    """A PUBLISH from the broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int


@dataclass(frozen=True)
class Will:
    """A will, as CONNECT carries it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


def string(text: str | bytes) -> bytes:
    """Encode with a length in front."""
    raw = text if isinstance(text, bytes) else text.encode()
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes) -> bytes:
    """Encode a packet: first byte, remaining length, body."""
    length, encoded = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes((first,)) + bytes(encoded) + body


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the first byte of the next packet, and what follows its length."""
    first, length, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        more = (await reader.readexactly(1))[0]
        length |= (more & 0x7F) << shift
        shift += 7
        if not more & 0x80:
            return first, await reader.readexactly(length)


def connect_packet(
    client_id: str,
    *,
    clean: bool = True,
    keepalive: int = 60,
    will: Will | None = None,
    user: str | None = None,
    password: str | None = None,
    level: int = 4,
    name: str = "MQTT",
) -> bytes:
    """Encode CONNECT."""
    flags = 0x02 if clean else 0
    payload = string(client_id)
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        payload += string(will.topic) + string(will.payload)
    if user is not None:
        flags |= 0x80
        payload += string(user)
    if password is not None:
        flags |= 0x40
        payload += string(password)
    properties = b"\0" if level == 5 else b""
    return packet(
        0x10, string(name) + bytes((level, flags)) + keepalive.to_bytes(2, "big") + properties + payload
    )


def publish_packet(
    topic: str | bytes,
    payload: bytes,
    *,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    packet_id: int = 1,
) -> bytes:
    """Encode PUBLISH."""
    middle = packet_id.to_bytes(2, "big") if qos else b""
    return packet(0x30 | dup << 3 | qos << 1 | retain, string(topic) + middle + payload)


def subscribe_packet(packet_id: int, *filters: tuple[str, int]) -> bytes:
    """Encode SUBSCRIBE."""
    body = b"".join(string(topic_filter) + bytes((qos,)) for topic_filter, qos in filters)
    return packet(0x82, packet_id.to_bytes(2, "big") + body)


class RawClient:
    """One connection. Use `connected` or `opened`, which end it with the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.session_present = False
        self._inbox: list[Publish] = []
        self._last_id = 0

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def next_packet(self, wait_s: float | None = None) -> Packet:
        """Return the next packet.

        Raises:
            Ended: The connection was closed instead.
            TimeoutError: Nothing came.
        """
        try:
            async with asyncio.timeout(WAIT_S if wait_s is None else wait_s):
                first, body = await read_packet(self.reader)
                return Packet(first >> 4, first & 15, body)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise Ended from exc

    async def expect(self, kind: int, wait_s: float | None = None) -> bytes:
        """Return the body of the next packet that is no message, which must be of this kind.

        Messages are put aside; a PUBREL of an earlier connection's QoS 2 message is answered on the way.
        """
        while True:
            got = await self.next_packet(wait_s)
            if got.kind == PUBLISH and kind != PUBLISH:
                self._inbox.append(_as_publish(got))
                continue
            if got.kind == PUBREL and kind != PUBREL:
                await self.send(packet(0x70, got.body))
                continue
            assert got.kind == kind, f"expected a packet of type {kind}, got {got}"
            return got.body

    async def connect(self, client_id: str, **fields: object) -> int:
        """Send CONNECT; return the return code."""
        await self.send(connect_packet(client_id, **fields))  # type: ignore[arg-type]
        body = await self.expect(CONNACK)
        self.session_present = bool(body[0])
        return body[1]

    async def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        """Subscribe; return the return codes."""
        packet_id = self._next_id()
        await self.send(subscribe_packet(packet_id, *filters))
        body = await self.expect(SUBACK)
        assert int.from_bytes(body[:2], "big") == packet_id
        return list(body[2:])

    async def unsubscribe(self, *filters: str) -> None:
        """Unsubscribe, and wait for the answer."""
        packet_id = self._next_id()
        await self.send(packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(map(string, filters))))
        assert int.from_bytes(await self.expect(UNSUBACK), "big") == packet_id

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Publish, and go through the acknowledgements of its QoS."""
        packet_id = self._next_id()
        await self.send(publish_packet(topic, payload, qos=qos, retain=retain, packet_id=packet_id))
        raw_id = packet_id.to_bytes(2, "big")
        if qos == 1:
            assert await self.expect(PUBACK) == raw_id
        elif qos == 2:
            assert await self.expect(PUBREC) == raw_id
            await self.send(packet(0x62, raw_id))
            assert await self.expect(PUBCOMP) == raw_id

    async def received(self, wait_s: float | None = None, *, ack: bool = True) -> Publish:
        """Return the next message, acknowledged unless told otherwise."""
        message = self._inbox.pop(0) if self._inbox else _as_publish(await self._next_publish(wait_s))
        if ack and message.qos:
            await self.acknowledge(message)
        return message

    async def acknowledge(self, message: Publish) -> None:
        """Go through the receiver's side of a message's QoS."""
        raw_id = message.packet_id.to_bytes(2, "big")
        if message.qos == 1:
            await self.send(packet(0x40, raw_id))
        elif message.qos == 2:
            await self.send(packet(0x50, raw_id))
            assert await self.expect(PUBREL) == raw_id
            await self.send(packet(0x70, raw_id))

    async def arrived(self, *, ack: bool = True) -> list[Publish]:
        """Return the messages that the broker has sent until it answers a ping."""
        await self.send(packet(0xC0, b""))
        await self.expect(PINGRESP)
        messages, self._inbox = self._inbox, []
        for message in messages:
            if ack and message.qos:
                await self.acknowledge(message)
        return messages

    async def expect_nothing(self, wait_s: float) -> None:
        """Check that nothing comes for a while; needed only where a ping would tell nothing."""
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"nothing was expected, but there came {await self.next_packet(wait_s)}")

    async def expect_end(self, wait_s: float | None = None) -> None:
        """Wait until the broker closes the connection; what it sends before does not matter."""
        with contextlib.suppress(Ended):
            while True:
                await self.next_packet(wait_s)

    async def disconnect(self) -> None:
        """Leave in good order, and wait for the broker to notice."""
        await self.send(packet(0xE0, b""))
        await self.expect_end()
        self.writer.close()

    def drop(self) -> None:
        """Leave without a word, as a device that loses its power does."""
        self.writer.transport.abort()

    async def _next_publish(self, wait_s: float | None) -> Packet:
        got = await self.next_packet(wait_s)
        assert got.kind == PUBLISH, f"expected PUBLISH, got {got}"
        return got

    def _next_id(self) -> int:
        self._last_id = self._last_id % 65_535 + 1
        return self._last_id


def _as_publish(got: Packet) -> Publish:
    qos, length = got.flags >> 1 & 3, int.from_bytes(got.body[:2], "big")
    topic, rest = got.body[2 : 2 + length], got.body[2 + length :]
    packet_id = int.from_bytes(rest[:2], "big") if qos else 0
    payload = rest[2:] if qos else rest
    return Publish(topic.decode(), payload, qos, bool(got.flags & 1), bool(got.flags & 8), packet_id)


@contextlib.asynccontextmanager
async def opened(
    port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawClient]:
    """Open a connection without saying anything."""
    name = "localhost" if tls is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name, limit=1 << 22)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(
    port: int, client_id: str = "", *, tls: ssl.SSLContext | None = None, **fields: object
) -> AsyncIterator[RawClient]:
    """Open a connection and have it accepted."""
    async with opened(port, tls) as client:
        code = await client.connect(client_id, **fields)
        assert code == 0, f"CONNACK return code {code}"
        yield client
