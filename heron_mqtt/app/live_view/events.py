"""What changed that a person should know of: stops, authority, leases, births, faults."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

from heron_mqtt.app.operator_client.environments import AgentSeen, EnvironmentSeen
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.json_object import Json
from heron_mqtt.messages import AuthorityState, Owner

EVENTS = 500
Facts = tuple[str, str, str]  # kind, subject and a sentence


class LiveEvents:
    """The newest events of one environment."""

    def __init__(self) -> None:
        self._events: deque[Json] = deque(maxlen=EVENTS)
        self._number = 0

    def __len__(self) -> int:
        return len(self._events)

    def note(self, heard: Heard, facts: Facts) -> None:
        """Keep what a message has changed."""
        kind, subject, what = facts
        self._number += 1
        self._events.append(
            {
                "n": self._number,
                "at_s": heard.at_s,
                "at": (_sent_at(heard) or datetime.now(UTC)).isoformat(timespec="seconds"),
                "is_since": not heard.retained or _sent_at(heard) is not None,
                "kind": kind,
                "subject": subject[:200],
                "what": what[:500],
                "kept": heard.retained,
                "acknowledged": None,
            }
        )

    def acknowledge(self, number: int, who: str) -> bool:
        """Note that a person has seen an event; return whether it is still there."""
        for event in self._events:
            if event["n"] == number:
                event["acknowledged"] = {"who": who, "at": datetime.now(UTC).isoformat(timespec="seconds")}
                return True
        return False

    def as_json(self, now_s: float) -> list[Json]:
        """Return them, the newest first."""
        return [{**event, "ago_s": round(now_s - event["at_s"], 1)} for event in reversed(self._events)]


def _sent_at(heard: Heard) -> datetime | None:
    """Return when a message that the broker had kept was sent, by its sender's clock; None = of others."""
    text = (heard.fields or {}).get("sent_at") if heard.retained else None
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
        return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def may_be_event(levels: list[str]) -> bool:
    """Whether a message on this channel can change one of the facts."""
    match levels:
        case ["estop", *_] | ["run", "state" | "owner"] | ["agents", _, "status" | "owner"]:
            return True
        case ["devices", _, _, leaf]:
            return leaf in {"status", "authority_state", "lease", "owner"}
        case _:
            return False


def facts(view: EnvironmentSeen, levels: list[str]) -> Facts | None:
    """Return what would be an event if a message on this channel changes it."""
    match levels:
        case ["estop"]:
            stop = view.stop.stop
            if stop is None:
                return "stop", "all devices", "no emergency stop is in force"
            return "stop", "all devices", f"EMERGENCY STOP by {stop.who or 'unknown'}: {stop.why or '-'}"
        case ["estop", "confirm", agent] if agent in view.agents:
            return _confirmation(agent, view.agents[agent])
        case ["estop", "confirm", agent, name] if f"{agent}/{name}" in view.devices:
            return _confirmation(f"{agent}/{name}", view.devices[f"{agent}/{name}"])
        case ["run", "state"] if view.run is not None:
            return "run", view.env_id, f"the run is {view.run.state}"
        case ["run", "owner"]:
            return _ownership(view.env_id, view.run_owner)
        case ["agents", agent, "owner"] if agent in view.agents:
            return _ownership(agent, view.agents[agent].owner)
        case ["agents", agent, "status"] if agent in view.agents:
            status = view.agents[agent].status
            return ("agent", agent, _says(status.state, status.reason)) if status is not None else None
        case ["devices", agent, name, leaf] if (device := view.devices.get(f"{agent}/{name}")) is not None:
            label = f"{agent}/{name}"
            if leaf == "status" and device.status is not None:
                return "device", label, _says(device.status.state, device.status.reason)
            if leaf == "owner":
                return _ownership(label, device.owner)
            if leaf == "authority_state" and device.authority is not None:
                return "authority", label, _authority(device.authority)
            if leaf == "lease" and device.lease is not None:
                by = f" by {device.lease.holder}" if device.lease.holder else ""
                return "lease", label, f"{device.lease.state}{by}"
    return None


def _authority(state: AuthorityState) -> str:
    manual = f", under manual control of {state.manual_by}" if state.manual_by else ""
    if not state.granted and state.requested is not None:
        return _says(f"{state.requested} REFUSED, it stays at {state.level}{manual}", state.reason)
    return _says(f"{state.level}{manual}", state.reason)


def _ownership(subject: str, owner: Owner | None) -> Facts | None:
    """Return who holds a name: another one is a takeover, or a new beginning."""
    if owner is None or owner.state != "holds":
        return None
    return (
        "owner",
        subject,
        f"held by {owner.who or 'unknown'} (boot {owner.boot or '-'}, no. {owner.term or 1} to hold it)",
    )


def _confirmation(subject: str, member: AgentSeen) -> Facts | None:
    told = member.confirm
    if told is None:
        return None
    what = "has confirmed the stop" if told.active else "has confirmed the release"
    return "stop", subject, what if told.safe or not told.active else "has received the stop and is NOT SAFE"


def _says(what: str, reason: str | None) -> str:
    return f"{what}: {reason}" if reason else what
