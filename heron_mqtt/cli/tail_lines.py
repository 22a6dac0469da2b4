"""Messages as lines for people: ``heron-mqtt tail``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from heron_mqtt.app.live_view.counts import observed
from heron_mqtt.app.live_view.delays import MinimumDelays
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.cli.kilo import kilo
from heron_mqtt.messages import MAX_INTEGER
from heron_mqtt.messaging.core.sequence import Arrival, SequenceTracker

HIDDEN = {
    *("type", "env_id", "sender", "boot", "seq", "sent_at", "episode", "step"),
    *("ack_seq", "ack_boot", "heard_seq", "heard_boot"),
}
SHOWN_IF_SO = {"renewal", "take_over", "release"}
"""What a setpoint nearly always says no to."""
SHOWN_FROM_S = 0.001  # a delay below it is none
STYLES = {"setpoint": "yellow", "telemetry": "cyan", "estop": "bold red", "fault": "red", "action": "green"}
TEXT = 160  # characters of what a message says


class TailLines:
    """Makes a line of each message.

    Args:
        many: Whether messages of several environments may come.
    """

    def __init__(self, *, many: bool) -> None:
        self._many = many
        self._tracker = SequenceTracker()
        self._quickest = MinimumDelays()

    def line(self, heard: Heard) -> tuple[str, str | None]:
        """Return the line of a message and its style."""
        where = f"{heard.env_id}: {heard.channel}" if self._many else heard.channel
        now = datetime.now(UTC)
        head = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d} {printable(where, 100)}"
        if heard.fields is None:
            what = f"UNREADABLE: {heard.malformed}" if heard.malformed else "removed from the broker"
            return f"{head}  {printable(what, TEXT)}", "red" if heard.malformed else "dim"
        fields = heard.fields
        kind = str(fields.get("type", ""))
        parts = [_value(name, value) for name, value in fields.items() if name not in HIDDEN]
        at = "" if fields.get("step") is None else f"[{fields.get('step')}] "
        kept = self._age(heard, fields)
        text = printable(f"{at}{' '.join(part for part in parts if part)}", TEXT)
        return f"{head}  {text}{kept}{self._gap(heard)}", STYLES.get(kind)

    def _age(self, heard: Heard, fields: Mapping[str, Any]) -> str:
        """Say how old a message is: when it was sent, or how much later it came than the quickest one."""
        if heard.retained:
            sent = fields.get("sent_at")
            at = f", sent {printable(sent[:19], 19)}" if isinstance(sent, str) else ""
            return f" (kept by the broker{at})"
        later_s = self._quickest.later_s(fields.get("sender"), fields.get("sent_at"), heard.at_s)
        return f"  +{1e3 * later_s:.0f} ms" if later_s is not None and later_s >= SHOWN_FROM_S else ""

    def _gap(self, heard: Heard) -> str:
        """Say how many messages are missing before this one, or that it came again."""
        fields = {} if heard.retained or heard.fields is None else heard.fields
        arrival, missing = observed(self._tracker, f"{heard.env_id}/{heard.channel}", fields)
        match arrival:
            case Arrival.AFTER_GAP:
                return f"  GAP of {missing}"
            case Arrival.AFTER_JUMP:
                return f"  JUMP (to seq {fields['seq']})"
            case Arrival.LATE:
                return f"  LATE (seq {fields['seq']})"
            case Arrival.DUPLICATE:
                return f"  REPEATED (seq {fields['seq']})"
            case _:
                return ""


def _value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return name if value else "" if name in SHOWN_IF_SO else f"{name}=no"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return f"{name}=?"
    if isinstance(value, int | float):
        if name.endswith("_mw") or name.startswith("p_"):
            return f"{name.removesuffix('_mw')}={kilo(value)}kW"
        if name.endswith("_mvar") or name.startswith("q_"):
            return f"{name.removesuffix('_mvar')}={kilo(value)}kvar" if value else ""
        if name == "soc" or name.startswith("soc_"):
            return f"{name}={value * 100:.1f}%"
        if name.endswith("_s"):
            return f"{name.removesuffix('_s')}={value:.4g}s"
        return f"{name}={value:.6g}"
    return f"{name}={value}"
