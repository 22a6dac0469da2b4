"""In which order the embedded broker writes to its clients."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from heron_mqtt.messaging.embedded.options import BrokerOptions
from heron_mqtt.messaging.embedded.server.server import BrokerServer


class Outlet:
    def __init__(self, collected_bytes: int, written: list[int]) -> None:
        self.collected_bytes = collected_bytes
        self._written = written

    def flush(self) -> None:
        self._written.append(self.collected_bytes)


async def test_who_has_most_to_read_is_written_to_first() -> None:
    server, written = BrokerServer(BrokerOptions()), list[int]()
    for size in (281, 4, 1899, 4, 281):
        server.flush_soon(cast("Any", Outlet(size, written)))
    await asyncio.sleep(0)
    assert written == [1899, 281, 281, 4, 4]
