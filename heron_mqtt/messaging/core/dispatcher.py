"""From an arriving payload to the callbacks and mailboxes that want it; shared by every broker."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import Message
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES, READ_AS_WRITTEN, Json, decode
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.core.sequence import Arrival, SequenceStream, SequenceTracker
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.core.subscription import (
    MAX_CHANNELS,
    MAX_QUEUE,
    Arrived,
    Callback,
    Received,
    Subscription,
)
from heron_mqtt.messaging.tap import ArrivalKind, MessageTap

UNASKED = 16  # messages kept for a first consume() on a channel that so far only had callbacks


class _Decoded(NamedTuple):
    """A payload, what it holds, and what that has been validated as; none of it is written to."""

    payload: bytes
    message: Json
    models: dict[type[Message], Message]


_last_decoded: _Decoded | None = None
"""The last flat one of this process on ``run/...``, which comes to each of its brokers, one after the other.

With nothing nested in it no receiver can change what the others get.
"""
MAX_SHARED_BYTES = 4096


class _Mailbox:
    """Messages of one channel that wait for ``consume``, and consumers that wait for messages."""

    def __init__(self) -> None:
        self.messages: deque[Received] = deque()
        self.waiters: deque[asyncio.Future[Received]] = deque()
        self.asked = False
        self.unasked: deque[tuple[Json | bytes, bool]] = deque(maxlen=UNASKED)
        """The last messages, and whether each was retained, until the first ``consume``.

        As payloads where they came as such: objects would take half as much memory again.
        """


class _ChannelCache:
    """What is cached of one channel that messages came on, so that each of them looks for it only once.

    Attributes:
        subscriptions: Those that match; None = to be looked up, as they may have changed.
        mailbox: None = it had none at the last look.
        stream: That its last message belongs to, with its ``sender`` and ``boot``; None = of none.
    """

    __slots__ = ("boot", "mailbox", "sender", "stream", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: tuple[Subscription, ...] | None = None
        self.mailbox: _Mailbox | None = None
        self.sender = self.boot = ""
        self.stream: SequenceStream | None = None

    def is_of(self, sender: object, boot: object) -> bool:
        """Whether the last message belonged to a stream of this sender and boot."""
        return self.stream is not None and self.sender == sender and self.boot == boot


@dataclass(slots=True)
class ChannelTrouble:
    """Messages of one channel that came twice or never."""

    duplicated: int = 0
    lost: int = 0


class Dispatcher:
    """Subscriptions, mailboxes, duplicate removal and counters of one broker. Safe to call from any thread.

    Args:
        max_payload: Bytes; a larger payload is rejected.
        max_queue: Messages that may wait for one async callback or one consumer.
        stats: Its counters and reports; new ones if left out.
        keeps_all: Keep the last few messages of every channel, also without a ``consume``.
        on_removed: Called with the channel or filter of each subscription that has ended.
        on_ended: Called with the subscription itself.
    """

    def __init__(
        self,
        *,
        max_payload: int = MAX_PAYLOAD_BYTES,
        max_queue: int = MAX_QUEUE,
        stats: MessageStats | None = None,
        keeps_all: bool = False,
        on_removed: Callable[[str], None] = lambda _: None,
        on_ended: Callable[[Subscription], None] = lambda _: None,
    ) -> None:
        self.stats = MessageStats() if stats is None else stats
        self.on_removed = on_removed
        self.on_ended = on_ended
        self.tap: MessageTap | None = None
        self._tracker = SequenceTracker()
        self._max_payload = max_payload
        self._max_queue = max_queue
        self._keeps_all = keeps_all
        self._lock = threading.RLock()
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._wide: dict[str, None] = {}  # filters with wildcards among them: the only ones to search
        self._channels: dict[str, _ChannelCache] = {}
        self._routed: list[_ChannelCache] = []  # of these, the ones whose subscriptions are known
        self._troubled: dict[str, ChannelTrouble] = {}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._foreign: dict[str, Json] = {}  # the last message of each channel that has no sequence

    # -- subscriptions -----------------------------------------------------------------------------

    def add(self, channel: str, callback: Callback) -> Subscription:
        """Register a callback for a channel or filter."""
        topics.check_filter(channel)
        subscription = Subscription(self, channel, callback, self._max_queue)
        with self._lock:
            self._subscriptions.setdefault(channel, []).append(subscription)
            self._forget_routes()
            if topics.is_filter(channel):
                self._wide[channel] = None
            else:
                self._mailboxes.setdefault(channel, _Mailbox())
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        with self._lock:
            held = self._subscriptions.get(subscription.channel, [])
            if subscription in held:
                held.remove(subscription)
            if not held:
                self._subscriptions.pop(subscription.channel, None)
                self._wide.pop(subscription.channel, None)
            self._forget_routes()
        self.on_removed(subscription.channel)
        self.on_ended(subscription)

    def wanted(self) -> set[str]:
        """Return every channel and filter with a subscription or ``consume``."""
        with self._lock:
            return set(self._subscriptions) | {c for c, box in self._mailboxes.items() if box.asked}

    def wants(self, channel: str) -> bool:
        """Whether exactly this channel or filter has a subscription or ``consume``."""
        with self._lock:
            box = self._mailboxes.get(channel)
            return channel in self._subscriptions or (box is not None and box.asked)

    def is_read(self, channel: str) -> bool:
        """Whether a channel has a subscription, by whatever filter, or ``consume``."""
        with self._lock:
            box = self._mailboxes.get(channel)
            return bool(self.subscriptions(channel)) or (box is not None and box.asked)

    def subscriptions(self, channel: str) -> tuple[Subscription, ...]:
        """Return the subscriptions that match a channel."""
        with self._lock:
            cached = self._channels.get(channel) or self._cache(channel)
            found = cached.subscriptions
            if found is None:
                wide = [f for f in self._wide if topics.matches(f, channel)]
                found = tuple(s for f in (channel, *wide) for s in self._subscriptions.get(f, ()))
                cached.subscriptions = found
                self._routed.append(cached)
            return found

    def _forget_routes(self) -> None:
        """Look up again who wants what: subscriptions have changed."""
        for cached in self._routed:
            cached.subscriptions = None
        self._routed.clear()

    def _cache(self, channel: str) -> _ChannelCache:
        """Begin the cache of a channel; of too many, those of all others are dropped.

        A stream whose messages are taken without asking the tracker is handed back to it before it is left:
        the tracker forgets those that it has not heard of for longest.
        """
        if len(self._channels) >= MAX_CHANNELS + len(self._subscriptions):  # the network names some of them
            for name, known in self._channels.items():
                if known.stream is not None:
                    self._tracker.keep(known.sender, known.boot, name, known.stream)
            self._channels.clear()
            self._routed.clear()
        cached = self._channels[channel] = _ChannelCache()
        return cached

    # -- arrival -----------------------------------------------------------------------------------

    def arrive(
        self, channel: str, payload: bytes, *, retained: bool = False, topic: str = "", late: bool = False
    ) -> None:
        """Take one payload from the transport: decode, remove duplicates, count, hand over.

        A payload that does not parse is counted and reported with its topic; nothing else happens. ``late``:
        see ``Received``.
        """
        global _last_decoded  # noqa: PLW0603 - a cache of one
        last = _last_decoded
        if last is not None and payload == last.payload and len(payload) <= self._max_payload:
            message, models = last.message, last.models
        else:
            models = {}
            try:
                message = decode(payload, self._max_payload)
            except MessageError as exc:
                self.refuse(channel, exc, topic=topic, retained=retained)
                return
            is_for_all = channel.startswith("run/") and len(payload) <= MAX_SHARED_BYTES
            if is_for_all and READ_AS_WRITTEN.issuperset(map(type, message.values())):
                _last_decoded = _Decoded(payload, message, models)
        self.hand_on(channel, message, retained=retained, payload=payload, late=late, models=models)

    def refuse(self, channel: str, error: MessageError, *, topic: str = "", retained: bool = False) -> None:
        """Count and report a payload that does not parse."""
        self.stats.reject(topic or channel, str(error))
        if channel in topics.ALWAYS_DELIVERED:
            self.arrive_malformed(channel, str(error), retained=retained)

    def arrive_malformed(self, channel: str, why: str, *, retained: bool = False) -> None:
        """Hand on that something came which could not be decoded."""
        here = running_loop()
        for subscription in self.subscriptions(channel):
            subscription.deliver(Received({}, channel, retained, malformed=why), here)

    def arrive_decoded(
        self,
        channel: str,
        message: Json,
        *,
        retained: bool = False,
        payload: bytes | None = None,
        late: bool = False,
    ) -> None:
        """Take one message that is already decoded; see ``arrive``."""
        if isinstance(message, Received):  # another broker handed it on
            if message.malformed is not None:
                self.stats.received += 1
                self.arrive_malformed(channel, message.malformed, retained=retained)
                return
            late = late or message.late
        self.hand_on(channel, message, retained=retained, payload=payload, late=late)

    def hand_on(
        self,
        channel: str,
        message: Json,
        *,
        retained: bool = False,
        payload: bytes | None = None,
        late: bool = False,
        models: dict[type[Message], Message] | None = None,
    ) -> None:
        """Take one message that was decoded here: remove duplicates, count, hand over; see ``arrive``.

        ``models``: what it has been validated as, to which more may be added; None = nothing yet.
        """
        stats = self.stats
        stats.received += 1
        lock = self._lock
        lock.acquire()  # for each message: ``with`` looks for two methods of the lock each time
        try:
            cached = self._channels.get(channel) or self._cache(channel)
            # nearly every message is the one after the last on its channel
            stream, seq = cached.stream, message.get("seq")
            if (
                stream is not None
                and type(seq) is int
                and seq == stream.expected
                and message.get("sender") == cached.sender
                and message.get("boot") == cached.boot
            ):
                stream.expected = seq + 1
                known = False
            else:
                known = self._is_known(channel, cached, message, retained)
            if known and channel in topics.ALWAYS_DELIVERED:
                known = False
            if self.tap is not None:
                is_late = late or message.get("held_s") is not None
                kind: ArrivalKind = "repeated" if known else "late" if is_late else "new"
                self.tap.arrived(channel, message, payload, retained, kind)
            asked = False
            if not known:
                box = cached.mailbox or self._mailbox_of(channel, cached)
                if box is not None and not (asked := box.asked):
                    box.unasked.append((message if payload is None else payload, retained))
            elif not retained:
                stats.duplicated += 1
                self._troubled.setdefault(channel, ChannelTrouble()).duplicated += 1
                return
            subscriptions = cached.subscriptions
        finally:
            lock.release()
        if subscriptions is None:
            subscriptions = self.subscriptions(channel)
        if models is None:
            models = {}
        here = running_loop()
        for subscription in subscriptions:
            received = Arrived(message)
            received._payload, received._models, received.channel = message, models, channel
            received.retained, received.late, received.malformed = retained, late, None
            subscription.deliver(received, here, known)
        if asked:
            self._to_mailbox(channel, Received(message, channel, retained, late=late))

    def replay(self, subscription: Subscription, message: Received) -> None:
        """Deliver a retained message to one subscription alone, for which it came."""
        self.stats.received += 1
        subscription.deliver(Received(message, message.channel, retained=True), running_loop())

    def _mailbox_of(self, channel: str, cached: _ChannelCache) -> _Mailbox | None:
        """Return a channel's mailbox, if it has one or gets one now, and cache it."""
        box = self._mailboxes.get(channel)
        if box is None and self._keeps_all and len(self._mailboxes) < MAX_CHANNELS:
            box = self._mailboxes[channel] = _Mailbox()
        cached.mailbox = box
        return box

    def _is_known(self, channel: str, cached: _ChannelCache, message: Json, retained: bool) -> bool:
        """Whether a message has come before; it is not just the next of the stream that is followed."""
        sender, boot, seq = message.get("sender"), message.get("boot"), message.get("seq")
        if cached.stream is not None and cached.is_of(sender, boot):
            self._tracker.keep(cached.sender, cached.boot, channel, cached.stream)
        if type(seq) is not int or not isinstance(sender, str) or not isinstance(boot, str):
            # A foreign message: nothing to go by. Only a retained one that equals the last is no news.
            known = retained and self._foreign.get(channel) == message
            if len(self._foreign) >= MAX_CHANNELS:
                self._foreign.clear()
            self._foreign[channel] = message
            return known
        lost_before = self._tracker.lost
        arrival = self._tracker.observe(sender, boot, channel, seq)
        self._follow(channel, cached, sender, boot)
        if arrival is Arrival.EXPECTED:
            return False
        if self._tracker.lost != lost_before:
            self.stats.lost = self._tracker.lost
            if len(self._troubled) >= MAX_CHANNELS:
                self._troubled.clear()
            trouble = self._troubled.setdefault(channel, ChannelTrouble())
            trouble.lost += self._tracker.lost - lost_before
        if arrival is Arrival.AFTER_GAP:
            self.stats.report("gap", channel, f"messages of {sender} before seq {seq} have not arrived")
        elif arrival is Arrival.AFTER_JUMP:
            self.stats.report("gap", channel, f"{sender} jumped to seq {seq}: it does not count by one")
        return arrival is Arrival.DUPLICATE

    def _follow(self, channel: str, cached: _ChannelCache, sender: str, boot: str) -> None:
        """Remember the stream of a channel's last message: the next one is likely to go on with it."""
        stream = self._tracker.stream(sender, boot, channel)
        if cached.stream is not None and not cached.is_of(sender, boot):
            self._tracker.keep(cached.sender, cached.boot, channel, cached.stream)
        if stream is not None:
            cached.sender, cached.boot, cached.stream = sender, boot, stream

    def trouble(self, channel: str) -> ChannelTrouble:
        """Return what went wrong on one channel so far."""
        return self._troubled.get(channel, ChannelTrouble())

    # -- consume -----------------------------------------------------------------------------------

    def _to_mailbox(self, channel: str, message: Received) -> None:
        with self._lock:
            box = self._mailboxes.get(channel)
            if box is None:
                return
            while box.waiters:
                waiter = box.waiters.popleft()
                if not waiter.done() and self._resolve(waiter, message):
                    return
            if len(box.messages) >= self._max_queue:
                box.messages.popleft()
                self.overflow(channel, f"{self._max_queue} messages wait for consume()")
            box.messages.append(message)

    def _resolve(self, waiter: asyncio.Future[Received], message: Received) -> bool:
        """Give a waiting consumer its message; False if its loop is gone."""
        loop = waiter.get_loop()
        if loop is running_loop():
            waiter.set_result(message)
            return True
        if loop.is_closed():
            return False

        def resolve() -> None:
            if waiter.done():  # cancelled in the meantime: the message is for the next one
                self._to_mailbox(message.channel, message)
            else:
                waiter.set_result(message)

        loop.call_soon_threadsafe(resolve)
        return True

    def listen(self, channel: str) -> None:
        """Keep messages of a channel for ``consume`` from now on."""
        topics.check_channel(channel)
        with self._lock:
            box = self._mailboxes.setdefault(channel, _Mailbox())
            if not box.asked:
                box.asked = True
                for told, kept in box.unasked:
                    message = decode(told, self._max_payload) if isinstance(told, bytes) else told
                    box.messages.append(Received(message, channel, kept))
                box.unasked.clear()

    async def take(self, channel: str) -> Received:
        """Return the oldest message of a channel that was not consumed, or wait for one."""
        self.listen(channel)
        with self._lock:
            box = self._mailboxes[channel]
            if box.messages:
                return box.messages.popleft()
            waiter: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
            box.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            with self._lock:
                if waiter.done() and not waiter.cancelled():  # arrived in the same moment: not lost
                    box.messages.appendleft(waiter.result())
                elif waiter in box.waiters:
                    box.waiters.remove(waiter)
            raise

    # -- reports -----------------------------------------------------------------------------------

    def overflow(self, channel: str, what: str) -> None:
        """Count and report a message dropped because a bounded queue is full."""
        self.stats.overflowed += 1
        self.stats.report("overflow", channel, f"{what}; the oldest was dropped")

    def callback_failed(self, channel: str, exc: Exception) -> None:
        """Count and report an exception that a callback raised."""
        self.stats.callback_errors += 1
        self.stats.report("callback", channel, f"{type(exc).__name__}: {exc}", exc=exc)

    def clear(self) -> None:
        """End every subscription and cancel every consumer."""
        with self._lock:
            held = [s for subs in self._subscriptions.values() for s in subs]
            waiters = [w for box in self._mailboxes.values() for w in box.waiters]
            self._mailboxes.clear()
            for cached in self._channels.values():
                cached.mailbox = None
        for subscription in held:
            subscription()
        for waiter in waiters:
            if not waiter.get_loop().is_closed():
                waiter.get_loop().call_soon_threadsafe(waiter.cancel)
