"""From messages at the broker to rows: what was published, what arrived, and what a network did to it.

Called where messages are handled: it notes the time and hands them on; rows are made elsewhere
(``message_rows``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from heron_mqtt.messaging import topics
from heron_mqtt.messaging.tap import ArrivalKind
from heron_mqtt.record.guard import guarded
from heron_mqtt.record.message_rows import payload_text, whole, wire_text
from heron_mqtt.record.schema import EVENT
from heron_mqtt.record.sink import RecordSink

SAID_OUT = frozenset({"fault", "authority_state"})
SAID_IN = frozenset({"estop", "estop_confirm", "authority_request", "lease", "owner", "take"})
"""Messages that are events of the run, seen where they leave and where they arrive."""


class MessageLog:
    """Hands messages on to be recorded, and finds the events among them; a ``MessageTap``.

    Args:
        sink: Takes rows and messages.
        elapsed_s: Time since the record began, s.
        keeps_messages: Record every message; else only the events among them.
    """

    def __init__(
        self,
        sink: RecordSink,
        elapsed_s: Callable[[], float],
        *,
        keeps_messages: bool = True,
    ) -> None:
        self.failures = 0
        self.setpoints: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}
        """By agent and device, the newest setpoint (no renewal) that was published, and when."""
        self.holders: dict[tuple[str, str], str | None] = {}
        """By agent and device, who holds its lease, if the device publishes it."""
        self.run: str | None = None
        """boot of the newest ``run/state``: names the run."""
        self._sink = sink
        self._elapsed_s = elapsed_s
        self._keeps_messages = keeps_messages

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
            self._sink.sent(now_s, channel, message, payload, retain)

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
            self._sink.received(now_s, channel, message, payload, retained, kind)

    @guarded
    def impaired(
        self, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> None:
        """Take what an impaired network does to a message; see ``MessageTap``."""
        if self._keeps_messages:
            self._sink.crossed(self._elapsed_s(), stream, channel, message, what, delay_s)

    # -- further calls -----------------------------------------------------------------------------------

    def _event(self, channel: str, message: Mapping[str, Any]) -> None:
        kind = str(message["type"])
        said = {k: v for k, v in message.items() if k not in {"type", "env_id", "sent_at"}}
        text, _ = payload_text(said, None)
        named = {"authority_state": "authority", "fault": "fault", "estop": "stop"}.get(kind, kind)
        self._sink.add(
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
            self.holders[at] = wire_text(holder)

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
            return f"fault on request: {message.get('kind')} for {message.get('steps')} steps"
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


def _device(channel: str) -> tuple[str, str] | None:
    """Return agent and device of a device's channel."""
    levels = topics.levels(channel)
    return (levels[1], levels[2]) if len(levels) == 4 and levels[0] == "devices" else None
