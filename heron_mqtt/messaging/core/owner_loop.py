"""The event loop that a broker lives in, and the way into it from any thread and loop."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from heron_mqtt.errors import BrokerClosed, HeronError
from heron_mqtt.messaging.core.background_loop import background_loop, running_loop
from heron_mqtt.messaging.core.delivery import Delivery

T = TypeVar("T")

EXIT_S = 3.0  # how long the end of the interpreter waits for close()


class OwnerLoop:
    """The home loop of one broker.

    Args:
        name: The broker, for messages.
        start: Called in the home loop before whatever begins there; begins to connect if needed.
        close: Called at interpreter exit if the home is the background loop: a script that ends
            without closing still delivers what it published.
    """

    def __init__(
        self, name: str, start: Callable[[], object], close: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.closed = False
        self.starts_by_itself = True
        """Whether it may begin in the background loop, without ``connect``."""
        self._name = name
        self._start = start
        self._close = close
        self._lock = threading.Lock()  # of loop and closed

    def bind(self) -> bool:
        """Make the running loop the home if there is none; return whether it was made so."""
        with self._lock:
            self._check()
            if self.loop is not None:
                return False
            self.loop = asyncio.get_running_loop()
            return True

    def unbind(self) -> None:
        """Have no home again: connecting failed."""
        with self._lock:
            self.loop = None

    def acquire(self) -> asyncio.AbstractEventLoop:
        """Return the home loop; the background loop becomes it if there was none.

        Raises:
            BrokerClosed: The broker is closed, or its loop has ended.
        """
        with self._lock:
            self._check()
            if self.loop is None:
                if not self.starts_by_itself:
                    raise BrokerClosed(
                        f"{self._name} is not started: await connect() first, or use async with"
                    )
                self.loop = background_loop()
                atexit.register(self._at_exit)
            return self.loop

    def close(self) -> None:
        """Refuse every further use. Idempotent."""
        with self._lock:
            self.closed = True
        atexit.unregister(self._at_exit)

    def is_current(self) -> bool:
        """Whether the caller runs in the home loop."""
        return self.loop is not None and self.loop is running_loop()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the home loop and return its result."""
        if self.loop is None or self.loop is running_loop():
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the home loop, now or soon; calls keep their order."""
        if self.loop is None or self.loop is running_loop():
            function(*args)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *args)

    def begin(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., asyncio.Future[Any]], *args: object
    ) -> Delivery:
        """Begin something in the home loop; what is begun first happens first."""
        if loop is running_loop():
            self._start()
            return Delivery(function(*args))
        outcome: asyncio.Future[None] = loop.create_future()
        loop.call_soon_threadsafe(self._begin_there, outcome, function, args)
        return Delivery(outcome)

    def _begin_there(
        self,
        outcome: asyncio.Future[None],
        function: Callable[..., asyncio.Future[Any]],
        args: tuple[object, ...],
    ) -> None:
        try:
            if not self.closed:
                self._start()
        except HeronError as exc:  # it cannot even begin
            if not outcome.done():
                outcome.set_exception(exc)
                outcome.exception()
            return
        function(*args).add_done_callback(lambda done: _copy(done, outcome))

    def _check(self) -> None:
        if self.closed:
            raise BrokerClosed(f"{self._name} is closed")
        if self.loop is not None and self.loop.is_closed():
            raise BrokerClosed(
                f"the event loop in which {self._name} was connected has ended; "
                f"close the broker before its loop ends, and make a new one"
            )

    def _at_exit(self) -> None:
        if self.loop is None or self.loop.is_closed():
            return
        closing = asyncio.run_coroutine_threadsafe(self._close(), self.loop)
        try:
            closing.result(EXIT_S)
        except FutureTimeoutError:  # a callback blocks the loop: the interpreter must end all the same
            closing.cancel()


def _copy(done: asyncio.Future[Any], outcome: asyncio.Future[None]) -> None:
    if outcome.done():
        return
    if done.cancelled():
        outcome.cancel()
    elif (exc := done.exception()) is not None:
        outcome.set_exception(exc)
        outcome.exception()  # it is reported already
    else:
        outcome.set_result(None)
