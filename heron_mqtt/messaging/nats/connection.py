"""One connection to a NATS server, from CONNECT to its end, as ``MqttSession`` uses connections.

nats-py makes the connection (addresses, TLS, login), reads and parses. Three things are done here instead.
They use its private names, so its version is pinned:

- A message is passed on when it is read. nats-py has a queue and a task for each subscription, which would
  lose the order between them.
- Messages of one turn of the event loop are sent in one write with a PING behind them.
- The PONG confirms all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import ssl
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.protocol import command

from heron_mqtt.errors import BrokerError, BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES
from heron_mqtt.messaging.mqtt.connect_errors import no_answer
from heron_mqtt.messaging.mqtt.connection import Events
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.nats_subjects import (
    MAX_SUBJECT_BYTES,
    SubscriptionTable,
    subject_of,
    subjects_of,
    topic_of,
)
from heron_mqtt.messaging.urls import SECURE

log = logging.getLogger("heron_mqtt.messaging")

RECEIVE_MAXIMUM = 65_535  # a server names no limit of messages that it has not confirmed
FILTERS_AT_ONCE = 1_000
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


@dataclass(slots=True)
class _Batch:
    """What one PING stands behind: confirmed, all of it, by the PONG."""

    published: list[tuple[int, str]] = field(default_factory=list)  # id, subject
    subscribed: list[tuple[int, list[tuple[str, ...]]]] = field(default_factory=list)  # id, subjects
    ending: list[int] = field(default_factory=list)  # numbers of subscriptions
    ended: list[int] = field(default_factory=list)  # the same, one PONG later


class _DirectClient(Client):
    """nats-py's client, which hands each message over as it is read."""

    connection: NatsConnection

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.connection.take(sid, subject, data)


class NatsConnection:
    """One connection; ``open`` it once, then use it until ``lost`` is done.

    Args:
        options: Of one server.
        events: Told of what arrives and what is confirmed.
        will: None: core NATS has no last will.
    """

    def __init__(self, options: MqttOptions, events: Events, will: LastWill | None) -> None:
        assert will is None, "core NATS has no last will"
        self._options = options
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._client = _DirectClient()
        self._client.connection = self
        self._table = SubscriptionTable()
        self._held: dict[str, list[tuple[int, str]]] = {}  # topic filter -> number and subject of each
        self._ids = itertools.count(1)
        self._sids = itertools.count(1)
        self._lines: list[bytes] = []  # to go out with the next flush
        self._batch = _Batch()
        self._denied: dict[str, set[str]] = {"publish": set(), "subscription": set()}  # lower-case subjects
        self._connect_error: Exception | None = None
        self._draining: asyncio.Task[None] | None = None
        self.receive_maximum = RECEIVE_MAXIMUM
        self.has_limits = True
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done when the connection has ended; says why."""

    # -- from CONNECT to the end -------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and wait for the server's answer.

        Raises:
            BrokerUnavailable: No answer in time, or the answer is not NATS.
            BrokerRefused: The server says no; the text says what to do.
        """
        address, limit = self._options.address, self._options.connect_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._connect()
        except TimeoutError:
            self.abort()
            raise BrokerUnavailable(
                f"{address} does not answer as a NATS server within {limit:g} s: check host and port, and "
                "that a NATS server runs there"
            ) from None
        except (OSError, nats.errors.Error, ValueError) as exc:
            self.abort()
            raise self._failure(self._connect_error or exc) from exc
        except BaseException:
            self.abort()
            raise
        if self._options.scheme in SECURE and not self._is_encrypted():
            self.abort()
            raise BrokerRefused(f"{address} offers no TLS: use nats://, or have the server use TLS")
        reading = self._client._reading_task
        assert reading is not None
        reading.add_done_callback(self._on_reading_ended)

    async def _connect(self) -> None:
        options = self._options
        host = f"[{options.host}]" if ":" in options.host else options.host
        tls: dict[str, Any] = {}
        if options.tls is not None:
            tls = {"tls": options.tls, "tls_hostname": options.server_name or options.host}
        await self._client.connect(
            f"nats://{host}:{options.port}",
            error_cb=self._on_error,
            name=options.client_id,
            allow_reconnect=False,  # reconnecting is the session's
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, round(options.connect_timeout_s)),
            ping_interval=options.keepalive_s,
            max_outstanding_pings=1,
            user=options.username,
            password=options.password,
            **tls,
        )
        transport = self._writer().transport
        transport.set_write_buffer_limits(high=0)  # drain() waits until the system has taken everything

    def _failure(self, exc: Exception) -> BrokerError:
        address, text = self._options.address, str(exc).lower()
        user = f"user {self._options.username!r}" if self._options.username else "a client without user name"
        if "authorization" in text or "authentication" in text:
            return BrokerRefused(
                f"{address} refuses {user}: check username= and password= (or HERON_MQTT_USERNAME and "
                "HERON_MQTT_PASSWORD)"
            )
        if isinstance(exc, ssl.SSLCertVerificationError):
            return BrokerRefused(
                f"the certificate of {address} is not trusted ({exc.verify_message}): pass ca= (or set "
                "SSL_CERT_FILE) with the CA that signed it, and connect by the name in the certificate"
            )
        if isinstance(exc, ssl.SSLError):
            return BrokerUnavailable(f"{address} does not complete the TLS handshake ({exc.reason or exc})")
        if isinstance(exc, ValueError) or "info" in text or "empty response" in text:
            return BrokerUnavailable(f"what answers at {address} is no NATS server: check host and port")
        if isinstance(exc, OSError):
            return no_answer(address, exc, "a NATS server")
        return BrokerRefused(f"{address} refuses the connection: {exc}")

    async def _on_error(self, exc: Exception) -> None:
        """Take an error from nats-py: of connecting, or that a right is missing."""
        violation = _VIOLATION.search(str(exc))
        if violation is not None:
            self._denied[violation[1]].add(violation[2])
        else:
            self._connect_error = exc
            log.debug("nats %s: %r", self._options.address, exc)

    def _on_reading_ended(self, _: object) -> None:
        why = self._client.last_error
        self._end(str(why).removeprefix("nats: ") if why is not None else "the server has ended it")

    def give_up(self, why: str) -> None:
        """End the connection because the server does not do its part; ``lost`` contains this reason."""
        self._end(why)

    def disconnect(self) -> None:
        """Close, after what was sent before."""
        if not self.lost.done():
            self._flush()
        self._end("closed", gently=True)

    def abort(self) -> None:
        """Close at once."""
        self._end("aborted")

    def _end(self, why: str, *, gently: bool = False) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        client = self._client
        for task in (
            client._reading_task,
            client._ping_interval_task,
            client._flusher_task,
            self._draining,
        ):
            if task is not None:
                task.cancel()
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.close() if gently else writer.transport.abort()
        client._status = Client.CLOSED

    def _writer(self) -> asyncio.StreamWriter:
        writer: asyncio.StreamWriter = self._client._transport._io_writer  # type: ignore[union-attr]
        return writer

    def _is_encrypted(self) -> bool:
        return self._writer().get_extra_info("ssl_object") is not None

    # -- sending -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the server reads what is sent; ``on_writable`` tells when it does so again."""
        return not self.lost.done() and self._draining is None

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None = None
    ) -> int:
        """Send a message; return the id that ``on_acknowledged`` will name, later."""
        subject, number = subject_of(topic), next(self._ids)
        self._batch.published.append((number, subject))
        self._send(command.pub_cmd(subject, "", payload))
        return number

    def refusal(self, topic: str, payload: bytes, *, retain: bool) -> str | None:
        """Return why the server would not take a message, or None."""
        most = self._client.max_payload
        if len(payload) > most:
            return f"{len(payload)} bytes are over the server's limit of {most} (max_payload)"
        if len(topic) > MAX_SUBJECT_BYTES // 4 and len(subject_of(topic).encode()) > MAX_SUBJECT_BYTES:
            return f"its subject would be longer than {MAX_SUBJECT_BYTES} bytes"
        return None

    def largest_subscribe(self, filters: list[str]) -> int:
        """Return how many of these filters to ask for at once."""
        return min(len(filters), FILTERS_AT_ONCE)

    def subscribe(self, filters: list[str]) -> int:
        """Subscribe; return the id that ``on_subscribed`` will name."""
        number, asked = next(self._ids), []
        for topic_filter in filters:
            subjects = subjects_of(topic_filter)
            asked.append(subjects)
            if topic_filter in self._held:
                continue  # nothing is kept that could be sent again
            self._held[topic_filter] = []
            for subject in subjects:
                sid = next(self._sids)
                self._held[topic_filter].append((sid, subject))
                self._table.add(sid, subject)
                self._send(command.sub_cmd(subject, "", sid))
        self._batch.subscribed.append((number, asked))
        self._send(b"")
        return number

    def unsubscribe(self, filters: list[str]) -> None:
        """Unsubscribe."""
        for topic_filter in filters:
            for sid, subject in self._held.pop(topic_filter, ()):
                self._table.end(sid, subject)
                self._batch.ending.append(sid)
                self._send(command.unsub_cmd(sid, 0))

    def _send(self, line: bytes) -> None:
        if not self._lines:
            self._loop.call_soon(self._flush)  # one write for all that is sent until then
        self._lines.append(line)

    def _flush(self) -> None:
        if self.lost.done() or not self._lines:
            return
        self._lines.append(b"PING\r\n")
        lines, self._lines = self._lines, []
        batch, self._batch = self._batch, _Batch()
        answered: asyncio.Future[bool] = self._loop.create_future()
        answered.add_done_callback(lambda _: self._on_confirmed(batch))
        self._client._pongs.append(answered)
        writer = self._writer()
        writer.write(b"".join(lines))
        if self._draining is None and writer.transport.get_write_buffer_size() > 0:
            self._draining = self._loop.create_task(self._drain(writer), name="nats drain")

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.drain()
        except OSError as exc:
            self._end(str(exc))
            return
        finally:
            self._draining = None
        self._events.on_writable()

    # -- receiving ---------------------------------------------------------------------------------

    def take(self, number: int, subject: bytes, payload: bytes) -> None:
        """Hand over a message, if this copy of it is the one that counts; never raises."""
        try:
            name = subject.decode()
        except UnicodeDecodeError:
            self._events.on_bad_topic(repr(subject))
            return
        if self.lost.done() or not self._table.brings(number, name):
            return
        topic = topic_of(name)
        if len(payload) > MAX_PAYLOAD_BYTES:
            self._events.on_oversized(topic, len(payload))
        else:
            self._events.on_message(topic, payload, False)

    def _on_confirmed(self, batch: _Batch) -> None:
        """The server has taken everything before a PING; what it refused of that, it has told before."""
        if self.lost.done():
            return
        denied = self._denied["publish"]
        for number, subject in batch.published:
            refusal = "Not authorized" if denied and subject.lower() in denied else None
            self._events.on_acknowledged(number, refusal)
        denied = self._denied["subscription"]
        for number, asked in batch.subscribed:
            self._events.on_subscribed(
                number,
                [
                    "Not authorized" if any(subject.lower() in denied for subject in subjects) else None
                    for subjects in asked
                ],
            )
        self._denied = {"publish": set(), "subscription": set()}
        for sid in batch.ended:
            self._table.remove(sid)
        if batch.ending:  # another reader of the server may still be handing out what it had begun
            self._batch.ended += batch.ending
            self._send(b"")
