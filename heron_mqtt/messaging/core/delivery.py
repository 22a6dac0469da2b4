"""The outcome of a publish: may be awaited from any event loop, or ignored."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Self

from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.core.background_loop import running_loop


class Delivery:
    """The outcome of one ``publish``; await it or ignore it, from any event loop."""

    __slots__ = ("_error", "_future")

    def __init__(self, future: asyncio.Future[Any] | None = None) -> None:
        self._future = future
        self._error: BrokerError | None = None

    @classmethod
    def failed(cls, error: BrokerError) -> Self:
        """Return the outcome of a message that was not taken; awaiting it raises ``error``."""
        delivery = cls()
        delivery._error = error
        return delivery

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until the message is delivered.

        Raises:
            BrokerError: It could not be delivered.
        """
        future = self._future
        if future is None:
            if self._error is not None:
                raise self._error
            return
        if future.get_loop() is running_loop():
            yield from asyncio.shield(future).__await__()
        else:
            yield from asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(_outcome(future), future.get_loop())
            ).__await__()

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._future is None or self._future.done()


async def _outcome(future: asyncio.Future[Any]) -> None:
    await asyncio.shield(future)
