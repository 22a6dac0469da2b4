"""What makes a broker that defines only ``publish`` and ``consume`` whole.

One task a channel consumes it and fans out to the channel's subscribers, so that a broadcast reaches
everyone although ``consume`` hands each message out once.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from heron_mqtt.errors import BrokerClosed, UnsupportedFeature
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import Json, decode, encode
from heron_mqtt.messaging.core.background_loop import background_loop, running_loop
from heron_mqtt.messaging.core.delivery import Delivery
from heron_mqtt.messaging.core.dispatcher import Dispatcher


class TwoMethodBroker(Protocol):
    """What the adapter needs of a broker."""

    async def consume(self, channel: str) -> Json:
        """Return the next message of a channel."""


def adapter_of(broker: TwoMethodBroker) -> TwoMethodAdapter:
    """Return the broker's adapter, made at first use: a subclass need not call ``__init__``."""
    adapter: TwoMethodAdapter | None = broker.__dict__.get("_heron_adapter")
    if adapter is None:
        adapter = broker.__dict__["_heron_adapter"] = TwoMethodAdapter(broker)
    return adapter


def awaited_or_ignored(own: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Delivery]:
    accepted = inspect.signature(own).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())

    @functools.wraps(own)
    def publish(self: TwoMethodBroker, channel: str, message: Mapping[str, Any], **options: Any) -> Delivery:
        topics.check_channel(channel)
        for name in options:
            if not takes_any and name not in accepted:
                raise UnsupportedFeature(
                    f"{type(self).__name__}.publish takes no {name!r}: this broker cannot carry it"
                )
        plain = decode(encode(message))  # the same JSON rules as everywhere; no live object gets through
        return adapter_of(self).publish(channel, own(self, channel, plain, **options))

    return publish


def beside_subscriptions(
    own: Callable[..., Coroutine[Any, Any, Json]],
) -> Callable[..., Coroutine[Any, Any, Json]]:
    """Let ``consume`` and subscriptions of one channel each see every message."""

    @functools.wraps(own)
    async def consume(self: TwoMethodBroker, channel: str) -> Json:
        adapter = adapter_of(self)
        if channel in adapter.dispatcher.wanted():
            return await adapter.dispatcher.take(channel)
        return await own(self, channel)

    return consume


class TwoMethodAdapter:
    """The base class's part: one consuming task a channel, fanned out to all of its subscribers."""

    def __init__(self, broker: TwoMethodBroker) -> None:
        self._broker = broker
        own = getattr(type(broker).consume, "__wrapped__", type(broker).consume)
        self._consume: Callable[[str], Coroutine[Any, Any, Json]] = functools.partial(own, broker)
        self.dispatcher = Dispatcher()
        self.dispatcher.on_removed = self._stop_unwanted  # type: ignore[method-assign]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._loop.is_closed():
            self._loop = running_loop() or background_loop()
        return self._loop

    def publish(self, channel: str, sending: Coroutine[Any, Any, None]) -> Delivery:
        if self._closed:
            sending.close()
            raise BrokerClosed(f"{type(self._broker).__name__} is closed; nothing more can be published")
        loop = running_loop() or self.loop()
        stats = self.dispatcher.stats

        async def send() -> None:
            await sending
            stats.published += 1

        def failed(task: asyncio.Task[None]) -> None:
            self._sending.discard(task)
            if not task.cancelled() and (exc := task.exception()) is not None:
                stats.undelivered += 1
                stats.report("delivery", channel, f"{type(exc).__name__}: {exc}", exc=exc)

        def start() -> asyncio.Task[None]:
            task = loop.create_task(send(), name=f"publish {channel}")
            self._sending.add(task)
            task.add_done_callback(failed)
            return task

        if loop is running_loop():
            return Delivery(start())
        outcome: asyncio.Future[None] = loop.create_future()

        def start_elsewhere() -> None:
            start().add_done_callback(lambda task: _copy_outcome(task, outcome))

        loop.call_soon_threadsafe(start_elsewhere)
        return Delivery(outcome)

    def start(self, channel: str) -> None:
        loop = self.loop()

        def create() -> None:
            if channel not in self._tasks and channel in self.dispatcher.wanted():
                self._tasks[channel] = loop.create_task(self._pump(channel), name=f"consume {channel}")

        create() if loop is running_loop() else loop.call_soon_threadsafe(create)

    async def _pump(self, channel: str) -> None:
        while True:
            try:
                message = await self._consume(channel)
            except Exception as exc:
                self.dispatcher.stats.report("connection", channel, f"consume failed: {exc}", exc=exc)
                await asyncio.sleep(0.1)  # do not spin on a broker that is down
                continue
            self.dispatcher.arrive_decoded(channel, dict(message))

    def _stop_unwanted(self, channel: str) -> None:
        if channel in self._tasks and channel not in self.dispatcher.wanted():
            task = self._tasks.pop(channel)
            if not task.get_loop().is_closed():
                task.get_loop().call_soon_threadsafe(task.cancel)

    async def close(self) -> None:
        self._closed = True
        self.dispatcher.clear()
        here = [t for t in self._sending if t.get_loop() is running_loop()]
        if here:
            await asyncio.wait(here, timeout=1.0)


def _copy_outcome(task: asyncio.Task[None], outcome: asyncio.Future[None]) -> None:
    if outcome.done():
        return
    if task.cancelled():
        outcome.cancel()
    elif (exc := task.exception()) is not None:
        outcome.set_exception(exc)
        outcome.exception()  # an ignored delivery was reported already
    else:
        outcome.set_result(None)
