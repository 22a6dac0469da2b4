"""LoopBoundBroker: what brokers share that live in one event loop and are used from any thread and loop."""

from __future__ import annotations

import abc
import asyncio

from heron_mqtt.messaging.base import Delivery, MessageBroker
from heron_mqtt.messaging.codec import Json
from heron_mqtt.messaging.core.dispatcher import ChannelTrouble, Dispatcher
from heron_mqtt.messaging.core.owner_loop import OwnerLoop
from heron_mqtt.messaging.core.stats import MessageStats


class LoopBoundBroker(MessageBroker):
    """Connects in the running loop, or by itself in the process's background loop; ends once.

    A subclass implements this: the methods ``_begin`` to ``_hold``.

    Args:
        name: The broker, for messages.
        dispatcher: Of what arrives.
    """

    def __init__(self, name: str, dispatcher: Dispatcher) -> None:
        self._name = name
        self._dispatcher = dispatcher
        self._owner_loop = OwnerLoop(name, self._begin, self.close)
        self._consumed: set[str] = set()
        self._closing: asyncio.Task[None] | None = None

    # -- what a subclass does ----------------------------------------------------------------------

    @abc.abstractmethod
    def _begin(self) -> object:
        """Get ready, in the home loop, before whatever begins there. Idempotent."""

    @abc.abstractmethod
    async def _open(self) -> None:
        """Connect, in the home loop; raises if that fails."""

    @abc.abstractmethod
    async def _abort_open(self) -> None:
        """Take back what is left of an attempt to connect that failed or was cancelled."""

    @abc.abstractmethod
    async def _shut(self, *exc: object) -> None:
        """End everything, in the home loop; ``exc`` as for ``__aexit__``."""

    @abc.abstractmethod
    async def _abandon(self, *exc: object) -> None:
        """End what can be ended without the home loop, which has ended or never began."""

    @abc.abstractmethod
    def _hold(self, home_loop: asyncio.AbstractEventLoop, channel: str) -> Delivery:
        """Have the messages of a channel brought, for consumers."""

    # -- the same for all --------------------------------------------------------------------------

    @property
    def stats(self) -> MessageStats:
        """Counters and reports of this broker."""
        return self._dispatcher.stats

    def trouble(self, channel: str) -> ChannelTrouble:
        """Return how many messages of one channel came twice or never."""
        return self._dispatcher.trouble(channel)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that this broker lives in; None before it is started."""
        return self._owner_loop.loop

    async def connect(self) -> None:
        """Connect; the running event loop becomes the home loop, if there is none yet. Idempotent.

        Raises:
            BrokerUnavailable: No answer in time.
            BrokerRefused: Credentials, client id or protocol version are refused.
            BrokerClosed: After ``close``.
        """
        if not self._owner_loop.bind():
            await self._owner_loop.run(self._open())
            return
        try:
            await self._open()
        except BaseException:  # also cancelled: the next attempt may come from another loop
            await self._abort_open()
            self._owner_loop.unbind()
            raise
        self._begin()

    async def close(self) -> None:
        """End everything, in good order. Idempotent."""
        await self._end(None, None, None)

    async def __aexit__(self, *exc: object) -> None:
        """Close; when left by an exception, without DISCONNECT: wills are sent."""
        await self._end(*exc)

    async def _end(self, *exc: object) -> None:
        self._owner_loop.close()
        if self._owner_loop.loop is None or self._owner_loop.loop.is_closed():  # nothing can be waited for
            await self._abandon(*exc)
        else:
            await self._owner_loop.run(self._end_at_home(exc))

    async def _end_at_home(self, exc: tuple[object, ...]) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._shut(*exc), name=f"close {self._name}")
        await asyncio.shield(self._closing)

    async def consume(self, channel: str) -> Json:
        """Return the oldest message not consumed yet, or wait for one; see ``MessageBroker.consume``."""
        home_loop = self._owner_loop.acquire()  # raises if closed
        if channel not in self._consumed:
            self._dispatcher.listen(channel)
            await self._hold(home_loop, channel)
            self._consumed.add(channel)
        return await self._dispatcher.take(channel)
