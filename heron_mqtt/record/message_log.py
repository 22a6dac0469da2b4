"""From messages at the broker to rows: what was published, what arrived, and what a network did to it.

One row for each message published here and one for each that arrived here. A message that was both keeps
its payload in the first row alone, so that replaying what has a payload replays each message once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.tap import ArrivalKind
from heron_mqtt.record.guard import guarded
from heron_mqtt.record.schema import EVENT, MESSAGE, RowTable

MAX_PAYLOAD = 16_384  # bytes; of a larger one the size alone is recorded
REMEMBERED = 4_096  # messages on their way: published here and not back yet, or in an impaired network

SAID_OUT = frozenset({"fault", "authority_state"})
SAID_IN = frozenset({"estop", "estop_confirm", "authority_request", "lease", "owner", "take"})
"""Messages that are events of the run, seen where they leave and where they arrive."""

_RETAINED = "retained"
Key = tuple[str, Any, Any, Any]  # channel, sender, boot, seq
Row = tuple[Any, ...]
Add = Callable[[RowTable, Row], None]


class MessageLog:
    """Makes rows of messages; a ``MessageTap``.

    What is called where messages are handled only takes note of the time; rows are made later, by whoever
    calls what ``later`` was given, in the order in which it was given.

    Args:
        add: Takes a row of a table.
        later: Takes a call that makes rows.
        elapsed_s: Time since the record began, s.
        source: Says whose side this is: ``environment`` or an agent.
        keeps_messages: Record every message; else only the events among them.
    """

    def __init__(
        self,
        add: Add,
        later: Callable[[Callable[[], tuple[RowTable, Row] | None]], None],
        elapsed_s: Callable[[], float],
        *,
        source: str,
        keeps_messages: bool = True,
    ) -> None:
        self.failures = 0
        self.setpoints: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}
        """By agent and device, the newest setpoint (no renewal) that was published, and when."""
        self.holders: dict[tuple[str, str], str | None] = {}
        """By agent and device, who holds its lease, where the device says so."""
        self.run: str | None = None
        """boot of the newest ``run/state``: names the run."""
        self._add = add
        self._later = later
        self._elapsed_s = elapsed_s
        self._source = source
        self._keeps_messages = keeps_messages
        self._out: OrderedDict[Key, Mapping[str, Any]] = OrderedDict()
        self._network: OrderedDict[tuple[str, Key], tuple[list[str], float]] = OrderedDict()

    # -- where messages are handled ------------------------------------------------------------------

    @guarded
    def published(
        self, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> None:
        """Take a message that is on its way out; see ``MessageTap``."""
        now_s = self._elapsed_s()
        kind = message.get("type")
        if kind == "setpoint":
            if not message.get("renewal"):
                self._note_setpoint(now_s, channel, message)
        elif kind == "run_state":
            self._note_run(message)
        elif type(kind) is str and kind in SAID_OUT:
            self._event(channel, message)
        if self._keeps_messages:
            self._later(partial(self._sent, now_s, channel, message, payload, retain))

    @guarded
    def arrived(
        self,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes | None,
        retained: bool,
        kind: ArrivalKind,
    ) -> None:
        """Take a message that has come in; see ``MessageTap``."""
        now_s = self._elapsed_s()
        said = message.get("type")
        if type(said) is str and kind == "new":
            if said in SAID_IN:
                self._event(channel, message)
                if said == "lease":
                    self._note_lease(channel, message)
            elif said == "run_state" and not retained:
                self._note_run(message)
        if self._keeps_messages:
            self._later(partial(self._received, now_s, channel, message, payload, retained, kind))

    @guarded
    def impaired(
        self, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> None:
        """Take what an impaired network does to a message; see ``MessageTap``."""
        if self._keeps_messages:
            self._later(partial(self._crossed, self._elapsed_s(), stream, channel, message, what, delay_s))

    # -- where rows are made, one call at a time -----------------------------------------------------

    def _sent(
        self, at_s: float, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> tuple[RowTable, Row]:
        key = _key(channel, message)
        text, size = _text(message, payload)
        if key[3] is not None:
            self._out[key] = message
            if len(self._out) > REMEMBERED:
                self._out.popitem(last=False)
        network, delay_s = self._network.pop(("out", key), (None, None))
        return self._row(at_s, "out", key, message, size, retain, None, network, delay_s, text)

    def _received(
        self,
        at_s: float,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes | None,
        retained: bool,
        kind: str,
    ) -> tuple[RowTable, Row]:
        key = _key(channel, message)
        stream = _RETAINED if retained else "in"
        network, delay_s = self._network.pop((stream, key), (None, None))
        text, size = self._text_of_arrival(key, message, payload)
        return self._row(at_s, "in", key, message, size, retained, kind, network, delay_s, text)

    def _crossed(
        self, at_s: float, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> tuple[RowTable, Row] | None:
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
        self, key: Key, message: Mapping[str, Any], payload: bytes | None
    ) -> tuple[str | None, int]:
        """Return payload and size; no payload of a message that was published here and came back."""
        text, size = _text(message, payload)
        ours = self._out.get(key)
        return (None if ours is not None and _same(ours, message) else text), size

    # -- rows --------------------------------------------------------------------------------------

    def _row(
        self,
        at_s: float,
        direction: str,
        key: Key,
        message: Mapping[str, Any],
        size: int,
        retained: bool,
        arrival: str | None,
        network: list[str] | None,
        delay_s: float | None,
        text: str | None,
    ) -> tuple[RowTable, Row]:
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
                words(message.get("type")),
                size,
                _time(message.get("sent_at")),
                int(retained),
                arrival,
                "+".join(network) if network else None,
                delay_s,
                text,
            ),
        )

    def _event(self, channel: str, message: Mapping[str, Any]) -> None:
        kind = str(message["type"])
        said = {k: v for k, v in message.items() if k not in {"type", "env_id", "sent_at"}}
        text, _ = _text(said, None)
        named = {"authority_state": "authority", "fault": "fault", "estop": "stop"}.get(kind, kind)
        self._add(
            EVENT,
            (
                self._elapsed_s(),
                whole(message.get("episode")),
                whole(message.get("step")),
                named,
                channel,
                sentence(kind, message),
                text,
            ),
        )

    def _note_setpoint(self, at_s: float, channel: str, message: Mapping[str, Any]) -> None:
        at = _device(channel)
        if at is not None:
            self.setpoints[at] = (at_s, message)

    def _note_lease(self, channel: str, message: Mapping[str, Any]) -> None:
        at = _device(channel)
        if at is not None:
            holder = message.get("holder") if message.get("state") == "held" else None
            self.holders[at] = words(holder)

    def _note_run(self, message: Mapping[str, Any]) -> None:
        boot = message.get("boot")
        if isinstance(boot, str):
            self.run = boot


def sentence(kind: str, message: Mapping[str, Any]) -> str:
    """Say in a few words what an event is; for a time line."""
    match kind:
        case "estop":
            return f"emergency stop {'pressed' if message.get('active', True) else 'released'}"
        case "estop_confirm":
            return "emergency stop confirmed" if message.get("active", True) else "release confirmed"
        case "fault":
            return f"told to have the fault {message.get('kind')} for {message.get('steps')} steps"
        case "authority_request":
            return f"{message.get('level')} asked for by {message.get('who')}"
        case "authority_state":
            asked, level = message.get("requested"), message.get("level")
            if asked is None:
                return f"authority {level}"
            return f"{asked} {'granted' if message.get('granted', True) else 'refused'}, authority {level}"
        case "lease":
            return f"lease {message.get('state')} {message.get('holder') or ''}".rstrip()
    return f"{kind} {message.get('state', '')}".rstrip()


# -- values from the wire, as SQLite takes them ---------------------------------------------------------


def whole(value: object) -> int | None:
    """Return a number of the wire that fits an SQLite integer; None if it is none."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def words(value: object) -> str | None:
    """Return a text of the wire; None if it is none."""
    return value if isinstance(value, str) else None


def _key(channel: str, message: Mapping[str, Any]) -> Key:
    get = message.get
    return channel, words(get("sender")), words(get("boot")), whole(get("seq"))


def _text(message: Mapping[str, Any], payload: bytes | None) -> tuple[str | None, int]:
    """Return a message's payload as text (None: too large) and its size in bytes."""
    if payload is None:
        try:
            payload = encode(message)
        except MessageError:
            return None, 0
    size = len(payload)
    return (payload.decode("utf-8", "replace") if size <= MAX_PAYLOAD else None), size


def _same(sent: Mapping[str, Any], arrived: Mapping[str, Any]) -> bool:
    """Whether a message came back as it was sent."""
    try:
        return sent == arrived or encode(sent) == encode(arrived)
    except MessageError:
        return False


def _time(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _device(channel: str) -> tuple[str, str] | None:
    """Return agent and device of a device's channel."""
    levels = topics.levels(channel)
    return (levels[1], levels[2]) if len(levels) == 4 and levels[0] == "devices" else None
