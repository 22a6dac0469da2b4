"""One client's connection: packets in, acknowledgements and deliveries out, and how it ends.

Everything happens in the event loop, in the call that brings the bytes: no task, no lock and no queue
between receiving a message and handing it to its subscribers. amqtt's handler spends three tasks and a
future on each message; here a task exists only while a password is being checked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

from heron_mqtt.messaging.embedded.auth.authenticator import Refused
from heron_mqtt.messaging.embedded.protocol import packets as wire
from heron_mqtt.messaging.embedded.protocol.topic_filters import MAX_LEVELS
from heron_mqtt.messaging.embedded.server.session import Message
from heron_mqtt.messaging.embedded.server.write_buffer import BufferedOutlet

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.auth.authenticator import Verdict
    from heron_mqtt.messaging.embedded.net.transports import Link
    from heron_mqtt.messaging.embedded.server.server import HardenedBroker
    from heron_mqtt.messaging.embedded.server.session import ClientSession

_MAX_CACHED_TOPICS = 4_096


class ClientConnection(BufferedOutlet, BrokerProtocolHandler):  # type: ignore[misc]  # amqtt ships no type information
    """The broker's side of one client connection, from accepting it to its end."""

    def __init__(self, broker: HardenedBroker, link: Link) -> None:
        BrokerProtocolHandler.__init__(self, broker.plugins_manager)
        BufferedOutlet.__init__(self, link, broker.options.limits, broker.stats, broker.flush_soon)
        self._broker = broker
        self._router = broker.router
        self._max_packet_bytes = broker.options.limits.max_packet_bytes
        self._rest = bytearray()
        self._needed = 0
        self._held = False
        self._packets = 0
        self._last_heard_s = 0.0
        self._silence_s = 0.0
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
        packets = self._packets
        try:
            pos = self._take_packets(data)
        except wire.MalformedPacket as exc:
            self._on_malformed(exc)
            return
        if self._packets != packets:
            self._last_heard_s = self._loop.time()
        if pos < len(data) and not self.ended:
            self._rest += data[pos:]

    def _take_packets(self, data: bytes) -> int:
        """Act on complete packets; return the position of the first incomplete one."""
        pos, end = 0, len(data)
        if self.session is None and data[:1] not in (b"", b"\x10"):
            raise wire.MalformedPacket("the first packet is not CONNECT")
        while end - pos >= 2 and not self._held and not self.ended:
            length, body = data[pos + 1], pos + 2
            if length & 0x80:
                shift = 7
                length &= 0x7F
                while True:
                    if shift > 21:
                        raise wire.MalformedPacket("a remaining length of more than four bytes")
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
                raise wire.MalformedPacket(
                    f"a packet of {length} bytes, the limit is {self._max_packet_bytes}"
                )
            stop = body + length
            if stop > end:
                self._needed = stop - pos
                return pos
            self._packets += 1
            first = data[pos]
            if first >> 4 == wire.PUBLISH and self.session is not None:
                self._on_publish(self.session, first, data, body, stop)
            else:
                self._on_packet(first, data[body:stop])
            pos = stop
        self._needed = 2
        return pos

    def _on_packet(self, first: int, body: bytes) -> None:
        packet_type, flags = first >> 4, first & 0x0F
        session = self.session
        if session is None:
            self._on_connect(wire.read_connect(body))
            return
        expected = 2 if packet_type in (wire.PUBREL, wire.SUBSCRIBE, wire.UNSUBSCRIBE) else 0
        if flags != expected:
            raise wire.MalformedPacket(f"flags {flags:#x} in a packet of type {packet_type}")
        if packet_type == wire.PUBACK:
            session.on_puback(wire.read_ack(body))
        elif packet_type == wire.PINGREQ:
            self.send(wire.PINGRESP_PACKET)
        elif packet_type == wire.PUBREC:
            session.on_pubrec(wire.read_ack(body))
        elif packet_type == wire.PUBCOMP:
            session.on_pubcomp(wire.read_ack(body))
        elif packet_type == wire.PUBREL:
            packet_id = wire.read_ack(body)
            session.incoming_qos2.discard(packet_id)
            self.send(wire.ack(wire.PUBCOMP, packet_id))
        elif packet_type == wire.SUBSCRIBE:
            self._router.subscribe(session, *wire.read_subscribe(body))
        elif packet_type == wire.UNSUBSCRIBE:
            self._router.unsubscribe(session, *wire.read_unsubscribe(body))
        elif packet_type == wire.DISCONNECT:
            if body:
                raise wire.MalformedPacket("DISCONNECT with a body")
            self.end("disconnect", will=False)
        else:
            raise wire.MalformedPacket(f"a packet of type {packet_type} from a connected client")

    def _on_publish(self, session: ClientSession, first: int, data: bytes, body: int, stop: int) -> None:
        qos = first >> 1 & 3
        pos = body + 2
        topic_end = pos + (data[body] << 8 | data[body + 1]) if pos <= stop else stop + 1
        if topic_end > stop:
            raise wire.MalformedPacket("PUBLISH ends inside its topic")
        raw_topic = data[pos:topic_end]
        topic = self._broker.topics.get(raw_topic)
        if topic is None:
            topic = self._learn_topic(raw_topic)
        pos = topic_end
        self._stats.received += 1
        if qos == 0:
            if first & 0x08:
                raise wire.MalformedPacket("DUP in a PUBLISH at QoS 0")
            self._router.accept(session, Message(topic, raw_topic, data[pos:stop], 0), retain=bool(first & 1))
            return
        if qos == 3:
            raise wire.MalformedPacket("PUBLISH at QoS 3")
        packet_id = data[pos] << 8 | data[pos + 1] if pos + 2 <= stop else 0
        if not packet_id:
            raise wire.MalformedPacket("PUBLISH at QoS 1 or 2 without a packet identifier")
        message = Message(topic, raw_topic, data[pos + 2 : stop], qos)
        if qos == 1:
            self._router.accept(session, message, retain=bool(first & 1))
            self.send(b"\x40\x02" + packet_id.to_bytes(2, "big"))
            return
        if packet_id not in session.incoming_qos2:  # otherwise a repetition of what was delivered
            session.incoming_qos2.add(packet_id)
            self._router.accept(session, message, retain=bool(first & 1))
        self.send(wire.ack(wire.PUBREC, packet_id))

    def _learn_topic(self, raw_topic: bytes) -> str:
        topic = wire.check_topic(wire.decode_utf8(raw_topic))
        if topic.count("/") >= MAX_LEVELS:
            raise wire.MalformedPacket(f"a topic of more than {MAX_LEVELS} levels")
        topics = self._broker.topics
        if len(topics) >= _MAX_CACHED_TOPICS:
            topics.clear()
        topics[raw_topic] = topic
        return topic

    # --- CONNECT ------------------------------------------------------------------------------------

    def _on_connect(self, connect: wire.Connect) -> None:
        self._broker.refresh_rights()
        verdict = self._broker.identity.decide(connect, self.link.peer, self.link.certificate())
        if verdict is not None:
            self._admit(connect, verdict)
            return
        self._held = True
        self.link.pause_reading()
        self._login = self._loop.create_task(self._check_login(connect), name=f"login {self.link.peer}")

    async def _check_login(self, connect: wire.Connect) -> None:
        try:
            verdict = await self._broker.identity.verify(connect, self.link.peer)
        except Exception as exc:  # a fault here must not leave the client without an answer
            self._broker.events.exception("login_failed", exc, peer=self.link.peer)
            verdict = Refused(wire.SERVER_UNAVAILABLE, "the password could not be checked")
        self._login = None
        if not self.ended:
            self._admit(connect, verdict)

    async def _refuse_later(self, verdict: Refused) -> None:
        await asyncio.sleep(verdict.delay_s)
        self._login = None
        self.refuse(verdict.return_code, verdict.reason)

    def _admit(self, connect: wire.Connect, verdict: Verdict) -> None:
        self._stop_alive_timer()
        if isinstance(verdict, Refused):
            self._stats.failed_logins += 1
            if verdict.delay_s:
                self._held = True
                self.link.pause_reading()
                self._login = self._loop.create_task(
                    self._refuse_later(verdict), name=f"refusal {self.link.peer}"
                )
            else:
                self.refuse(verdict.return_code, verdict.reason)
            return
        if not self._broker.admit(self, connect, verdict):
            return
        if connect.keep_alive_s:
            self._silence_s = connect.keep_alive_s * 1.5  # MQTT-3.1.2-24
            self._last_heard_s = self._loop.time()
            self._alive_timer = self._loop.call_later(self._silence_s, self._on_silence)
        if self._held:
            self._held = False
            self._needed = 2
            self.link.resume_reading()
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
        self.end("keepalive", will=True, abort=True, detail=f"nothing heard for {quiet_s:.1f} s")

    # --- the end ------------------------------------------------------------------------------------

    def refuse(self, return_code: int, reason: str) -> None:
        """Answer a CONNECT with a return code other than 0, and close."""
        self._stats.refusals += 1
        self.send(wire.connack(return_code))
        self.end("refused", will=False, detail=reason)

    def _on_malformed(self, exc: wire.MalformedPacket) -> None:
        if isinstance(exc, wire.UnsupportedProtocol):
            self.refuse(wire.BAD_PROTOCOL_LEVEL, str(exc))  # MQTT-3.1.2-2
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

    async def stop(self) -> None:
        """End for amqtt's sake, when it cleans up a session."""
        self.end("shutdown", will=False)

    def _stop_alive_timer(self) -> None:
        if self._alive_timer is not None:
            self._alive_timer.cancel()
            self._alive_timer = None
