"""A Modbus TCP gateway in front of a box, which passes its answers on as a test wants them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

Answers = Callable[[bytes], bytes]


def whole(frame: bytes) -> bytes:
    """Pass an answer on."""
    return frame


def silence(_frame: bytes) -> bytes:
    """Pass nothing on."""
    return b""


def refusal(frame: bytes) -> bytes:
    """Answer with exception 4, device failure."""
    return frame[:4] + b"\0\3" + frame[6:7] + bytes([frame[7] | 0x80, 4])


def half(frame: bytes) -> bytes:
    """Pass half of a frame on."""
    return frame[: len(frame) // 2]


def nonsense(frame: bytes) -> bytes:
    """Answer with a frame of the right request that ends after the function code."""
    return frame[:4] + b"\0\2" + frame[6:8]


def twice(frame: bytes) -> bytes:
    """Pass each answer on twice."""
    return 2 * frame


class ModbusFront:
    """Listens on a free loopback port while inside.

    Args:
        box_port: Of the box on loopback.

    Attributes:
        answers: What becomes of an answer of the box.
        port: Its own.
    """

    def __init__(self, box_port: int, answers: Answers = whole) -> None:
        self.answers = answers
        self.port = 0
        self._box_port = box_port
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _serve(self, asked: asyncio.StreamReader, answering: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        box_answers, asking = await asyncio.open_connection("127.0.0.1", self._box_port)

        async def pass_back() -> None:
            while head := await box_answers.readexactly(6):
                frame = head + await box_answers.readexactly(int.from_bytes(head[4:], "big"))
                answering.write(self.answers(frame))

        back = asyncio.create_task(pass_back())
        try:
            while request := await asked.read(4096):
                asking.write(request)
        except asyncio.CancelledError:
            pass  # by us, at the end; the server would log it
        finally:
            back.cancel()
            with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError):
                await back
            asking.close()
            answering.close()
            self._passing.discard(task)
