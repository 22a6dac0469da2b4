"""What MQTT 5 says beside a payload: metadata as user properties going out, reason strings coming in."""

from __future__ import annotations

from typing import Final

from pydantic_core import from_json

from heron_mqtt.messaging.mqtt.packets import Malformed, read_length

METADATA: Final = ("type", "sender", "env_id", "boot", "seq", "episode", "step", "sent_at", "held_s")
"""What every message of ours carries beside its own fields; they stay in the payload, too."""
MAX_VALUE_BYTES = 1_000
MAX_REASON = 200  # characters of a broker's text that are shown

USER_PROPERTY, REASON_STRING = 0x26, 0x1F
_HEADS = {name: b"\x26" + len(name).to_bytes(2, "big") + name.encode() for name in METADATA}


def metadata_of(payload: bytes) -> list[tuple[str, str]]:
    """Return the metadata of a message as names and texts; empty if it has none, or is no message of ours.

    What is longer than ``MAX_VALUE_BYTES``, or not printable, is left out.
    """
    try:
        message = from_json(payload)
    except ValueError:
        return []
    if not isinstance(message, dict):
        return []
    found = []
    for name in METADATA:
        value = message.get(name)
        if type(value) in {str, int, float}:
            text = str(value)
            # section 1.5.4: brokers may end the connection because of a control character
            if text.isprintable() and len(text.encode()) <= MAX_VALUE_BYTES:
                found.append((name, text))
    return found


def user_properties(payload: bytes) -> bytes:
    """Return the same as user properties (MQTT 5, section 3.3.2.3.7), as they go out."""
    packed = bytearray()
    for name, value in metadata_of(payload):
        text = value.encode()
        packed += _HEADS[name] + len(text).to_bytes(2, "big") + text
    return bytes(packed)


def reason_string(body: bytes, at: int) -> str:
    """Return the reason string among the properties of an answer, which begin at ``at``; empty = none.

    Raises:
        Malformed: They are not those of an answer.
    """
    if at >= len(body):
        return ""
    length = read_length(body, at)
    if length is None:
        raise Malformed("protocol error: an answer ends inside its properties")
    at, end = length[1], sum(length)
    if end > len(body):
        raise Malformed("protocol error: an answer ends inside its properties")
    text = b""
    while at < end:
        name = body[at]
        at += 1
        if name not in {USER_PROPERTY, REASON_STRING}:
            raise Malformed(f"protocol error: property {name:#x} in an answer")
        for _ in range(2 if name == USER_PROPERTY else 1):  # a user property is a pair
            size = int.from_bytes(body[at : at + 2], "big")
            if name == REASON_STRING:
                text = body[at + 2 : at + 2 + size]
            at += 2 + size
    if at != end:
        raise Malformed("protocol error: an answer ends inside its properties")
    return shown(text.decode(errors="replace"))


def shown(text: str) -> str:
    """Return a broker's text as it may be printed: of one line, without control characters, not too long."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text).strip()
    return plain if len(plain) <= MAX_REASON else f"{plain[:MAX_REASON]}..."


def with_reason(what: str, properties: object) -> str:
    """Return the name of a reason code with the broker's own text behind it, if it sent any.

    Args:
        what: The name.
        properties: As paho read them, or None.
    """
    said = getattr(properties, "ReasonString", None)
    return f"{what}: {shown(said)}" if isinstance(said, str) and shown(said) else what
