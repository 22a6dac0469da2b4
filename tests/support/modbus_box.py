"""A box on Modbus TCP, RTU over TCP or a serial line, that does what it is told, or lies. No pymodbus in it.

Source of the frames: Modbus Application Protocol V1.1b3; Modbus Messaging on TCP/IP V1.0b; Modbus over Serial
Line V1.02 (CRC).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

READ = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}


@dataclass
class Lies:
    """What the box does wrong."""

    silent: bool = False
    swallow: int = 0  # so many requests get no answer
    busy: int = 0  # so many are answered by exception 6
    refuse: dict[int, int] = field(default_factory=dict)  # first address of a request -> exception
    drop: bool = False  # end the connection instead of answering
    cut: int = 0  # so many writes are not done: the connection ends instead
    short: bool = False  # one register fewer than asked for
    other_unit: bool = False  # answers carry another unit id
    again_s: float | None = None  # each answer in an RTU frame comes once more, so late, s
    slow: dict[int, float] = field(default_factory=dict)  # first address -> its answer comes so late, s
    forgets: set[int] = field(default_factory=set)  # writes to these are acknowledged and not kept


class _LineWriter:
    """Writes to a serial line."""

    def __init__(self, line: int) -> None:
        self._file = line

    def write(self, data: bytes) -> None:
        os.write(self._file, data)

    def close(self) -> None:
        """A line has no connection to end."""


class ModbusBox:
    """One address; registers by unit, area and address. What is not there is exception 2.

    Args:
        units: Unit -> area -> address -> words from there on.
        framing: "tcp" or "rtu".
    """

    def __init__(self, units: dict[int, dict[str, dict[int, list[int]]]], *, framing: str = "tcp") -> None:
        self.port = 0
        self.lies = Lies()
        self.accepted = 0
        self.requests: list[tuple[int, int, int, list[int]]] = []  # unit, function, address, words written
        self.on_write: Callable[[int, int], None] | None = None  # address, word
        self._framing = framing
        self._words = {
            (unit, area, address + i): word
            for unit, areas in units.items()
            for area, blocks in areas.items()
            for address, words in blocks.items()
            for i, word in enumerate(words)
        }
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._line: tuple[asyncio.BaseTransport, int, int] | None = None

    async def start(self) -> ModbusBox:
        """Listen on a free port, or on the one it had before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def start_serial(self) -> str:
        """Listen on a serial line, a pair of pseudo-terminals; returns the port of the other end."""
        ours, its = os.openpty()
        tty.setraw(its)  # kept open: the line is there, too, while it is not open elsewhere
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(ours), "rb", 0)
        )
        self._line = (transport, ours, its)
        self._framing = "rtu"
        self._serving.add(asyncio.create_task(self._listen_to_line(reader, _LineWriter(ours))))
        return os.ttyname(its)

    async def _listen_to_line(self, reader: asyncio.StreamReader, writer: Any) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await self._one_rtu(reader, writer)

    async def stop_serial(self) -> None:
        """Take the line away."""
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._line is not None:
            transport, ours, its = self._line
            transport.close()
            os.close(ours)
            os.close(its)
            self._line = None

    async def stop(self) -> None:
        """Die: no more connections, and those that are end."""
        if self._server is None:
            return
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._server = None

    def __getitem__(self, address: int) -> int:
        """Return a holding register of unit 1."""
        return self._words[1, "holding", address]

    def put(self, address: int, *words: int, area: str = "holding", unit: int = 1) -> None:
        """Set registers."""
        for i, word in enumerate(words):
            self._words[unit, area, address + i] = word & 0xFFFF

    def writes(self) -> list[tuple[int, list[int]]]:
        """Return address and words of every write so far."""
        return [(address, words) for _, function, address, words in self.requests if function in {5, 6, 16}]

    def reads(self) -> list[tuple[str, int, int]]:
        """Return area, address and number of every request to read."""
        return [(READ[f], address, words[0]) for _, f, address, words in self.requests if f in READ]

    # -- frames ------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    await (self._one_tcp if self._framing == "tcp" else self._one_rtu)(reader, writer)
        finally:
            self._serving.discard(task)
            writer.close()

    async def _one_tcp(self, reader: asyncio.StreamReader, writer: Any) -> None:
        number, _, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
        pdu = await reader.readexactly(length - 1)
        answer = self._answer(unit, pdu, writer)
        await asyncio.sleep(self.lies.slow.get(int.from_bytes(pdu[1:3], "big"), 0.0))
        if answer is not None:
            shown = unit + 7 if self.lies.other_unit else unit
            writer.write(struct.pack(">HHHB", number, 0, len(answer) + 1, shown) + answer)

    async def _one_rtu(self, reader: asyncio.StreamReader, writer: Any) -> None:
        head = await reader.readexactly(7)
        rest = await reader.readexactly(head[6] + 2 if head[1] == 16 else 1)
        frame = head + rest
        assert _crc(frame[:-2]) == frame[-2:]
        answer = self._answer(frame[0], frame[1:-2], writer)
        if answer is not None:
            body = frame[:1] + answer
            await asyncio.sleep(self.lies.slow.get(int.from_bytes(frame[2:4], "big"), 0.0))
            writer.write(body + _crc(body))
            if self.lies.again_s is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(self.lies.again_s, writer.write, body + _crc(body))

    def _answer(self, unit: int, pdu: bytes, writer: Any) -> bytes | None:
        function, address, count = struct.unpack(">BHH", pdu[:5])
        written = [count] if function in READ or function in {5, 6} else _words(pdu[6:])
        self.requests.append((unit, function, address, written))
        lies = self.lies
        is_cut = lies.cut > 0 and function in {5, 6, 16}
        lies.cut -= is_cut
        if lies.drop or is_cut:
            writer.close()
            return None
        if lies.silent or lies.swallow > 0:
            lies.swallow -= 1
            return None
        if not any(key[0] == unit for key in self._words):
            return None  # no unit of that number on the line
        code = lies.refuse.get(address, 0)
        if lies.busy > 0:
            lies.busy, code = lies.busy - 1, 6
        try:
            return bytes([function | 0x80, code]) if code else self._do(unit, function, address, count, pdu)
        except KeyError:
            return bytes([function | 0x80, 2])

    def _do(self, unit: int, function: int, address: int, count: int, pdu: bytes) -> bytes:
        if function in READ:
            words = [self._words[unit, READ[function], address + i] for i in range(count)]
            if self.lies.short:
                words = words[:-1]
            if function in {1, 2}:
                bits = sum(bool(word) << i for i, word in enumerate(words))
                data = bits.to_bytes((len(words) + 7) // 8, "little")
            else:
                data = struct.pack(f">{len(words)}H", *words)
            return bytes([function, len(data)]) + data
        area = "coil" if function == 5 else "holding"
        words = [int(count == 0xFF00)] if function == 5 else [count] if function == 6 else _words(pdu[6:])
        for i, word in enumerate(words):
            assert (unit, area, address + i) in self._words or self._missing()
            if address + i not in self.lies.forgets:
                self._words[unit, area, address + i] = word
            if self.on_write is not None:
                self.on_write(address + i, word)
        return pdu[:5]

    def _missing(self) -> Any:
        raise KeyError


def f32(value: float) -> list[int]:
    """Return a float as two registers, the more significant one first."""
    return _words(struct.pack(">f", value))


def i32(value: int) -> list[int]:
    """Return a signed number as two registers, the more significant one first."""
    return _words(struct.pack(">i", value))


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def _crc(data: bytes) -> bytes:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


class BoxThread:
    """Runs a box beside a test that waits for programs; use it as a context manager.

    Args:
        box: Not started yet.
    """

    def __init__(self, box: ModbusBox) -> None:
        self.box = box
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="box", daemon=True)

    def __enter__(self) -> ModbusBox:
        self._thread.start()
        self.start()
        return self.box

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Listen, also again."""
        asyncio.run_coroutine_threadsafe(self.box.start(), self._loop).result(10.0)

    def stop(self) -> None:
        """Die."""
        asyncio.run_coroutine_threadsafe(self.box.stop(), self._loop).result(10.0)
