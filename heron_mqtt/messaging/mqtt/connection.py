"""One MQTT connection from CONNECT to its end: paho-mqtt, driven inside an asyncio event loop.

A connection is not reused: each attempt gets a paho client of its own. So nothing of a lost connection (half
a packet, message ids, resend states) is left in the next. ``MqttSession`` holds what must survive.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from heron_mqtt.errors import BrokerError, BrokerUnavailable, UnsupportedFeature
from heron_mqtt.messaging.local_socket import connect_locally
from heron_mqtt.messaging.mqtt.ack_holding import AckHolding
from heron_mqtt.messaging.mqtt.connect_errors import ended_early, no_answer, refused, tls_failed
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.packets import Publish
from heron_mqtt.messaging.mqtt.paho_client import Client
from heron_mqtt.messaging.mqtt.properties import with_reason
from heron_mqtt.messaging.mqtt.read_pacing import ReadPacing
from heron_mqtt.messaging.mqtt.socket_stream import (
    MAX_PACKET_BYTES,
    HandshakeFailed,
    Oversized,
    Stream,
    connect_socket,
)
from heron_mqtt.messaging.urls import WEB

log = logging.getLogger("heron_mqtt.messaging")

PUBLISH_OVERHEAD_BYTES, SUBSCRIBE_OVERHEAD_BYTES = 16, 16  # headers, lengths, ids: no more than that
MAX_SUBSCRIBE_BYTES = 1 << 16
RECEIVE_MAXIMUM = 65_535  # MQTT 5, section 3.2.2.3.3: in force where the broker names none


class Events(Protocol):
    """What a connection tells its owner, always in the event loop."""

    def on_message(self, topic: str, payload: bytes, retained: bool) -> bool | None:
        """A message arrived; False = do not acknowledge it before ``acknowledge_withheld``."""

    def on_bad_topic(self, topic: str) -> None:
        """A message arrived whose topic is not UTF-8."""

    def on_oversized(self, topic: str, size: int) -> None:
        """A message beyond our limit was skipped."""

    def on_acknowledged(self, mid: int, refusal: str | None) -> None:
        """The broker answered a QoS 1 or 2 publish."""

    def on_subscribed(self, mid: int, refusals: list[str | None]) -> None:
        """The broker answered a subscribe, filter by filter."""

    def on_expired(self, mid: int, topic: str) -> None:
        """A message (id 0 at QoS 0) was dropped: its time passed before any of it was written."""

    def on_writable(self) -> None:
        """Everything that was sent has been written: ``ready`` is true."""


class Connection:
    """One connection; ``open`` it once, then use it until ``lost`` is done.

    Topics are named without the prefix that they have at this broker (``MqttOptions.topic_prefix``).
    """

    subscribe_qos = 1

    def __init__(self, options: MqttOptions, events: Events, will: LastWill | None) -> None:
        self._options = options
        self._prefix = options.topic_prefix
        self._events = events
        self._will = will
        self._loop = asyncio.get_running_loop()
        self._stream: Stream | None = None
        self._client: Client | None = None
        self._answer: asyncio.Future[None] = self._loop.create_future()
        self._flush_due = False
        self._reading = False
        self._pacing = ReadPacing(self._loop.time)
        self._holding = AckHolding(self._loop.time, may_hold=options.session_expiry_s is None)
        self._held: asyncio.TimerHandle | None = None  # acknowledgements, until then
        self._has_read = False  # what was woken by that may speak before the next flush
        self._packets = 0  # of the read under way
        self._pause: asyncio.TimerHandle | None = None  # until the next read; None = when something is there
        self._writer_watched = False
        self._misc: asyncio.TimerHandle | None = None
        self.receive_maximum = RECEIVE_MAXIMUM
        self._maximum_packet_size: int | None = None  # that the broker takes; MQTT 5
        self._retain_available = True
        self.session_present = False
        """Whether the broker has kept the session of an earlier connection."""
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done when the connection has ended; says why."""

    async def open(self) -> None:
        """Connect and wait for the broker's answer.

        Raises:
            BrokerUnavailable: No answer in time, or the answer is not MQTT.
            BrokerRefused: The broker says no; the text says what to do.
        """
        address, limit = self._options.address, self._options.connect_timeout_s
        doing = f"no answer at {address} within {limit:g} s"
        try:
            async with asyncio.timeout(limit):
                self._stream = await self._open_stream()
                doing = (
                    f"{address} accepts connections but did not answer as an MQTT broker within {limit:g} s"
                )
                self._start_client(self._stream)
                await self._answer
        except TimeoutError:
            self.abort()
            raise BrokerUnavailable(f"{doing}: check host and port, and that a broker runs there") from None
        except ssl.SSLError as exc:
            self.abort()
            raise tls_failed(address, exc) from exc
        except BrokerError:
            self.abort()
            raise
        except (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, HandshakeFailed) as exc:
            self.abort()
            raise ended_early(address, str(exc), self._options.protocol) from exc
        except OSError as exc:
            self.abort()
            raise no_answer(address, exc) from exc
        except NotImplementedError as exc:
            self.abort()
            raise UnsupportedFeature(
                "this event loop cannot watch sockets, which MQTT needs: "
                "on Windows use asyncio.WindowsSelectorEventLoopPolicy()"
            ) from exc
        except BaseException:
            self.abort()
            raise

    async def _open_stream(self) -> Stream:
        options = self._options
        if options.scheme in WEB:
            from heron_mqtt.messaging.mqtt.websocket_stream import open_websocket  # most need none

            return await open_websocket(options, self._loop.time)
        sock = connect_locally(options.host, options.port) if options.tls is None else None
        if sock is None:
            sock = await connect_socket(options.host, options.port, options.tls, options.server_name)
        return Stream(sock, self._loop.time)

    @property
    def ready(self) -> bool:
        """Whether the broker reads what is sent; ``on_writable`` tells when it does so again."""
        return self._stream is not None and self._stream.ready

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None = None
    ) -> int:
        """Send a message; return the id that ``on_acknowledged`` or ``on_expired`` will name.

        Nothing is written before the event loop comes round, so the answer cannot come before this
        returns.
        """
        client = self._client
        assert client is not None, "used before open()"
        if qos:  # a caller waits for this answer
            self._pacing.has_sent = True
            if self._pause is not None:
                self._end_pause()
        return client.send(self._prefix + topic, payload, qos, retain, not_after)

    @property
    def has_limits(self) -> bool:
        """Whether the broker has told of messages that it would not take: see ``refusal``."""
        return self._maximum_packet_size is not None or not self._retain_available

    def refusal(self, topic: str, payload: bytes, *, retain: bool) -> str | None:
        """Return why the broker would not take a message, as far as it has told (MQTT 5), or None."""
        if retain and not self._retain_available:
            return "this broker keeps no retained messages, and says so: give late subscribers another way"
        if self._maximum_packet_size is None:
            return None
        size = len((self._prefix + topic).encode()) + len(payload) + PUBLISH_OVERHEAD_BYTES
        if size > self._maximum_packet_size:
            return f"{size} bytes are over the broker's limit of {self._maximum_packet_size} a packet"
        return None

    def largest_subscribe(self, filters: list[str]) -> int:
        """Return how many of these filters fit into one packet, as far as the broker has told."""
        left = (self._maximum_packet_size or MAX_SUBSCRIBE_BYTES) - SUBSCRIBE_OVERHEAD_BYTES
        for n, topic_filter in enumerate(filters):
            left -= len((self._prefix + topic_filter).encode()) + 3
            if left < 0:
                return max(1, n)
        return len(filters)

    def subscribe(self, filters: list[str]) -> int:
        """Subscribe at ``subscribe_qos``; return the id that ``on_subscribed`` will name."""
        self._expect_answer()
        mid = self._running().subscribe([(self._prefix + f, self.subscribe_qos) for f in filters])[1]
        return int(mid or 0)

    def unsubscribe(self, filters: list[str]) -> None:
        """Unsubscribe."""
        self._running().unsubscribe([self._prefix + f for f in filters])

    def acknowledge_withheld(self) -> None:
        """Acknowledge the messages that were not to be acknowledged yet."""
        self._running().acknowledge_withheld()

    def give_up(self, why: str) -> None:
        """End the connection because the broker does not do its part; ``lost`` contains this reason."""
        self._end(why)

    def disconnect(self) -> None:
        """Send DISCONNECT (no will is sent) and close, after what was sent before."""
        if self._client is not None and not self.lost.done():
            self._client.acknowledge_taken()
            self._client.disconnect()
            self._flush()
        self._end("closed")

    def abort(self) -> None:
        """Close without DISCONNECT, after what was sent before: the broker sends the will."""
        if not self.lost.done():
            self._flush()
        self._end("aborted")

    # -- the client and its callbacks --------------------------------------------------------------

    def _running(self) -> Client:
        assert self._client is not None, "used before open()"
        return self._client

    def _start_client(self, stream: Stream) -> None:
        options = self._options
        five = options.protocol == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            # MQTT 5 has clean_start instead, which is said below
            clean_session=None if five else options.session_expiry_s is None,
            reconnect_on_failure=False,  # reconnecting is the link's; also: no silent downgrade to MQTT 3.1
        )
        client.stream, client.five, client.clock = stream, five, self._loop.time
        client.received, client.acknowledged = self._on_message, self._events.on_acknowledged
        client.expired, stream.expired = self._on_expired, client.written_too_late
        client.refused_too_large = self._on_oversized
        client.want_flush = self._on_want_write
        client.acknowledges = self._holding.owed
        client.max_inflight_messages = 0  # the link keeps the window; a limit here scans at every PUBACK
        if options.username:
            client.username_pw_set(options.username, options.password)
        if self._will is not None:
            client.will_set(self._prefix + self._will.topic, self._will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish  # of QoS 2; the others do not pass through paho
        client.on_subscribe = self._on_subscribe
        client.on_socket_close = self._on_socket_close
        self._client = client
        self._loop.add_reader(stream.fileno(), self._on_readable)
        self._tick()
        client.connect(
            options.host,
            options.port,
            keepalive=options.keepalive_s,
            # 3.1.1: paho wants it left alone
            clean_start=options.session_expiry_s is None if five else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=_connect_properties(options.session_expiry_s) if five else None,
        )

    def _on_connect(
        self,
        _client: object,
        _data: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if self._answer.done():
            return
        if reason.is_failure:
            told = with_reason(str(reason), properties)
            self._answer.set_exception(refused(self._options, reason.value, str(reason), told))
        else:
            self.session_present = flags.session_present
            self.receive_maximum = getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM)
            self._maximum_packet_size = getattr(properties, "MaximumPacketSize", None)
            self._running().maximum_packet_size = self._maximum_packet_size
            self._retain_available = bool(getattr(properties, "RetainAvailable", 1))
            self._answer.set_result(None)
            if self._misc is not None:  # an MQTT 5 broker may have demanded a shorter keepalive
                self._misc.cancel()
            self._loop.call_soon(self._tick)

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, properties: object
    ) -> None:
        why = self._stream.why() if self._stream is not None else ""
        self._end(why or with_reason(str(reason), properties))

    def _on_message(self, message: Publish) -> bool | None:
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError as exc:
            self._events.on_bad_topic(repr(exc.object))
            return None
        if self._prefix:
            topic = topic.removeprefix(self._prefix)
        return self._events.on_message(topic, message.payload, message.retain)

    def _on_expired(self, mid: int, topic: str) -> None:
        self._events.on_expired(mid, topic.removeprefix(self._prefix))

    def _on_oversized(self, topic: bytes, size: int) -> None:
        name = topic.decode(errors="backslashreplace")
        self._events.on_oversized(name.removeprefix(self._prefix), size)

    def _on_publish(
        self, _client: object, _data: object, mid: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._events.on_acknowledged(mid, str(reason) if reason.is_failure else None)

    def _on_subscribe(
        self, _client: object, _data: object, mid: int, reasons: list[ReasonCode], properties: object
    ) -> None:
        refusals = [with_reason(str(r), properties) if r.is_failure else None for r in reasons]
        self._events.on_subscribed(mid, refusals)

    # -- the event loop ----------------------------------------------------------------------------

    def _on_readable(self) -> None:
        stream, client = self._stream, self._client
        if stream is None or client is None:
            return
        if stream.fill():
            client.heard()
        self._reading = True
        self._packets = 0
        take, is_lost = client.take, self.lost.done
        try:
            while not is_lost() and (packets := self._next_packets(stream)):
                for packet in packets:
                    if is_lost():
                        break
                    self._packets += 1
                    if type(packet) is Oversized:
                        client.take_oversized(packet)
                    else:
                        take(*packet)
        except ConnectionError as exc:  # too large, or malformed
            self._end(str(exc))
        except Exception as exc:
            # The peer does not support MQTT, or paho has a fault: its state is not to be trusted any more.
            log.debug("reading from %s failed", self._options.address, exc_info=exc)
            self._end(f"what came is not MQTT ({type(exc).__name__}: {exc})")
        finally:
            client.acknowledge_taken()
            self._reading = False
            pause_s = self._pacing.pause_s(self._packets, is_drained=stream.is_drained)
            if (self._flush_due or self._holding.holds) and not pause_s and not self._has_read:
                # after the tasks that were woken: acknowledgements go with their answers
                self._has_read = True
                self._loop.call_soon(self._after_read)
        if stream.ended:
            self._end(stream.why())
        else:
            self._pace(stream, pause_s)

    def _after_read(self) -> None:
        """Write what was said meanwhile; where nothing was, acknowledgements may wait until something is."""
        self._has_read = False
        if self._flush_due:
            self._flush()
        elif self._holding.holds:
            hold_s = self._holding.hold_s()
            if not hold_s:
                self._flush()
            elif self._held is None:
                self._held = self._loop.call_later(hold_s, self._acknowledge_alone)

    def _acknowledge_alone(self) -> None:
        self._held = None
        self._holding.waited_in_vain()
        self._flush()

    def _pace(self, stream: Stream, pause_s: float) -> None:
        """Read next after a pause, or as soon as something is there."""
        if pause_s and (self._flush_due or self._holding.holds):
            self._flush()  # no message is sent that could carry the acknowledgements
        if self.lost.done():
            return
        if pause_s:
            if self._pause is None:
                self._loop.remove_reader(stream.fileno())
            else:
                self._pause.cancel()
            self._pause = self._loop.call_later(pause_s, self._on_readable)
        elif self._pause is not None:
            self._end_pause()

    def _expect_answer(self) -> None:
        """Have the next reads wait for nothing: what comes may be what a step waits for."""
        self._pacing.has_sent = True
        if self._pause is not None:
            self._end_pause()

    def _end_pause(self) -> None:
        if self._pause is not None and self._stream is not None:
            self._pause.cancel()
            self._pause = None
            self._loop.add_reader(self._stream.fileno(), self._on_readable)

    def _next_packets(self, stream: Stream) -> list[tuple[int, bytes] | Oversized]:
        """Return packets of a read, until there are none."""
        return stream.next_packets()

    def _on_want_write(self) -> None:
        if self._flush_due:
            return
        self._flush_due = True  # one write for all that is sent until then
        if not self._reading and not self._has_read:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._client is not None:
            self._client.acknowledge_taken()  # in the middle of a read, too
        self._holding.went()
        if self._held is not None:
            self._held.cancel()
            self._held = None
        if self._stream is None or self.lost.done():
            return
        taken = self._stream.flush()
        self._watch_writer(not taken)
        if self._stream.error is not None:
            self._on_readable()  # what came before it is still to be read
        elif taken:
            self._events.on_writable()

    def _watch_writer(self, watch: bool) -> None:
        if watch == self._writer_watched or self._stream is None:
            return
        self._writer_watched = watch
        if watch:
            self._loop.add_writer(self._stream.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._stream.fileno())

    def _tick(self) -> None:
        if self._client is not None and not self.lost.done():
            self._client.loop_misc()  # keepalive: pings, and gives up when no answer comes
        if not self.lost.done():
            demanded_s = self._client.keepalive_s if self._client is not None else 0
            period_s = min(self._options.keepalive_s, demanded_s or self._options.keepalive_s) / 4
            self._misc = self._loop.call_later(period_s, self._tick)

    def _on_socket_close(self, *_: object) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._stream is not None and self._stream.fileno() != -1:
            self._watch_writer(False)
            self._loop.remove_reader(self._stream.fileno())

    def _end(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        if not self._answer.done():
            address, broken = self._options.address, self._stream.error if self._stream is not None else None
            self._answer.set_exception(
                tls_failed(address, broken)  # TLS 1.3 refuses a client's certificate after the handshake
                if isinstance(broken, ssl.SSLError)
                else ended_early(address, why, self._options.protocol)
            )
            self._answer.exception()  # open() may have ended already
        for timer in (self._misc, self._held):
            if timer is not None:
                timer.cancel()
        self._on_socket_close()
        if self._stream is not None:
            self._stream.close()


def _connect_properties(session_expiry_s: int | None) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = MAX_PACKET_BYTES  # the broker keeps larger ones back
    if session_expiry_s is not None:
        properties.SessionExpiryInterval = session_expiry_s
    return properties
