"""The floor of one broker hop: a raw TCP relay that takes whole messages and forwards each by itself.

    python -m heron_mqtt.bench.relay

It does what any broker has to do (read, find where a message ends and where it goes, write) and nothing
else: no topics, no acknowledgements, no sessions. A frame is a length, an address (2 bytes each, big
endian) and that many bytes. A connection's first frame names its own address, and comes back to say that
others can send to it now.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

_HEAD = struct.Struct(">HH")
HEAD_BYTES = _HEAD.size


def frame(address: int, payload: bytes) -> bytes:
    """Return a message as it stands on the wire."""
    return _HEAD.pack(len(payload), address) + payload


class Framed(asyncio.Protocol):
    """A connection that cuts what arrives into frames.

    Args:
        on_frame: Called with the connection, the address and the whole frame.
    """

    def __init__(self, on_frame: Callable[[Framed, int, bytes], object]) -> None:
        self._on_frame = on_frame
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send small frames at once."""
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand over every frame that is complete."""
        data = self._rest + data
        at = 0
        while len(data) - at >= _HEAD.size:
            length, address = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + length
            if end > len(data):
                break
            self._on_frame(self, address, data[at:end])
            at = end
        self._rest = data[at:]


async def serve() -> None:
    """Relay on a free loopback port, which is printed, until cancelled."""
    links: dict[int, asyncio.Transport] = {}
    named: set[Framed] = set()

    def forward(link: Framed, address: int, whole: bytes) -> None:
        if link not in named:
            named.add(link)
            links[address] = link.transport
        links[address].write(whole)

    server = await asyncio.get_running_loop().create_server(lambda: Framed(forward), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the program that started us reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
