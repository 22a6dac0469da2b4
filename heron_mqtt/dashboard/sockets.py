"""Sockets, and those on which a browser only listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.asyncio.server import ServerConnection

Serve = Callable[[ServerConnection, str], Coroutine[Any, Any, None]]
"""Serves a socket until it ends, given the query of its address."""


async def until_closed_or(connection: ServerConnection, duration_s: float) -> bool:
    """Wait a while; return whether the connection has ended: a browser that sends data is disconnected.

    Raises:
        ConnectionClosed: It has gone.
    """
    try:
        async with asyncio.timeout(duration_s):
            await connection.recv()
    except TimeoutError:
        return False
    await connection.close(1008, "this page only reads")
    return True
