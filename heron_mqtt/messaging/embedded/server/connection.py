"""One client's connection: packets in, acknowledgements and deliveries out, and how it ends.

Everything happens in the event loop, in the call that brings the bytes. There is no task, no lock and no
queue between receiving a message and giving it to its subscribers. amqtt's handler spends three tasks and a
future on each message. Here a task exists only while a password is being checked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from heron_mqtt.messaging.embedded.auth.authenticator import Refused
from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.embedded.protocol.topic_filters import MAX_LEVELS
from heron_mqtt.messaging.embedded.server.session import BrokerMessage
from heron_mqtt.messaging.embedded.server.write_buffer import WriteBuffer

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.auth.authenticator import Admitted, Authenticator, AuthResult
    from heron_mqtt.messaging.embedded.event_log import EventLog
    from heron_mqtt.messaging.embedded.net.transports import Transport
    from heron_mqtt.messaging.embedded.options import BrokerOptions
    from heron_mqtt.messaging.embedded.server.router import Router
    from heron_mqtt.messaging.embedded.server.session import ClientSession
    from heron_mqtt.messaging.embedded.stats import BrokerStats

_MAX_CACHED_TOPICS = 4_096
PUBACK_FIRST = packets.PUBACK << 4


class ConnectionOwner(Protocol):
    """The part of its broker that a connection uses."""

    options: BrokerOptions
    stats: BrokerStats
    events: EventLog
    authenticator: Authenticator
    router: Router
    topics: dict[bytes, str]
    """Topics that were checked already, by their bytes."""

    def refresh_rights(self) -> None:
        """Read the users and ACL files again if they changed."""

    def admit(self, connection: ClientConnection, connect: packets.Connect, who: Admitted) -> bool:
        """Give an authenticated client its session and answer its CONNECT; return whether it is in."""

    def connection_ended(
        self,
        connection: ClientConnection,
        session: ClientSession | None,
        reason: str,
        detail: str,
        *,
        will: bool,
    ) -> None:
        """Put the session of an ended connection away; called once for each connection."""

    def connection_gone(self, connection: ClientConnection) -> None:
        """Forget a connection whose transport is closed."""

    def flush_soon(self, buffer: WriteBuffer) -> None:
        """Have ``WriteBuffer.flush`` called at the end of this turn of the event loop."""


class ClientConnection(WriteBuffer):
    """The broker's side of one client connection, from accepting it to its end.

    Args:
        broker: It belongs to.
        transport: Where its bytes come and go.
    """

    def __init__(self, broker: ConnectionOwner, transport: Transport) -> None:
        super().__init__(transport, broker.options.limits, broker.stats, broker.flush_soon)
        self._broker = broker
        self._router = broker.router
        self._ends_denied = broker.options.denied == "disconnect"
        self._max_packet_bytes = broker.options.limits.max_packet_bytes
        self._rest = bytearray()
        self._needed = 0
        self._held = False
        self._packets = 0
        self._last_heard_s = 0.0
        self._silence_s = 0.0
        self._published = 0  # messages, since the last look at the user's rate
        self._pause: asyncio.TimerHandle | None = None
        self._login: asyncio.Task[None] | None = None
        self._alive_timer: asyncio.TimerHandle | None = self._loop.call_later(
            broker.options.limits.connect_timeout_s, self._on_connect_timeout
        )

    # --- bytes in -----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes from the client and act on every packet that is complete."""
        self._stats.bytes_received += len(data)
        if self._rest or self._held:
            self._rest += data
            if self._held or len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        before = self._packets
        try:
            pos = self._take_packets(data)
        except packets.MalformedPacket as exc:
            self._on_malformed(exc)
            return
        if self._packets != before:
            self._last_heard_s = self._loop.time()
        if self._published:
            self._pace()
        if pos < len(data) and not self.ended:
            self._rest += data[pos:]

    def _pace(self) -> None:
        """Read no more for a while if this client's user publishes more than its share."""
        published, self._published = self._published, 0
        account = self.session.account if self.session is not None else None
        pause_s = account.pause_s(published, self._loop.time()) if account is not None else 0.0
        if pause_s > 0.0 and self._pause is None:
            self._stats.pauses += 1
            self.transport.pause_reading()
            self._pause = self._loop.call_later(pause_s, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        if not self.ended and not self._held:
            self._last_heard_s = self._loop.time()  # what it sent meanwhile was not read
            self.transport.resume_reading()

    def _take_packets(self, data: bytes) -> int:
        """Act on complete packets; return the position of the first incomplete one."""
        pos, end = 0, len(data)
        if self.session is None and data[:1] not in (b"", b"\x10"):
            raise packets.MalformedPacket("the first packet is not CONNECT")
        while end - pos >= 2 and not self._held and not self.ended:
            length, body = data[pos + 1], pos + 2
            if length & 0x80:
                shift = 7
                length &= 0x7F
                while True:
                    if shift > 21:
                        raise packets.MalformedPacket("a remaining length of more than four bytes")
                    if body >= end:
                        self._needed = body - pos + 1
                        return pos
                    more = data[body]
                    body += 1
                    length |= (more & 0x7F) << shift
                    shift += 7
                    if not more & 0x80:
                        break
            if length > self._max_packet_bytes:
                raise packets.MalformedPacket(
                    f"a packet of {length} bytes, the limit is {self._max_packet_bytes}"
                )
            stop = body + length
            if stop > end:
                self._needed = stop - pos
                return pos
            self._packets += 1
            first = data[pos]
            if first >> 4 == packets.PUBLISH and self.session is not None:
                self._on_publish(self.session, data, pos, body, stop)
            elif first == PUBACK_FIRST and length == 2 and self.session is not None:
                self.session.on_puback(packets.read_packet_id(data, body))
            else:
                self._on_packet(first, data[body:stop])
            pos = stop
        self._needed = 2
        return pos

    def _on_packet(self, first: int, body: bytes) -> None:
        packet_type, flags = first >> 4, first & 0x0F
        session = self.session
        if session is None:
            self._on_connect(packets.read_connect(body))
            return
        expected = 2 if packet_type in (packets.PUBREL, packets.SUBSCRIBE, packets.UNSUBSCRIBE) else 0
        if flags != expected:
            raise packets.MalformedPacket(f"flags {flags:#x} in a packet of type {packet_type}")
        if packet_type == packets.PUBACK:
            session.on_puback(packets.read_ack(body))
        elif packet_type == packets.PINGREQ:
            self.send(packets.PINGRESP_PACKET)
        elif packet_type == packets.PUBREC:
            session.on_pubrec(packets.read_ack(body))
        elif packet_type == packets.PUBCOMP:
            session.on_pubcomp(packets.read_ack(body))
        elif packet_type == packets.PUBREL:
            packet_id = packets.read_ack(body)
            session.incoming_qos2.discard(packet_id)
            self.send(packets.ack(packets.PUBCOMP, packet_id))
        elif packet_type == packets.SUBSCRIBE:
            self._router.subscribe(session, *packets.read_subscribe(body))
        elif packet_type == packets.UNSUBSCRIBE:
            self._router.unsubscribe(session, *packets.read_unsubscribe(body))
        elif packet_type == packets.DISCONNECT:
            if body:
                raise packets.MalformedPacket("DISCONNECT with a body")
            self.end("disconnect", will=False)
        else:
            raise packets.MalformedPacket(f"a packet of type {packet_type} from a connected client")

    def _on_publish(self, session: ClientSession, data: bytes, begin: int, body: int, stop: int) -> None:
        """Act on the PUBLISH from ``begin`` to ``stop`` in ``data``; its topic begins at ``body``."""
        first = data[begin]
        qos = first >> 1 & 3
        pos = body + 2
        topic_end = pos + (data[body] << 8 | data[body + 1]) if pos <= stop else stop + 1
        if topic_end > stop:
            raise packets.MalformedPacket("PUBLISH ends inside its topic")
        raw_topic = data[pos:topic_end]
        topic = self._broker.topics.get(raw_topic)
        if topic is None:
            topic = self._learn_topic(raw_topic)
        pos = topic_end
        self._stats.received += 1
        self._published += 1
        if qos == 0:
            if first & 0x08:
                raise packets.MalformedPacket("DUP in a PUBLISH at QoS 0")
            self._accept(session, BrokerMessage(topic, raw_topic, data[pos:stop], 0), retain=bool(first & 1))
            return
        if qos == 3:
            raise packets.MalformedPacket("PUBLISH at QoS 3")
        packet_id = data[pos] << 8 | data[pos + 1] if pos + 2 <= stop else 0
        if not packet_id:
            raise packets.MalformedPacket("PUBLISH at QoS 1 or 2 without a packet identifier")
        message = BrokerMessage(topic, raw_topic, data[pos + 2 : stop], qos)
        if qos == 1:
            message.came_as(data[begin:pos])
            if self._accept(session, message, retain=bool(first & 1)):
                self.send(b"\x40\x02" + packet_id.to_bytes(2, "big"))
            return
        if packet_id not in session.incoming_qos2:  # otherwise a repetition of what was delivered
            if not self._accept(session, message, retain=bool(first & 1)):
                return
            session.incoming_qos2.add(packet_id)
        self.send(packets.ack(packets.PUBREC, packet_id))

    def _accept(self, session: ClientSession, message: BrokerMessage, *, retain: bool) -> bool:
        """Take a message, or end the connection if this is how a missing right is reported."""
        if self._router.accept(session, message, retain=retain) or not self._ends_denied:
            return True
        self.end("denied", will=True, detail=f"no right to publish on {message.topic}")
        return False

    def _learn_topic(self, raw_topic: bytes) -> str:
        topic = packets.check_topic(packets.decode_utf8(raw_topic))
        if topic.count("/") >= MAX_LEVELS:
            raise packets.MalformedPacket(f"a topic of more than {MAX_LEVELS} levels")
        topics = self._broker.topics
        if len(topics) >= _MAX_CACHED_TOPICS:
            topics.clear()
        topics[raw_topic] = topic
        return topic

    # --- CONNECT ------------------------------------------------------------------------------------

    def _on_connect(self, connect: packets.Connect) -> None:
        self._broker.refresh_rights()
        result = self._broker.authenticator.decide(connect, self.transport.peer, self.transport.certificate())
        if result is not None:
            self._admit(connect, result)
            return
        self._held = True
        self.transport.pause_reading()
        self._login = self._loop.create_task(self._check_login(connect), name=f"login {self.transport.peer}")

    async def _check_login(self, connect: packets.Connect) -> None:
        try:
            result = await self._broker.authenticator.verify(connect, self.transport.peer)
        except Exception as exc:  # a fault here must not leave the client without an answer
            self._broker.events.exception("login_failed", exc, peer=self.transport.peer)
            result = Refused(packets.SERVER_UNAVAILABLE, "the password could not be checked")
        self._login = None
        if not self.ended:
            self._admit(connect, result)

    async def _refuse_later(self, result: Refused) -> None:
        await asyncio.sleep(result.delay_s)
        self._login = None
        self.refuse(result.return_code, result.reason)

    def _admit(self, connect: packets.Connect, result: AuthResult) -> None:
        self._stop_alive_timer()
        if isinstance(result, Refused):
            self._stats.failed_logins += 1
            if result.delay_s:
                self._held = True
                self.transport.pause_reading()
                self._login = self._loop.create_task(
                    self._refuse_later(result), name=f"refusal {self.transport.peer}"
                )
            else:
                self.refuse(result.return_code, result.reason)
            return
        if not self._broker.admit(self, connect, result):
            return
        if connect.keep_alive_s:
            self._silence_s = connect.keep_alive_s * 1.5  # MQTT-3.1.2-24
            self._last_heard_s = self._loop.time()
            self._alive_timer = self._loop.call_later(self._silence_s, self._on_silence)
        if self._held:
            self._held = False
            self._needed = 2
            self.transport.resume_reading()
            if self._rest:
                self.feed(b"")

    def _on_connect_timeout(self) -> None:
        self._alive_timer = None
        if self._login is None:
            self.end("no_connect", will=False, abort=True)

    def _on_silence(self) -> None:
        quiet_s = self._loop.time() - self._last_heard_s
        if quiet_s < self._silence_s:
            self._alive_timer = self._loop.call_later(self._silence_s - quiet_s, self._on_silence)
            return
        self._alive_timer = None
        self._stats.keepalive_timeouts += 1
        self.end("keepalive", will=True, abort=True, detail=f"no packet for {quiet_s:.1f} s")

    # --- the end ------------------------------------------------------------------------------------

    def refuse(self, return_code: int, reason: str) -> None:
        """Answer a CONNECT with a return code other than 0, and close."""
        self._stats.refusals += 1
        self.send(packets.connack(return_code))
        self.end("refused", will=False, detail=reason)

    def _on_malformed(self, exc: packets.MalformedPacket) -> None:
        if isinstance(exc, packets.UnsupportedProtocol):
            self.refuse(packets.BAD_PROTOCOL_LEVEL, str(exc))  # MQTT-3.1.2-2
            return
        self._stats.malformed += 1
        self.end("malformed", will=True, abort=True, detail=str(exc))

    def lost(self, exc: Exception | None) -> None:
        """Note that the link is gone."""
        detail = f"{type(exc).__name__}: {exc}" if exc is not None else ""
        self.end("connection_lost", will=True, abort=True, detail=detail)
        self.stop_watching()
        self._broker.connection_gone(self)

    def end(self, reason: str, *, will: bool, abort: bool = False, detail: str = "") -> None:
        """End the connection once; its session is put away and its will, if asked for, is published."""
        if self.ended:
            return
        self.ended = True
        self.writable = False
        self._stop_alive_timer()
        if self._login is not None:
            if self._login is not asyncio.current_task():
                self._login.cancel()
            self._login = None
        self._rest.clear()
        self.close_link(abort=abort)
        session, self.session = self.session, None
        self._broker.connection_ended(self, session, reason, detail, will=will)

    @property
    def is_logging_in(self) -> bool:
        """Whether a complete CONNECT has come and is being looked at."""
        return self._login is not None

    def _stop_alive_timer(self) -> None:
        if self._alive_timer is not None:
            self._alive_timer.cancel()
            self._alive_timer = None
        if self.ended and self._pause is not None:
            self._pause.cancel()
            self._pause = None
