"""A published message, or the message of a presence, on its way through the network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.core.delivery import Delivery


class OutgoingMessage:
    """One published message.

    Args:
        publish: Hands it to the broker beyond the network.
        on_failed: Told of an error that ``publish`` raised when the caller was gone already.
        tasks: Holds the tasks that wait for deliveries.
        on_vanished: Told of the error that it does not arrive for; not of a loss, which has none.
    """

    def __init__(
        self,
        publish: Callable[[], Awaitable[None]],
        on_failed: Callable[[Exception], None],
        tasks: set[asyncio.Task[None]],
        on_vanished: Callable[[BrokerError], None] = lambda _: None,
    ) -> None:
        self._on_vanished = on_vanished
        self._publish = publish
        self._on_failed = on_failed
        self._tasks = tasks
        self._sent: Awaitable[None] | None = None
        self._lost = False
        self._outcome: asyncio.Future[None] | None = None

    def delivery(self) -> Awaitable[None]:
        """Return what ``publish`` returns: a lost message counts as delivered, its sender cannot know."""
        if self._sent is not None:
            return self._sent
        if self._lost:
            return Delivery()
        self._outcome = asyncio.get_running_loop().create_future()
        return Delivery(self._outcome)

    def arrive(self) -> None:
        """Publish it, or its copy, to the broker."""
        if self._outcome is None:  # on the caller's stack: what goes wrong is the caller's to hear
            sent = self._publish()
            self._sent = sent if self._sent is None else self._sent
            return
        try:
            sent = self._publish()
        except Exception as exc:
            self._on_failed(exc)
            self._fail(exc)
            return
        task = asyncio.get_running_loop().create_task(self._settle(sent), name="impaired delivery")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def vanish(self, error: BrokerError | None) -> None:
        """It does not arrive."""
        self._lost = True
        if error is not None:
            self._on_vanished(error)
        if self._outcome is None or self._outcome.done():
            return
        if error is None:
            self._outcome.set_result(None)
        else:
            self._fail(error)

    async def _settle(self, sent: Awaitable[None]) -> None:
        try:
            await sent
        except Exception as exc:  # the broker has counted and reported it; here it is only passed on
            self._fail(exc)
            return
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)

    def _fail(self, exc: Exception) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(exc)
            self._outcome.exception()  # reported already: an ignored delivery must not complain again


class PresenceTurn:
    """Waits until a message of a presence is through; its owner then publishes it."""

    def __init__(self) -> None:
        self._passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def arrive(self) -> None:
        """It is through."""
        if not self._passed.done():
            self._passed.set_result(None)

    def vanish(self, error: BrokerError | None) -> None:
        """It is not; only too many messages or the end of the broker can do that."""
        if self._passed.done():
            return
        if error is None:
            self._passed.set_result(None)
        else:
            self._passed.set_exception(error)

    async def passed(self) -> None:
        """Wait for it.

        Raises:
            BrokerOverflow: Too many messages were on their way, and this was the oldest.
            BrokerClosed: The broker was closed.
        """
        await self._passed


class IncomingMessage:
    """One received message."""

    def __init__(self, deliver: Callable[[], Any]) -> None:
        self.arrive = deliver

    def vanish(self, error: BrokerError | None) -> None:
        """No caller waits for it."""
