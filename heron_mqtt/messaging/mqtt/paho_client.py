"""paho-mqtt without its reading, writing and bookkeeping a message.

paho negotiates, subscribes, keeps the connection alive and does QoS 2. The two packets of every message,
PUBLISH and PUBACK, are not processed by paho. It spends 50 us on each message: events that no logger takes,
locks that a single event loop does not need, a ReasonCode object for each acknowledgement. ``packets`` spends
5.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from heron_mqtt.messaging.mqtt.packets import (
    PUBACK,
    PUBLISH,
    Malformed,
    Publish,
    read_alias,
    read_puback,
    read_publish,
    write_puback,
    write_publish,
)
from heron_mqtt.messaging.mqtt.properties import metadata_of, reason_string, user_properties
from heron_mqtt.messaging.mqtt.socket_stream import Oversized, Stream

MAX_ID = 65_535
MAX_EXPIRY_S = (1 << 32) - 1
MAX_ALIASES = 1_000
PUBREC = 0x50
ANSWERS_WITH_ID = {0x70, 0x90, 0xB0}  # PUBCOMP, SUBACK, UNSUBACK
FAILURE = 0x80  # MQTT 5, section 2.4: reason codes from here on are failures


class Client(paho.Client):
    """paho-mqtt with three of its private methods replaced; the contract suite notices if they change."""

    stream: Stream
    clock: Callable[[], float]
    """Monotonic, s; the one that time limits are given by."""
    five: bool
    """Whether this is MQTT 5."""
    received: Callable[[Publish], bool | None]
    """Called with a message; False = it is not to be acknowledged before ``acknowledge_withheld``."""
    acknowledged: Callable[[int, str | None], None]
    """Called with the packet id, and why it was refused."""
    expired: Callable[[int, str], None]
    """Called with packet id (0 at QoS 0) and topic of a message that was not written in time."""
    refused_too_large: Callable[[bytes, int], None]
    """Called with topic and size of a message beyond our limit, which was skipped."""
    want_flush: Callable[[], None]
    acknowledges: Callable[[int], None]
    """Called after so many acknowledgements were written, which may wait for a message to go with."""
    maximum_packet_size: int | None = None
    """That an MQTT 5 broker takes; None = any."""
    _limit: tuple[str, float] | None = None
    """Topic and time limit of the QoS 2 message that paho is being handed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._used_ids: set[int] = set()  # of what the broker has not answered
        self._aliases: dict[int, bytes] = {}
        self._withheld: list[int] = []
        self._owed: list[bytes] = []  # acknowledgements of what was taken, to be written
        self.on_message = self._on_qos_2

    # -- messages ----------------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes, qos: int, retain: bool, not_after: float | None = None) -> int:
        """Publish; return the id that ``acknowledged`` (or, past its time, ``expired``) will name."""
        if qos == 2:
            self._limit = None if not_after is None else (topic, not_after)
            properties = _paho_properties(payload, self._expires_s(not_after)) if self.five else None
            return self.publish(topic, payload, qos, retain, properties).mid
        packet_id = self._mid_generate() if qos else 0
        if self.five:
            packet = self._publish_of_five(topic, payload, qos, retain, packet_id, self._expires_s(not_after))
        else:
            packet = write_publish(topic, payload, qos, retain, packet_id, five=False)
        if not_after is None:
            self.stream.send(packet)
        else:
            self.stream.send_timed(packet, not_after, packet_id, topic)
        self.want_flush()
        return packet_id

    def _write(self, packet: bytes | bytearray, packet_id: int, topic: str, not_after: float | None) -> None:
        if not_after is None:
            self.stream.send(packet)
        else:
            self.stream.send_timed(packet, not_after, packet_id, topic)
        self.want_flush()

    def _publish_of_five(
        self, topic: str, payload: bytes, qos: int, retain: bool, packet_id: int, expires_s: int | None
    ) -> bytes:
        said = user_properties(payload)
        packet = write_publish(
            topic, payload, qos, retain, packet_id, five=True, expires_s=expires_s, properties=said
        )
        if said and self.maximum_packet_size is not None and len(packet) > self.maximum_packet_size:
            packet = write_publish(  # the payload has them, too
                topic, payload, qos, retain, packet_id, five=True, expires_s=expires_s
            )
        return packet

    def _expires_s(self, not_after: float | None) -> int | None:
        """Return what is left until a time limit, in whole seconds: the device looks more closely."""
        if not_after is None:
            return None
        return min(max(1, math.ceil(not_after - self.clock())), MAX_EXPIRY_S)

    def take(self, first: int, body: bytes) -> None:
        """Take a packet that has arrived.

        Args:
            first: Its first byte.
            body: What follows its length.

        Raises:
            Malformed: It breaks the protocol.
        """
        kind = first & 0xF0
        if kind == PUBLISH and first & 0x04 == 0:  # QoS 0 or 1
            message = read_publish(first, body, five=self.five)
            if self.five:
                message = self._with_topic(message, read_alias(first, body))
            taken, packet_id = self.received(message), message.packet_id
            if packet_id and (taken is False or self._withheld):  # in the order of arrival
                self._withheld.append(packet_id)
            elif packet_id:
                self._owed.append(write_puback(packet_id))
        elif kind == PUBACK:
            packet_id, reason = read_puback(body, five=self.five)
            self._used_ids.discard(packet_id)
            refused = reason >= FAILURE
            self.acknowledged(packet_id, _refusal(PacketTypes.PUBACK, reason, body) if refused else None)
        elif kind == PUBREC and self.five and len(body) > 2 and body[2] >= FAILURE:  # QoS 2 ends here
            packet_id = int.from_bytes(body[:2], "big")
            self._out_messages.pop(packet_id, None)
            self._used_ids.discard(packet_id)
            self.acknowledged(packet_id, _refusal(PacketTypes.PUBREC, body[2], body))
        else:
            if kind in ANSWERS_WITH_ID:
                self._used_ids.discard(int.from_bytes(body[:2], "big"))
            self._leave_to_paho(first, body)

    def acknowledge_taken(self) -> None:
        """Write the acknowledgements of what ``take`` was given since, in the order of arrival."""
        owed = self._owed
        if owed:
            self.stream.send(b"".join(owed))
            self.acknowledges(len(owed))
            owed.clear()

    def acknowledge_withheld(self) -> None:
        """Acknowledge what was not to be acknowledged yet, and what has come since."""
        self.acknowledge_taken()
        withheld, self._withheld = self._withheld, []
        for packet_id in withheld:
            self.stream.send(write_puback(packet_id))
        self.want_flush()

    def take_oversized(self, skipped: Oversized) -> None:
        """Acknowledge a message that was skipped, so that the broker continues, and tell of it."""
        qos = skipped.first >> 1 & 3
        topic = skipped.head[2 : -2 if qos else None]
        self.refused_too_large(topic, skipped.size)
        packet_id = int.from_bytes(skipped.head[-2:], "big")
        self.acknowledge_taken()
        if qos == 1:
            self.stream.send(write_puback(packet_id))
            self.want_flush()
        elif qos == 2:
            self._send_pubrec(packet_id)  # paho answers the PUBREL, also of a message that it has not seen

    def _with_topic(self, message: Publish, alias: int) -> Publish:
        """Fill in, or remember, what a topic alias stands for, though we have not asked for any."""
        if message.topic:
            if alias and (alias in self._aliases or len(self._aliases) < MAX_ALIASES):
                self._aliases[alias] = message.topic
            return message
        topic = self._aliases.get(alias)
        if topic is None:
            raise Malformed(f"protocol error: topic alias {alias} was never given a topic")
        return message._replace(topic=topic)

    def _on_qos_2(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.received(Publish(message._topic, bytes(message.payload), 0, bool(message.retain)))

    def _mid_generate(self) -> int:
        """Return an id that nothing on its way has (MQTT 3.1.1, section 2.3.1)."""
        used, packet_id = self._used_ids, self._last_mid
        if len(used) >= MAX_ID:
            raise OverflowError("all 65,535 packet ids are in use")
        while (packet_id := packet_id % MAX_ID + 1) in used:
            pass
        self._last_mid = packet_id
        used.add(packet_id)
        return packet_id

    @property
    def keepalive_s(self) -> int:
        """As we asked for, or as an MQTT 5 broker demands instead; 0 = none."""
        return int(self._keepalive)

    def heard(self) -> None:
        """Bytes have arrived: the broker is alive."""
        self._last_bytes_received = time.monotonic()

    def _leave_to_paho(self, first: int, body: bytes) -> None:
        self._in_packet = {
            "command": first,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        try:
            failed = self._packet_handle()
        except MalformedPacket as exc:
            raise Malformed(f"protocol error: {exc}") from exc
        if failed:
            self._loop_rc_handle(failed)

    def written_too_late(self, packet_id: int, topic: str) -> None:
        """A packet was dropped unwritten, its time being past."""
        self._used_ids.discard(packet_id)
        self.expired(packet_id, topic)

    # -- in place of paho's own --------------------------------------------------------------------

    def _create_socket(self) -> Any:
        """Take the stream that is connected already: paho's own connect blocks, up to seconds."""
        return self.stream

    def _packet_queue(
        self,
        command: int,
        packet: bytes | bytearray,
        mid: int,
        qos: int,
        info: paho.MQTTMessageInfo | None = None,
    ) -> MQTTErrorCode:
        """Send in one order with everything else."""
        limit, self._limit = self._limit, None
        topic, not_after = ("", None) if limit is None else limit
        self._write(packet, mid, topic, not_after)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def _paho_properties(payload: bytes, expires_s: int | None) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    pairs = metadata_of(payload)
    if pairs:
        properties.UserProperty = pairs
    if expires_s is not None:
        properties.MessageExpiryInterval = expires_s
    return properties


def _refusal(kind: int, reason: int, body: bytes) -> str:
    """Return why a message was refused: the name of the code, and the broker's own text."""
    name, said = str(ReasonCode(kind, identifier=reason)), reason_string(body, 3)
    return f"{name}: {said}" if said else name
