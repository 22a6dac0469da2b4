"""Answers as RabbitMQ 3.10.8 with its MQTT plugin was seen to, in front of a mosquitto that does the work.

Seen on one node and on two in a cluster (docs/pilots.md): a retained message comes to a subscription by its
name at the node where it was published, and to no wildcard; QoS 2 is granted as 1; a client of MQTT 5 is sent
away without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from support.raw_mqtt import CONNECT, PUBLISH, SUBACK, SUBSCRIBE, UNSUBSCRIBE, packet, read_packet


class RabbitNode:
    """One node.

    Args:
        port: Of the mosquitto behind it.
        keeps: Whether what is retained was published here; False = at another node.
    """

    def __init__(self, port: int, *, keeps: bool) -> None:
        self._port = port
        self._keeps = keeps

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names: set[str] = set()
        upstream, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            there = asyncio.ensure_future(self._there(reader, upstream_writer, names))
            back = asyncio.ensure_future(self._back(upstream, writer, upstream_writer, names))
            _, still = await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            for task in still:
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        upstream_writer.close()
        writer.close()

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: set[str]
    ) -> None:
        while True:
            first, body = await read_packet(reader)
            if first >> 4 == CONNECT and body[6] != 4:
                return
            if first >> 4 == SUBSCRIBE:
                names.update(f for f in _filters(body) if "+" not in f and "#" not in f)
            if first >> 4 == UNSUBSCRIBE:
                names.difference_update(_filters(body, after=0))
            writer.write(packet(first, body))

    async def _back(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        acknowledge: asyncio.StreamWriter,
        names: set[str],
    ) -> None:
        while True:
            first, body = await read_packet(reader)
            if first >> 4 == SUBACK:
                body = body[:2] + bytes(min(code, 1) for code in body[2:])
            if first >> 4 == PUBLISH and first & 1:
                end = 2 + int.from_bytes(body[:2], "big")
                if not self._keeps or body[2:end].decode() not in names:
                    if first & 0x06:
                        acknowledge.write(packet(0x40, body[end : end + 2]))
                    continue
            writer.write(packet(first, body))


@contextlib.asynccontextmanager
async def rabbit_node(port: int, *, keeps: bool = True) -> AsyncIterator[str]:
    """Start a node before a mosquitto; its URL."""
    node = RabbitNode(port, keeps=keeps)
    server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def _filters(body: bytes, *, after: int = 1) -> list[str]:
    """Return the filters of a SUBSCRIBE; of an UNSUBSCRIBE, where nothing stands ``after`` each."""
    at, found = 2, []
    while at < len(body):
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        found.append(body[at + 2 : end].decode())
        at = end + after
    return found
