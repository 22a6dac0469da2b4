"""One subscription: where its callback runs, in which order, and what happens when it is slow.

Ordering: a callback sees messages in the order of arrival. Threads: it runs in the event loop in which
``subscribe`` was called; if none was running there, in the loop that delivers. Plain callables are called
directly. Async ones run one after another in a task of their own, which reads a bounded queue (when it is
full the oldest message is dropped, counted and reported). A plain callable may return something to be
awaited: that is done in such a task, and what comes meanwhile waits in such a queue.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol

from pydantic import ValidationError

from heron_mqtt import messages
from heron_mqtt.errors import MessageError
from heron_mqtt.messages import M, Message, parse, parse_known_fields
from heron_mqtt.messaging.codec import Json
from heron_mqtt.messaging.core.background_loop import background_loop, running_loop
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.topics import is_filter

MAX_QUEUE = 1_000
MAX_CHANNELS = 10_000  # channels come from the network: what is kept for each stays bounded


class SubscriptionOwner(Protocol):
    """The part of its dispatcher that a subscription uses."""

    stats: MessageStats

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription."""

    def overflow(self, channel: str, what: str) -> None:
        """Count and report a message dropped because a bounded queue is full."""

    def callback_failed(self, channel: str, exc: Exception) -> None:
        """Count and report an exception that a callback raised."""


_validators: dict[type[Message], Callable[[Json], Any]] = {}
"""Of the models of messages that came: an attribute of a model takes longer to find than a key."""


def _validator_of(model: type[Message]) -> Callable[[Json], Any]:
    validate = _validators[model] = model.__pydantic_validator__.validate_python
    return validate


class Received(Json):
    """A decoded message: a plain dict that knows where it came from.

    Args:
        payload: As it arrived; not written to.
        channel: It came on.
        retained: It was kept for those who subscribe late.
        models: Shared by those who get the same message: what it has been validated as.
        malformed: Why the payload could not be decoded; the message is empty then. Only on channels of
            ``topics.ALWAYS_DELIVERED``; None = it was decoded.
        late: It may have waited at the broker while this client was away: it is about the past.
    """

    __slots__ = ("_models", "_payload", "channel", "late", "malformed", "retained")

    def __init__(
        self,
        payload: Json,
        channel: str,
        retained: bool = False,
        models: dict[type[Message], Message] | None = None,
        malformed: str | None = None,
        late: bool = False,
    ) -> None:
        self.update(payload)  # half the time of dict's own __init__ by way of super()
        self.late = late
        self.channel = channel
        self.malformed = malformed
        self.retained = retained
        self._payload = payload
        self._models = {} if models is None else models

    def parse(self, model: type[M]) -> M:
        """Validate the message, as it arrived, as a model; done once for all who received it.

        Raises:
            MessageError: It is not one.
        """
        parsed = self._models.get(model)
        if parsed is None:
            validate = _validators.get(model) or _validator_of(model)
            try:  # as ``parse`` does first, without its call: nearly every message passes
                parsed = validate(self._payload)
            except ValidationError:
                parsed = parse(model, self._payload)
            self._models[model] = parsed
        return parsed  # type: ignore[return-value]  # it is kept under its own class

    def parse_any(self) -> Message:
        """Validate the message as the model that its ``type`` names; see ``parse``.

        Raises:
            MessageError: Unknown type, or it is not one.
        """
        return self.parse(messages.model_of(self._payload))

    def parse_known_fields(self, model: type[M]) -> tuple[M, str]:
        """Validate the message; a wrong optional field is left out and named in the second value.

        Raises:
            MessageError: It is not one.
        """
        try:
            return self.parse(model), ""  # once for all who received it
        except MessageError:
            return parse_known_fields(model, self._payload)


class Arrived(Received):
    """One whose attributes the dispatcher sets: the constructor of ``Received`` takes twice as long."""

    __slots__ = ()
    __init__ = dict.__init__


Callback = Callable[[Received], object]


class Subscription:
    """One subscription; call it to unsubscribe, await it to know that it is in force."""

    __slots__ = (
        "__weakref__",
        "_active",
        "_callback",
        "_is_async",
        "_is_plain",
        "_loop",
        "_max_queue",
        "_owner",
        "_queue",
        "_ready",
        "_seen",
        "_was_heard",
        "_worker",
        "channel",
    )

    def __init__(self, owner: SubscriptionOwner, channel: str, callback: Callback, max_queue: int) -> None:
        self.channel = channel
        self._was_heard = False
        self._seen: set[str] | None = set() if is_filter(channel) else None  # None = there is one channel
        self._owner = owner
        self._callback = callback
        is_async = inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
            getattr(callback, "__call__", None)  # noqa: B004 - an object with an async __call__
        )
        self._loop = running_loop() or (background_loop() if is_async else None)
        self._queue: deque[Received] = deque()
        self._is_async = is_async
        self._is_plain = not is_async  # called where it stands: nothing it returned had to be awaited yet
        self._max_queue = max_queue
        self._worker: asyncio.Task[None] | None = None
        self._active = True
        self._ready: Awaitable[object] | None = None

    def __call__(self) -> None:
        """Unsubscribe; nothing is delivered after this returns. Idempotent."""
        if self._active:
            self._active = self._is_plain = False
            self._owner.remove(self)
            if self._worker is not None and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._worker.cancel)

    def __await__(self) -> Generator[Any, Any, Subscription]:
        """Wait until the broker has acknowledged the subscription."""
        if self._ready is not None:
            yield from self._ready.__await__()
        return self

    def set_ready(self, ready: Awaitable[object]) -> None:
        """Say what to wait for; called by the broker."""
        self._ready = ready

    def deliver(
        self, message: Received, here: asyncio.AbstractEventLoop | None, repeated: bool = False
    ) -> None:
        """Hand one message over, in the loop that this subscription belongs to.

        Args:
            message: Handed to the callback as it is.
            here: The loop that is running in this thread, if one is.
            repeated: A retained message that the process has seen already. It is sent again because
                a subscription was made; only those without a message on this channel take it.
        """
        seen = self._seen
        if seen is None:
            if repeated and self._was_heard:
                return
            self._was_heard = True
        elif message.channel not in seen:
            self._note(seen, message.channel)
        elif repeated:
            return
        if self._loop is here or self._loop is None:
            if not self._is_plain:
                self._run(message)
                return
            try:  # as ``_run`` does, without its call: nearly every message comes so
                result = self._callback(message)
                if result is not None and inspect.iscoroutine(result):
                    self._start_worker(result, message.channel)
            except Exception as exc:
                self._owner.callback_failed(message.channel, exc)
        elif self._loop.is_closed():
            self._owner.stats.report("callback", message.channel, "the subscriber's event loop is closed")
            self()
        else:
            self._loop.call_soon_threadsafe(self._run, message)

    @staticmethod
    def _note(seen: set[str], channel: str) -> None:
        """Take note of a new channel."""
        if len(seen) >= MAX_CHANNELS:
            seen.clear()
        seen.add(channel)

    def _run(self, message: Received) -> None:
        if not self._active:
            return
        is_working = self._worker is not None and not self._worker.done()
        if self._is_async or is_working or self._queue:
            if len(self._queue) >= self._max_queue:
                self._queue.popleft()
                self._owner.overflow(message.channel, f"a callback is {self._max_queue} messages behind")
            self._queue.append(message)
            if not is_working:
                self._start_worker(None, message.channel)
            return
        try:
            result = self._callback(message)
            if result is not None and inspect.iscoroutine(result):
                self._start_worker(result, message.channel)
        except Exception as exc:
            self._owner.callback_failed(message.channel, exc)

    def _start_worker(self, begun: Coroutine[Any, Any, object] | None, channel: str) -> None:
        loop = running_loop()
        if loop is None:
            if begun is not None:
                begun.close()
            raise RuntimeError("no running event loop")
        self._is_plain = False
        self._worker = loop.create_task(self._work(begun, channel), name=f"callback {self.channel}")
        if begun is not None:  # the worker may be cancelled before it has begun
            self._worker.add_done_callback(lambda _: begun.close())

    async def _work(self, begun: Coroutine[Any, Any, object] | None, channel: str) -> None:
        """Do what was begun on a channel, then what waits.

        Of what a plain callback returns only a coroutine is awaited, as nothing else would run it: a task, a
        future or a delivery continues by itself.
        """
        result: object = begun
        while True:
            try:
                if inspect.iscoroutine(result) or (self._is_async and inspect.isawaitable(result)):
                    await result
                result = None
                if not (self._active and self._queue):
                    return
                message = self._queue.popleft()
                channel = message.channel
                result = self._callback(message)
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                result = None  # what the callback awaited was cancelled, and not this worker
                failed = RuntimeError("what the callback awaited was cancelled")
                failed.__cause__ = exc
                self._owner.callback_failed(channel, failed)
            except Exception as exc:
                result = None
                self._owner.callback_failed(channel, exc)
