"""One message, as the row that stands for it.

One row for each message published here and one for each that arrived here. A message that was both keeps
its payload in the first row alone, so that replaying what has a payload replays each message once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.messaging.codec import encode
from heron_mqtt.record.schema import MESSAGE, RowTable

MAX_PAYLOAD = 16_384  # bytes; of a larger one the size alone is recorded
REMEMBERED = 4_096  # messages on their way: published here and not back yet, or in an impaired network

_RETAINED = "retained"
MessageKey = tuple[str, Any, Any, Any]  # channel, sender, boot, seq
Row = tuple[Any, ...]
Made = tuple[RowTable, Row]


class MessageRows:
    """Makes rows of messages, in the order in which they passed.

    Args:
        source: Says whose side this is: ``environment`` or an agent.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._out: OrderedDict[MessageKey, Mapping[str, Any]] = OrderedDict()
        self._network: OrderedDict[tuple[str, MessageKey], tuple[list[str], float]] = OrderedDict()

    def sent(
        self, at_s: float, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> Made:
        """Return the row of a message that was published here."""
        key = _key(channel, message)
        text, size = payload_text(message, payload)
        if key[3] is not None:
            self._out[key] = message
            if len(self._out) > REMEMBERED:
                self._out.popitem(last=False)
        network, delay_s = self._network.pop(("out", key), (None, None))
        return self._row(at_s, "out", key, message, size, retain, None, network, delay_s, text)

    def received(
        self,
        at_s: float,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes | None,
        retained: bool,
        kind: str,
    ) -> Made:
        """Return the row of a message that has arrived; ``kind`` as in ``MessageTap.arrived``."""
        key = _key(channel, message)
        stream = _RETAINED if retained else "in"
        network, delay_s = self._network.pop((stream, key), (None, None))
        text, size = self._text_of_arrival(key, message, payload)
        return self._row(at_s, "in", key, message, size, retained, kind, network, delay_s, text)

    def crossed(
        self, at_s: float, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> Made | None:
        """Take what a network does to a message; return the row of one that will not arrive."""
        key = _key(channel, message)
        if stream != "out" and what in {"lost", "partitioned"}:  # it will not arrive
            text, size = self._text_of_arrival(key, message, None)
            is_retained = stream == _RETAINED
            return self._row(at_s, "in", key, message, size, is_retained, "none", [what], delay_s, text)
        found, before_s = self._network.setdefault((stream, key), ([], 0.0))
        self._network[stream, key] = ([*found, what], max(before_s, delay_s))
        if len(self._network) > REMEMBERED:
            self._network.popitem(last=False)
        return None

    def _text_of_arrival(
        self, key: MessageKey, message: Mapping[str, Any], payload: bytes | None
    ) -> tuple[str | None, int]:
        """Return payload and size; no payload of a message that was published here and came back."""
        text, size = payload_text(message, payload)
        ours = self._out.get(key)
        return (None if ours is not None and _same(ours, message) else text), size

    def _row(
        self,
        at_s: float,
        direction: str,
        key: MessageKey,
        message: Mapping[str, Any],
        size: int,
        retained: bool,
        arrival: str | None,
        network: list[str] | None,
        delay_s: float | None,
        text: str | None,
    ) -> Made:
        channel, sender, boot, seq = key
        return (
            MESSAGE,
            (
                self._source,
                at_s,
                direction,
                channel,
                sender,
                boot,
                seq,
                whole(message.get("episode")),
                whole(message.get("step")),
                wire_text(message.get("type")),
                size,
                _time(message.get("sent_at")),
                int(retained),
                arrival,
                "+".join(network) if network else None,
                delay_s,
                text,
            ),
        )


# -- values from the wire, as SQLite takes them ---------------------------------------------------------


def whole(value: object) -> int | None:
    """Return a number of the wire that fits an SQLite integer; None if it is none."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def wire_text(value: object) -> str | None:
    """Return a text of the wire; None if it is none."""
    return value if isinstance(value, str) else None


def _key(channel: str, message: Mapping[str, Any]) -> MessageKey:
    get = message.get
    return channel, wire_text(get("sender")), wire_text(get("boot")), whole(get("seq"))


def payload_text(message: Mapping[str, Any], payload: bytes | None) -> tuple[str | None, int]:
    """Return a message's payload as text (None: too large) and its size in bytes."""
    if payload is None:
        try:
            payload = encode(message)
        except MessageError:
            return None, 0
    size = len(payload)
    return (payload.decode("utf-8", "replace") if size <= MAX_PAYLOAD else None), size


def _same(sent: Mapping[str, Any], arrived: Mapping[str, Any]) -> bool:
    """Whether a message came back as it was sent, at once or later."""
    if "held_s" in arrived:
        arrived = {name: value for name, value in arrived.items() if name != "held_s"}
    try:
        return sent == arrived or encode(sent) == encode(arrived)
    except MessageError:
        return False


def _time(value: object) -> str | None:
    return value if isinstance(value, str) else None
