"""One connection to Kafka, as ``MqttSession`` uses connections: a producer, and a reader without a group.

- Messages of one turn of the event loop are sent as one batch, and the next batch when it is acknowledged.
  So nothing waits inside aiokafka, which would send it again by itself, late. A batch that is not
  acknowledged in time ends the connection, before aiokafka tries it again.
- Every process reads whole topics, from their end at its first request. After a lost connection it continues
  at the same position, so messages that were written meanwhile are not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from heron_mqtt.errors import BrokerError, BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES
from heron_mqtt.messaging.kafka.names import log_of, pattern_of, topic_of
from heron_mqtt.messaging.mqtt.connection import Events
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.topics import matches

log = logging.getLogger("heron_mqtt.messaging")
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a line for each attempt; ours is one an outage

ACKNOWLEDGED_S = 4.0
AGAIN_MS = 10_000  # when aiokafka would try a failed request again: the connection has ended by then
READ_MS = 50
NEW_TOPICS_S = 0.5  # how soon topics that others make are found, where a filter may match them
RECEIVE_MAXIMUM = 500
MAX_ROUTES = 10_000


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """What a connection needs beside address and login.

    Attributes:
        servers: ``host:port`` of each server that is asked where the others are.
        sasl_mechanism: How to log in, where there is a user.
        partitions: Of topics that are made.
        replication_factor: Of topics that are made.
    """

    servers: tuple[str, ...]
    sasl_mechanism: str
    partitions: int
    replication_factor: int


@dataclass(slots=True)
class ReadState:
    """What outlives a connection: where reading continues, and which topics there were."""

    known: set[str] = field(default_factory=set)
    next_offsets: dict[TopicPartition, int] = field(default_factory=dict)
    closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def closed(self) -> None:
        """Wait until every connection that has ended is closed."""
        while self.closing:
            await asyncio.wait(self.closing)


class KafkaConnection:
    """One connection; ``open`` it once, then use it until ``lost`` is done."""

    def __init__(
        self, options: MqttOptions, events: Events, settings: KafkaSettings, state: ReadState
    ) -> None:
        self._options = options
        self._events = events
        self._settings = settings
        self._state = state
        self._loop = asyncio.get_running_loop()
        common = self._common()
        self._producer = AIOKafkaProducer(
            **common,
            acks="all",
            max_request_size=4 * MAX_PAYLOAD_BYTES,
            linger_ms=0,
            retry_backoff_ms=AGAIN_MS,
        )
        self._consumer = AIOKafkaConsumer(
            **common, group_id=None, enable_auto_commit=False, fetch_max_wait_ms=READ_MS
        )
        self._admin = AIOKafkaAdminClient(**common)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._batch: list[tuple[int, str, bytes]] = []
        self._sending = False
        self._resumes = bool(state.known)
        self._from_start: set[str] = set()  # topics that were made after a subscription to them
        self._filters: dict[str, None] = {}
        self._routes: dict[str, bool] = {}
        self._asked: list[tuple[int, list[str]]] = []
        self._changed = asyncio.Event()
        self.receive_maximum = RECEIVE_MAXIMUM
        self.has_limits = True
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done when the connection has ended; says why."""

    def _common(self) -> dict[str, Any]:
        options = self._options
        security = "SSL" if options.tls is not None else "PLAINTEXT"
        login: dict[str, Any] = {}
        if options.username:
            security = f"SASL_{security}"
            login = {
                "sasl_mechanism": self._settings.sasl_mechanism,
                "sasl_plain_username": options.username,
                "sasl_plain_password": options.password or "",
            }
        return {
            "bootstrap_servers": list(self._settings.servers),
            "client_id": options.client_id,
            "request_timeout_ms": int(1000 * ACKNOWLEDGED_S),
            "metadata_max_age_ms": 30_000,
            "security_protocol": security,
            "ssl_context": options.tls,
            **login,
        }

    # -- from the beginning to the end -------------------------------------------------------------

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: No answer in time, or the answer is not Kafka's.
            BrokerRefused: The server says no; the text says what to do.
        """
        address, limit = self._options.address, self._options.connect_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._producer.start()
                await self._admin.start()
                await self._consumer.start()
                found = set(await self._admin.list_topics())
                self._state.known = self._state.known & found if self._resumes else found
        except TimeoutError:
            self.abort()
            raise BrokerUnavailable(
                f"{address} does not answer as Kafka within {limit:g} s: check host and port, and that a "
                "server runs there"
            ) from None
        except (KafkaError, OSError) as exc:
            self.abort()
            raise self._failure(exc) from exc
        except BaseException:
            self.abort()
            raise
        self._begin(self._read(), "kafka read")
        self._begin(self._watch(), "kafka watch")

    def _failure(self, exc: Exception) -> BrokerError:
        address = self._options.address
        if isinstance(exc, SaslAuthenticationFailed):
            return BrokerRefused(
                f"{address} refuses name or password of user {self._options.username!r}: check username= and "
                "password= (or HERON_MQTT_USERNAME and HERON_MQTT_PASSWORD), and sasl_mechanism="
            )
        if isinstance(exc, KafkaConnectionError | OSError):
            return BrokerUnavailable(
                f"no answer as Kafka at {address} ({exc}): start a server there or correct the address"
            )
        return BrokerRefused(f"{address} refuses the connection: {exc}")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(self._until_it_fails(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_it_fails(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except (KafkaError, OSError, TimeoutError) as exc:
            self._end(f"{type(exc).__name__}: {exc}")
        except Exception as exc:
            log.debug("%s at %s failed", name, self._options.address, exc_info=exc)
            self._end(f"{name}: {type(exc).__name__}: {exc}")

    async def _watch(self) -> None:
        """See that the server is there, and which topics there are."""
        while not self.lost.done():
            wide = any(is_wide for _, is_wide in map(pattern_of, self._filters))
            await asyncio.sleep(NEW_TOPICS_S if wide else self._options.keepalive_s / 2)
            async with asyncio.timeout(self._options.keepalive_s):
                self._learn(await self._admin.list_topics(), is_new=True)

    def give_up(self, why: str) -> None:
        """End the connection because the server does not do its part; ``lost`` contains this reason."""
        self._end(why)

    def disconnect(self) -> None:
        """Close; what was sent is acknowledged, or given up by who waited for it."""
        self._end("closed")

    def abort(self) -> None:
        """Close at once."""
        self._end("aborted")

    def _end(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        current = asyncio.current_task() if asyncio.get_running_loop() is self._loop else None
        for task in self._tasks - {current}:
            task.cancel()
        closing = self._loop.create_task(self._close(), name="kafka close")
        self._state.closing.add(closing)
        closing.add_done_callback(self._state.closing.discard)

    async def _close(self) -> None:
        """End all of it; the producer without sending again what it still holds."""
        self._producer._closed = True  # or its end would complain that it was not stopped
        sender = self._producer._sender
        if sender is not None and sender.sender_task is not None:
            sender.sender_task.cancel()
        for stop in (self._producer.client.close, self._consumer.stop, self._admin.close):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ACKNOWLEDGED_S):
                    await stop()

    # -- sending -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether what is published now would go out at once; ``on_writable`` tells when it would again."""
        return not self.lost.done() and not self._sending

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None = None
    ) -> int:
        """Send a message; return the id that ``on_acknowledged`` will name, later."""
        number = next(self._ids)
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch.append((number, topic, payload))
        return number

    def refusal(self, topic: str, payload: bytes, *, retain: bool) -> str | None:
        """Return why the message cannot be sent, or None."""
        try:
            log_of(topic)
        except ValueError as exc:
            return str(exc)
        return None

    def _flush(self) -> None:
        if not self.lost.done() and self._batch:
            self._sending = True
            batch, self._batch = self._batch, []
            self._begin(self._send(batch), "kafka send")

    async def _send(self, batch: Sequence[tuple[int, str, bytes]]) -> None:
        async with asyncio.timeout(ACKNOWLEDGED_S):
            await self._make_topics({log_of(topic)[0] for _, topic, _ in batch})
            futures = []
            for _, topic, payload in batch:
                name, key = log_of(topic)
                futures.append(await self._producer.send(name, payload, key.encode()))
            results = await asyncio.gather(*futures, return_exceptions=True)
        self._sending = False
        for (number, _, _), result in zip(batch, results, strict=True):
            if isinstance(result, TopicAuthorizationFailedError):
                self._events.on_acknowledged(number, "Not authorized")
            elif isinstance(result, BaseException):
                raise KafkaError(f"a message was not taken: {result!r}")
            else:
                self._events.on_acknowledged(number, None)
        self._events.on_writable()

    async def _make_topics(self, names: set[str]) -> None:
        missing = sorted(names - self._state.known)
        if not missing:
            return
        made = [
            NewTopic(name, self._settings.partitions, self._settings.replication_factor) for name in missing
        ]
        answer = await self._admin.create_topics(made)
        for name, code, *_ in answer.topic_errors:
            if code not in {0, TopicAlreadyExistsError.errno}:
                raise KafkaError(f"topic {name} cannot be made: {for_code(code).__name__}")
        self._learn(missing, is_new=True)

    def _learn(self, names: Iterable[str], *, is_new: bool) -> None:
        """Take the names of the topics that there are; a new one is read from its beginning, if wanted."""
        fresh = set(names) - self._state.known
        self._state.known |= fresh
        if is_new:
            wanted = {name for name in fresh if self._wants_log(name)}
            self._from_start |= wanted
            if wanted:
                self._changed.set()

    # -- reading -----------------------------------------------------------------------------------

    def largest_subscribe(self, filters: list[str]) -> int:
        """Return how many of these filters to ask for at once: all of them."""
        return len(filters)

    def subscribe(self, filters: list[str]) -> int:
        """Subscribe; return the id that ``on_subscribed`` will name."""
        number = next(self._ids)
        self._filters.update(dict.fromkeys(filters))
        self._routes.clear()
        self._asked.append((number, filters))
        self._changed.set()
        return number

    def unsubscribe(self, filters: list[str]) -> None:
        """Unsubscribe."""
        for topic_filter in filters:
            self._filters.pop(topic_filter, None)
        self._routes.clear()
        self._changed.set()

    def _wants_log(self, name: str) -> bool:
        for topic_filter in self._filters:
            pattern, is_wide = pattern_of(topic_filter)
            if name.startswith(pattern) if is_wide else name == pattern:
                return True
        return False

    async def _read(self) -> None:
        while not self.lost.done():
            if self._changed.is_set():
                self._changed.clear()
                await self._assign()
            if not self._consumer.assignment():
                await self._changed.wait()
                continue
            records = await self._consumer.getmany(timeout_ms=READ_MS)
            for partition, found in records.items():
                for record in found:
                    self._state.next_offsets[partition] = record.offset + 1
                    self._take(record)

    async def _assign(self) -> None:
        """Read what the filters want, and nothing else; then answer who has asked."""
        asked, self._asked = self._asked, []
        if asked:  # what there was before they asked is not for them, unless they had asked before
            self._learn(await self._admin.list_topics(), is_new=self._resumes)
            await self._make_topics({n for n, is_wide in map(pattern_of, self._filters) if not is_wide})
        partitions = {
            partition
            for name in self._state.known
            if self._wants_log(name)
            for partition in await self._partitions(name)
        }
        if partitions != self._consumer.assignment():
            offsets = self._state.next_offsets
            for gone in set(offsets) - partitions:
                del offsets[gone]
            fresh = partitions - set(offsets)
            ends = await self._consumer.end_offsets(list(partitions)) if partitions else {}
            begins = await self._consumer.beginning_offsets(list(partitions)) if partitions else {}
            for partition in partitions:
                if partition not in fresh:  # a log may have been cut off, or begun again, meanwhile
                    if not begins[partition] <= offsets[partition] <= ends[partition]:
                        offsets[partition] = begins[partition]
                elif partition.topic in self._from_start:
                    offsets[partition] = begins[partition]
                else:
                    offsets[partition] = ends[partition]
            self._from_start -= {p.topic for p in partitions}
            if partitions:
                self._consumer.assign(sorted(partitions))
                for partition in partitions:
                    self._consumer.seek(partition, offsets[partition])
            else:
                self._consumer.unsubscribe()
        for number, filters in asked:
            self._events.on_subscribed(number, [None] * len(filters))

    async def _partitions(self, name: str) -> list[TopicPartition]:
        """Return the partitions of a topic, which the consumer may not have heard of yet."""
        async with asyncio.timeout(ACKNOWLEDGED_S):
            while True:
                found = await self._producer.partitions_for(name)
                if found:
                    return [TopicPartition(name, n) for n in sorted(found)]
                await asyncio.sleep(0.05)

    def _take(self, record: ConsumerRecord[Any, Any]) -> None:
        try:
            topic = topic_of(record.topic, (record.key or b"").decode())
        except UnicodeDecodeError:
            self._events.on_bad_topic(f"{record.topic}: {record.key!r}")
            return
        wanted = self._routes.get(topic)
        if wanted is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            wanted = self._routes[topic] = any(matches(f, topic) for f in self._filters)
        payload = record.value or b""
        if not wanted:
            return
        if len(payload) > MAX_PAYLOAD_BYTES:
            self._events.on_oversized(topic, len(payload))
        else:
            self._events.on_message(topic, payload, False)
