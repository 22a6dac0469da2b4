"""PUBLISH and PUBACK on the wire, MQTT 3.1.1 and 5: the two packets that every message costs.

Pure functions. Sections are those of the MQTT 3.1.1 standard; where version 5 differs it adds properties,
a length and that many bytes; ``properties`` has what stands in them.
"""

from __future__ import annotations

from typing import NamedTuple

from heron_mqtt.named_tuples import make_tuple

PUBLISH, PUBACK = 0x30, 0x40


class Malformed(ConnectionError):
    """What came breaks the MQTT protocol."""


class Publish(NamedTuple):
    """A message as it arrived. ``packet_id`` is 0 at QoS 0."""

    topic: bytes
    payload: bytes
    packet_id: int
    retain: bool


def read_length(data: bytes, at: int) -> tuple[int, int] | None:
    """Return a variable-length integer (section 2.2.3) and where it ends; None if it is not all there.

    Raises:
        Malformed: It is longer than four bytes.
    """
    two = data[at : at + 2]
    if two and two[0] < 0x80:
        return two[0], at + 1
    if len(two) == 2 and two[1] < 0x80:  # a message of ours
        return two[0] & 0x7F | two[1] << 7, at + 2
    value = 0
    for n, byte in enumerate(data[at : at + 4]):
        value |= (byte & 0x7F) << 7 * n
        if not byte & 0x80:
            return value, at + n + 1
    if len(data) - at >= 4:
        raise Malformed("protocol error: a length of more than four bytes")
    return None


def write_length(value: int) -> bytes:
    """Return a variable-length integer."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def write_publish(
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    packet_id: int,
    *,
    five: bool,
    expires_s: int | None = None,
    properties: bytes = b"",
) -> bytes:
    """Return a PUBLISH of QoS 0 or 1 (section 3.3).

    Args:
        topic: Its topic.
        payload: Its payload.
        qos: 0 or 1.
        retain: Keep it for late subscribers.
        packet_id: Left out at QoS 0.
        five: MQTT 5.
        expires_s: After so many seconds the broker shall not deliver it any more (MQTT 5, section 3.3.2.3.3).
        properties: Further ones, as they go out (MQTT 5).

    Raises:
        OverflowError: The topic is longer than 65,535 bytes.
    """
    name = topic.encode()
    head = len(name).to_bytes(2, "big") + name
    if qos:
        head += packet_id.to_bytes(2, "big")
    if five:
        if expires_s is not None:
            properties = b"\2" + expires_s.to_bytes(4, "big") + properties
        head += write_length(len(properties)) + properties
    first, size = PUBLISH | qos << 1 | retain, len(head) + len(payload)
    if 0x80 <= size < 0x4000:  # a message of ours
        return bytes((first, size & 0x7F | 0x80, size >> 7)) + head + payload
    return bytes((first,)) + write_length(size) + head + payload


def read_publish(first: int, body: bytes, *, five: bool) -> Publish:
    """Take a PUBLISH of QoS 0 or 1 apart.

    Raises:
        Malformed: It ends too early, or has no topic.
    """
    size = len(body)
    at = 2 + (body[0] << 8 | body[1]) if size >= 2 else size + 1
    topic = body[2:at]
    packet_id = 0
    has_id = first & 0x06
    if has_id:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
    if five:
        properties = read_length(body, at)
        at = size + 1 if properties is None else sum(properties)
    if at > size or not (topic or five) or (has_id and not packet_id):
        raise Malformed("protocol error: a malformed PUBLISH")
    return make_tuple(Publish, (topic, body[at:], packet_id, first & 0x01 == 1))


def read_alias(first: int, body: bytes) -> int:
    """Return the topic alias of an MQTT 5 PUBLISH that ``read_publish`` has taken apart; 0 = none."""
    at = 2 + int.from_bytes(body[:2], "big") + (2 if first & 0x06 else 0)
    if not body[at]:
        return 0  # no properties: nearly always
    length = read_length(body, at)
    return 0 if length is None else _topic_alias(body[length[1] : sum(length)])


_FIXED_BYTES = {0x01: 1, 0x02: 4, 0x23: 2}  # of the properties of a PUBLISH that are no strings


def _topic_alias(properties: bytes) -> int:
    """Return the topic alias among the properties of a PUBLISH; 0 = none (MQTT 5, section 3.3.2.3).

    Raises:
        Malformed: They are not those of a PUBLISH.
    """
    at, alias = 0, 0
    while at < len(properties):
        name = properties[at]
        at += 1
        if name == 0x23:
            alias = int.from_bytes(properties[at : at + 2], "big")
        if name in _FIXED_BYTES:
            at += _FIXED_BYTES[name]
        elif name == 0x0B:  # a subscription identifier: a variable-length integer
            found = read_length(properties, at)
            at = len(properties) + 1 if found is None else found[1]
        elif name in {0x03, 0x08, 0x09, 0x26}:
            for _ in range(2 if name == 0x26 else 1):  # a user property is a pair
                at += 2 + int.from_bytes(properties[at : at + 2], "big")
        else:
            raise Malformed(f"protocol error: property {name:#x} in a PUBLISH")
    if at != len(properties):
        raise Malformed("protocol error: a PUBLISH ends inside its properties")
    return alias


def publish_head_bytes(first: int, body: bytes) -> int | None:
    """Return how much of a PUBLISH says what it is (topic and packet id); None if more must come first."""
    return None if len(body) < 2 else 2 + int.from_bytes(body[:2], "big") + (2 if first & 0x06 else 0)


def write_puback(packet_id: int) -> bytes:
    """Return the acknowledgement of a QoS 1 PUBLISH (section 3.4)."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def read_puback(body: bytes, *, five: bool) -> tuple[int, int]:
    """Return the packet id and the reason code (MQTT 5, section 3.4.2.1; 0 = success) of a PUBACK.

    Raises:
        Malformed: It has the wrong length.
    """
    if len(body) == 2:
        return int.from_bytes(body, "big"), 0
    if not five or len(body) < 2:
        raise Malformed("protocol error: a malformed PUBACK")
    return int.from_bytes(body[:2], "big"), body[2]
