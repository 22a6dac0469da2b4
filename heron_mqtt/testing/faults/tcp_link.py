"""A TCP link to a server on loopback that can be made late, chopped, lossy, silent, reset or half-closed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from typing import Self

from heron_mqtt.messaging.core.background_loop import run_sync

__all__ = ["LinkFaults", "TcpLink"]

BLOCK = 65_536
RETRANSMIT_S = 0.2
"""What TCP waits at least before it sends a lost packet again; twice as long each further time."""
LOOK_S = 0.02
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


@dataclass(slots=True)
class LinkFaults:
    """What is wrong with a link; without arguments nothing is.

    Attributes:
        delay_s: What each block takes in each direction, s; order is kept.
        loss: Part of the packets that are lost, 0 to 1: TCP sends them again, so what comes is late.
        chop: Bytes that are handed on at a time; 0 = as they come.
        is_silent: Nothing is handed on, and nothing is closed.
        is_refused: New connections end at once.
    """

    delay_s: float = 0.0
    loss: float = 0.0
    chop: int = 0
    is_silent: bool = False
    is_refused: bool = False


class TcpLink:
    """Listens on a free loopback port and hands on to a server. ``start`` it, and ``close`` it in the end.

    What it carries, it carries in the process's background event loop; its methods are called from outside.

    Args:
        port: Of the server, on loopback.
        rng: Decides which packets are lost.
    """

    def __init__(self, port: int, rng: random.Random) -> None:
        self.port = 0
        self.faults = LinkFaults()
        self._server_port = port
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Listen."""

        async def listen() -> None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]

        run_sync(listen())
        return self

    def mend(self) -> None:
        """Put right whatever is wrong."""
        self.faults = LinkFaults()

    def reset(self) -> None:
        """End every connection at both ends with RST."""
        run_sync(self._end_all(reset=True))

    def half_close(self, *, towards_client: bool) -> None:
        """End one direction of every connection: one side hears the end, the other does not."""

        async def half() -> None:
            for client, server in tuple(self._pairs):
                with contextlib.suppress(OSError, RuntimeError):
                    (client if towards_client else server).write_eof()

        run_sync(half())

    def close(self) -> None:
        """End it. Idempotent."""

        async def end() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            await self._end_all(reset=True)
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        run_sync(end())

    async def _end_all(self, *, reset: bool) -> None:
        for pair in tuple(self._pairs):
            _end(pair, reset=reset)

    def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, client), name="link")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter] | None = None
        try:
            if self.faults.is_refused:
                return
            answers, server = await asyncio.open_connection("127.0.0.1", self._server_port)
            pair = (client, server)
            self._pairs.add(pair)
            both = [
                asyncio.create_task(self._carry(reader, server), name="link to the server"),
                asyncio.create_task(self._carry(answers, client), name="link to the client"),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except OSError:  # the server is away: so is the link
            pass
        finally:
            if pair is None:
                client.transport.abort()
            else:
                self._pairs.discard(pair)
                _end(pair, reset=False)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on what comes, in order, until it ends."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1_000)

        async def send() -> None:
            while True:
                due_s, block = await queue.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                while self.faults.is_silent:  # noqa: ASYNC110 - told from another thread
                    await asyncio.sleep(LOOK_S)
                await self._write(writer, block)
                if not block:
                    return

        sender = asyncio.create_task(send(), name="link")
        try:
            while True:
                block = await reader.read(BLOCK)
                await queue.put((loop.time() + self._delay_s(), block))
                if not block:
                    await sender
                    return
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _write(self, writer: asyncio.StreamWriter, block: bytes) -> None:
        size = self.faults.chop or len(block)
        for at in range(0, len(block), max(size, 1)):
            writer.write(block[at : at + size])
            await writer.drain()
            if self.faults.chop:
                await asyncio.sleep(0.0)

    def _delay_s(self) -> float:
        delay_s, again_s = self.faults.delay_s, RETRANSMIT_S
        while self._rng.random() < self.faults.loss and again_s < 2.0:
            delay_s += again_s
            again_s *= 2.0
        return delay_s


def _end(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], *, reset: bool) -> None:
    for writer in pair:
        sock = writer.get_extra_info("socket")
        if reset and sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
