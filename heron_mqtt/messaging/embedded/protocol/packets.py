"""MQTT 3.1.1 on the wire: what a client may send, read strictly, and what a broker answers.

Everything here is a pure function of bytes. A packet that breaks the standard raises `MalformedPacket`;
the connection that sent it ends, and nothing else does. Section numbers refer to the OASIS standard
"MQTT Version 3.1.1" (29 October 2014).
"""

from __future__ import annotations

from dataclasses import dataclass, field

CONNECT = 1
PUBLISH = 3
PUBACK = 4
PUBREC = 5
PUBREL = 6
PUBCOMP = 7
SUBSCRIBE = 8
UNSUBSCRIBE = 10
UNSUBACK = 11
PINGREQ = 12
DISCONNECT = 14

# CONNACK return codes, table 3.1.
ACCEPTED = 0
BAD_PROTOCOL_LEVEL = 1
IDENTIFIER_REJECTED = 2
SERVER_UNAVAILABLE = 3
BAD_CREDENTIALS = 4
NOT_AUTHORISED = 5

SUBSCRIBE_FAILURE = 0x80
PROTOCOL_LEVEL = 4  # section 3.1.2.2: 3.1.1 announces itself as 4, 3.1 as 3 and 5.0 as 5

PINGRESP_PACKET = b"\xd0\x00"


class MalformedPacket(Exception):
    """A client sent what the standard does not allow; says what."""


class UnsupportedProtocol(MalformedPacket):
    """The client uses another version of MQTT.

    Args:
        level: The protocol level it announced (5 for MQTT 5).
    """

    def __init__(self, level: int) -> None:
        self.level = level
        super().__init__(f"protocol level {level}; this broker supports MQTT 3.1.1 (level 4)")


@dataclass(frozen=True, slots=True)
class WillMessage:
    """The message to publish when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT packet. The password is never shown by ``repr``."""

    client_id: str
    clean_session: bool
    keep_alive_s: int
    will: WillMessage | None
    username: str | None
    password: bytes | None = field(repr=False)


def read_string(body: bytes, pos: int) -> tuple[str, int]:
    """Read a length-prefixed UTF-8 string; return it and the position after it (section 1.5.3)."""
    raw, pos = read_binary(body, pos)
    return decode_utf8(raw), pos


def decode_utf8(raw: bytes) -> str:
    """Decode strictly: no surrogates, no U+0000 (MQTT-1.5.3-1 and -2)."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedPacket("a string is not UTF-8") from exc
    if "\0" in text:
        raise MalformedPacket("a string contains U+0000")
    return text


def read_binary(body: bytes, pos: int) -> tuple[bytes, int]:
    """Read length-prefixed bytes; return them and the position after them."""
    start = pos + 2
    if start > len(body):
        raise MalformedPacket("the packet ends inside a length")
    end = start + (body[pos] << 8 | body[pos + 1])
    if end > len(body):
        raise MalformedPacket("the packet ends inside a string")
    return body[start:end], end


def read_packet_id(body: bytes, pos: int = 0) -> int:
    """Read a packet identifier, which is never 0 (MQTT-2.3.1-1)."""
    if pos + 2 > len(body):
        raise MalformedPacket("the packet ends inside a packet identifier")
    packet_id = body[pos] << 8 | body[pos + 1]
    if packet_id == 0:
        raise MalformedPacket("packet identifier 0")
    return packet_id


def read_ack(body: bytes) -> int:
    """Read the body of PUBACK, PUBREC, PUBREL or PUBCOMP: one packet identifier and nothing else."""
    if len(body) != 2:
        raise MalformedPacket(f"an acknowledgement of {len(body)} bytes, expected 2")
    return read_packet_id(body)


def read_connect(body: bytes) -> Connect:
    """Read the body of a CONNECT packet (section 3.1).

    Raises:
        UnsupportedProtocol: Another version of MQTT; to be answered with return code 1.
        MalformedPacket: Anything else that is wrong; to be answered by closing.
    """
    name, pos = read_binary(body, 0)
    if name not in (b"MQTT", b"MQIsdp"):
        raise MalformedPacket("not an MQTT client: the protocol name is neither MQTT nor MQIsdp")
    if pos + 4 > len(body):
        raise MalformedPacket("the CONNECT packet is too short")
    level, flags = body[pos], body[pos + 1]
    keep_alive_s = body[pos + 2] << 8 | body[pos + 3]
    pos += 4
    if name != b"MQTT" or level != PROTOCOL_LEVEL:
        raise UnsupportedProtocol(level)
    has_will, will_qos, will_retain = bool(flags & 0x04), flags >> 3 & 3, bool(flags & 0x20)
    if flags & 0x01:
        raise MalformedPacket("the reserved CONNECT flag is set")
    if will_qos == 3 or (not has_will and (will_qos or will_retain)):
        raise MalformedPacket("contradicting will flags")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacket("a password without a user name")
    client_id, pos = read_string(body, pos)
    will = None
    if has_will:
        will_topic, pos = read_string(body, pos)
        will_payload, pos = read_binary(body, pos)
        will = WillMessage(check_topic(will_topic), will_payload, will_qos, will_retain)
    username: str | None = None
    password: bytes | None = None
    if flags & 0x80:
        username, pos = read_string(body, pos)
    if flags & 0x40:
        password, pos = read_binary(body, pos)
    if pos != len(body):
        raise MalformedPacket("bytes left over at the end of CONNECT")
    return Connect(client_id, bool(flags & 0x02), keep_alive_s, will, username, password)


def read_subscribe(body: bytes) -> tuple[int, list[tuple[str, int]]]:
    """Read the body of SUBSCRIBE: the packet identifier and each (topic filter, QoS)."""
    packet_id, pos = read_packet_id(body), 2
    requests: list[tuple[str, int]] = []
    while pos < len(body):
        topic_filter, pos = read_string(body, pos)
        if pos >= len(body) or body[pos] > 2:
            raise MalformedPacket("SUBSCRIBE without a QoS of 0, 1 or 2")
        requests.append((topic_filter, body[pos]))
        pos += 1
    if not requests:
        raise MalformedPacket("SUBSCRIBE without a topic filter")
    return packet_id, requests


def read_unsubscribe(body: bytes) -> tuple[int, list[str]]:
    """Read the body of UNSUBSCRIBE: the packet identifier and the topic filters."""
    packet_id, pos = read_packet_id(body), 2
    filters: list[str] = []
    while pos < len(body):
        topic_filter, pos = read_string(body, pos)
        filters.append(topic_filter)
    if not filters:
        raise MalformedPacket("UNSUBSCRIBE without a topic filter")
    return packet_id, filters


def check_topic(topic: str) -> str:
    """Return a topic name as it came, or raise: not empty, no wildcard (section 4.7)."""
    if not topic:
        raise MalformedPacket("an empty topic")
    if "+" in topic or "#" in topic:
        raise MalformedPacket("a wildcard in a topic name")
    return topic


def remaining_length(length: int) -> bytes:
    """Encode the length field of a fixed header (section 2.2.3)."""
    if length < 128:
        return bytes((length,))
    encoded = bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | 0x80 if length else low)
        if not length:
            return bytes(encoded)


def connack(return_code: int, *, session_present: bool = False) -> bytes:
    """Build a CONNACK packet."""
    return bytes((0x20, 2, session_present, return_code))


def suback(packet_id: int, return_codes: list[int]) -> bytes:
    """Build a SUBACK packet: the granted QoS of each filter, or 0x80."""
    return (
        b"\x90" + remaining_length(2 + len(return_codes)) + packet_id.to_bytes(2, "big") + bytes(return_codes)
    )


def ack(packet_type: int, packet_id: int) -> bytes:
    """Build PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK."""
    flags = 2 if packet_type == PUBREL else 0
    return bytes((packet_type << 4 | flags, 2, packet_id >> 8, packet_id & 0xFF))


def publish_head(topic: bytes, payload_bytes: int, qos: int, *, retain: bool, dup: bool) -> bytes:
    """Build a PUBLISH packet up to, not including, its packet identifier (or payload at QoS 0)."""
    length = 2 + len(topic) + payload_bytes + (2 if qos else 0)
    first = 0x30 | dup << 3 | qos << 1 | retain
    return bytes((first,)) + remaining_length(length) + len(topic).to_bytes(2, "big") + topic
