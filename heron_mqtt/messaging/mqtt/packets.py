"""PUBLISH and PUBACK on the wire, MQTT 3.1.1 and 5: the two packets that every message costs.

Pure functions. Sections are those of the MQTT 3.1.1 standard; where version 5 differs it adds properties,
a length and that many bytes, which nothing here uses: none are sent, those received are skipped.
"""

from __future__ import annotations

from typing import NamedTuple

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


def write_publish(topic: str, payload: bytes, qos: int, retain: bool, packet_id: int, *, five: bool) -> bytes:
    """Return a PUBLISH of QoS 0 or 1 (section 3.3).

    Raises:
        OverflowError: The topic is longer than 65,535 bytes.
    """
    name = topic.encode()
    head = len(name).to_bytes(2, "big") + name
    if qos:
        head += packet_id.to_bytes(2, "big")
    if five:
        head += b"\0"  # no properties
    return bytes((PUBLISH | qos << 1 | retain,)) + write_length(len(head) + len(payload)) + head + payload


def read_publish(first: int, body: bytes, *, five: bool) -> Publish:
    """Take a PUBLISH of QoS 0 or 1 apart.

    Raises:
        Malformed: It ends too early, or has no topic.
    """
    at = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:at]
    packet_id = 0
    if first & 0x06:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
    if five:
        properties = read_length(body, at)
        at = len(body) + 1 if properties is None else sum(properties)
    if at > len(body) or not (topic or five) or (first & 0x06 and not packet_id):
        raise Malformed("protocol error: a malformed PUBLISH")
    return Publish(topic, body[at:], packet_id, bool(first & 0x01))


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
