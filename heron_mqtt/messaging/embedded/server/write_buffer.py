"""Bytes out: collected for one turn of the event loop, and bounded for clients that do not read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from heron_mqtt.messaging.embedded.net.transports import WRITE_HIGH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from heron_mqtt.messaging.embedded.net.transports import Transport
    from heron_mqtt.messaging.embedded.options import Limits
    from heron_mqtt.messaging.embedded.server.session import ClientSession
    from heron_mqtt.messaging.embedded.stats import BrokerStats

_CLOSE_TIMEOUT_S = 1.0  # for the last bytes (a refusal) to leave before the connection is cut
_MAX_ANSWER_BYTES = 1 << 20  # of acknowledgements that a client asks for and does not read


class WriteBuffer:
    """The sending half of a connection.

    Messages are only sent while the client keeps up (`writable`); otherwise they wait in its session,
    which is bounded. What the client itself asked for (acknowledgements, redeliveries) is always sent.

    Args:
        transport: Where the bytes go.
        limits: How long a client may take no byte, how much may wait for it.
        stats: Counts.
        flush_soon: Has `flush` called at the end of this turn of the event loop.
    """

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        stats: BrokerStats,
        flush_soon: Callable[[WriteBuffer], None],
    ) -> None:
        self.session: ClientSession | None = None
        self.writable = True
        self.ended = False
        self.transport = transport
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._flush_soon = flush_soon
        self._stall_timeout_s = limits.stall_timeout_s
        self._max_unsent_bytes = limits.max_queued_bytes + _MAX_ANSWER_BYTES
        self._out: list[bytes] = []
        self.collected_bytes = 0
        """What `flush` will hand to the link."""
        self._flush_due = False
        self._stall_timer: asyncio.TimerHandle | None = None

    def end(self, reason: str, *, will: bool, abort: bool = False, detail: str = "") -> None:
        """End the connection."""
        raise NotImplementedError

    def send(self, *parts: bytes) -> None:
        """Send bytes when this turn of the event loop ends, together with what else goes to the client."""
        self._out += parts
        for part in parts:
            self.collected_bytes += len(part)
        if self.collected_bytes > WRITE_HIGH_BYTES:
            self.writable = False
        if not self._flush_due:
            self._flush_due = True
            self._flush_soon(self)

    def flush(self) -> None:
        """Hand what was collected to the link, then whatever waits in the session's queue."""
        self._flush_due = False
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self.collected_bytes = 0
            self._stats.bytes_sent += len(data)
            self.transport.write(data)
        if self.ended:
            return
        if self.transport.paused:
            self.writable = False
            if self.transport.unsent() > self._max_unsent_bytes:
                self.end_soon("more than it may leave unread")
            return
        self.writable = True
        if self.session is not None:
            self.session.go_on()

    def writing_paused(self) -> None:
        """Let messages wait in the session until the client reads again, but not for ever."""
        self.writable = False
        if self._stall_timer is None and not self.ended:
            self._watch_stall(self.transport.unsent())

    def writing_resumed(self) -> None:
        """Continue sending."""
        if self.ended:
            return
        self.stop_watching()
        if not self._flush_due:
            self.writable = True
            if self.session is not None:
                self.session.go_on()

    def end_soon(self, detail: str) -> None:
        """End the connection of a client that does not read, after the current message is through."""
        if not self.ended:
            self.writable = False
            self._loop.call_soon(self._end_slow, detail)

    def close_link(self, *, abort: bool) -> None:
        """Close now, or after what was collected has been sent, but within 1 s."""
        self.stop_watching()
        if abort:
            self._out.clear()
            self.transport.abort()
        else:
            self.flush()
            self.transport.close()
            self._stall_timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self.transport.abort)

    def stop_watching(self) -> None:
        """Cancel what would cut the connection later."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _watch_stall(self, unsent: int) -> None:
        self._stall_timer = self._loop.call_later(self._stall_timeout_s, self._on_stall, unsent)

    def _on_stall(self, unsent_before: int) -> None:
        self._stall_timer = None
        unsent = self.transport.unsent()
        if unsent < unsent_before:
            self._watch_stall(unsent)
        else:
            self._end_slow(f"{unsent} bytes wait for it and it took none in {self._stall_timeout_s:g} s")

    def _end_slow(self, detail: str) -> None:
        if not self.ended:
            self._stats.slow_readers += 1
            self.end("slow_reader", will=True, abort=True, detail=detail)
