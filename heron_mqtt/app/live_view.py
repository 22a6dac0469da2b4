"""What goes on at a broker, kept up to date from its messages: for a page, a terminal, a metrics endpoint.

It reads and never publishes. Everything that is kept is bounded, because it comes from the network.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from heron_mqtt.app.operator_client.environments import (
    MAX_NAMES,
    Environments,
    EnvironmentSeen,
    checked_env_id,
)
from heron_mqtt.app.operator_client.observer import Heard, Observer
from heron_mqtt.app.operator_client.status import environment
from heron_mqtt.errors import MessageError
from heron_mqtt.messages import Action, Observation, parse_known_fields
from heron_mqtt.messaging import topics

Json = dict[str, Any]

SILENT_S = 2.0
"""A device that says it is online and has said nothing for so long is silent."""
EVENTS, MESSAGES, KINDS, STREAMS = 500, 500, 500, 20_000
PAYLOAD = 2_000  # characters of a message that are kept
RATE_S = 5.0  # over which rates are counted


@dataclass(slots=True)
class MicrogridSeen:
    """What an agent's last step was like; powers MW, positive = injected into the grid."""

    observation: Observation | None = None
    action: Action | None = None
    action_at_s: float = 0.0


@dataclass(slots=True)
class DeviceLive:
    """What a device was told, and how long that holds."""

    setpoint_mw: float | None = None
    setpoint_at_s: float = 0.0
    heard_at_s: float = 0.0
    """When its lease was last begun or renewed."""
    lease_s: float | None = None
    sender: str | None = None
    setpoints: int = 0
    fallbacks: int = 0
    why: str | None = None


@dataclass(slots=True)
class KindCount:
    """Messages of one kind of channel."""

    messages: int = 0
    size: int = 0
    lost: int = 0
    repeated: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=5_000))


@dataclass(slots=True)
class EnvironmentLive:
    """One environment, beside what ``operator_client`` knows of it."""

    price: float | None = None
    microgrids: dict[str, MicrogridSeen] = field(default_factory=dict)
    devices: dict[str, DeviceLive] = field(default_factory=dict)
    kinds: dict[str, KindCount] = field(default_factory=dict)
    streams: dict[tuple[str, str, str], int] = field(default_factory=dict)
    events: deque[Json] = field(default_factory=lambda: deque(maxlen=EVENTS))
    step_at_s: float = 0.0


class LiveView:
    """A connection to a broker and what it has seen; used as a context.

    Args:
        url: Of the broker.
        env_id: The environment to watch; None = all.
        on_message: Called with each message; for a tail.

    Raises:
        ConfigError: The URL or the environment is wrong.
        BrokerError: When entered: the broker is not there or refuses.
    """

    def __init__(
        self, url: str, env_id: str | None = None, on_message: Callable[[Heard], None] | None = None
    ) -> None:
        self.environments = Environments()
        self.messages: deque[Json] = deque(maxlen=MESSAGES)
        """The newest ones, numbered; payloads cut off."""
        self._live: dict[str, EnvironmentLive] = {}
        self._number = 0
        self._on_message = on_message
        self._observer = Observer(url, checked_env_id(env_id), ("#",), self._take)

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._observer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._observer.__aexit__(kind, exc, trace)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there now."""
        return self._observer.is_connected

    @property
    def address(self) -> str:
        """Of the broker, without a login."""
        return self._observer.options.address

    async def settle(self) -> None:
        """Return when what the broker has kept is here."""
        await self._observer.settle()

    # -- messages ----------------------------------------------------------------------------------

    def _take(self, heard: Heard) -> None:
        before = self._facts(heard)
        self.environments.take(heard)
        view = self.environments.get(heard.env_id)
        if view is None:
            return
        live = self._live.setdefault(heard.env_id, EnvironmentLive())
        levels = topics.levels(heard.channel)
        self._count(live, levels, heard)
        self._keep(heard)
        if heard.fields is not None:
            _note(live, levels, heard.fields, heard)
        after = self._facts(heard)
        if after != before and after is not None:
            _event(live, heard, after)
        if self._on_message is not None:
            self._on_message(heard)

    def _facts(self, heard: Heard) -> tuple[str, str, str] | None:
        """Return what would be an event if a message changes it: kind, subject and a sentence."""
        view = self.environments.get(heard.env_id)
        return None if view is None else _facts(view, topics.levels(heard.channel))

    def _count(self, live: EnvironmentLive, levels: list[str], heard: Heard) -> None:
        pattern = _pattern(levels)
        if pattern not in live.kinds and len(live.kinds) >= KINDS:
            return
        kind = live.kinds.setdefault(pattern, KindCount())
        kind.messages += 1
        kind.recent.append(heard.at_s)
        fields = heard.fields or {}
        boot, seq = fields.get("boot"), fields.get("seq")
        if heard.retained or not isinstance(boot, str) or type(seq) is not int:
            return
        stream = (heard.channel, str(fields.get("sender", "")), boot)
        last = live.streams.get(stream)
        if last is None:
            if len(live.streams) >= STREAMS:
                return
        elif seq <= last:
            kind.repeated += 1
            return
        else:
            kind.lost += min(seq - last - 1, 1_000)
        live.streams[stream] = seq

    def _keep(self, heard: Heard) -> None:
        self._number += 1
        text = heard.malformed if heard.fields is None else json.dumps(heard.fields, ensure_ascii=False)
        self.messages.append(
            {
                "n": self._number,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "env_id": heard.env_id,
                "channel": heard.channel,
                "retained": heard.retained,
                "readable": heard.malformed is None,
                "text": (text or "")[:PAYLOAD],
            }
        )

    # -- what is known -----------------------------------------------------------------------------

    def snapshot(self) -> Json:
        """Return everything as plain JSON: environments, microgrids, devices, channels, events."""
        now_s = asyncio.get_running_loop().time()
        return {
            "broker": self.address,
            "connected": self.is_connected,
            "environments": [
                self._environment(self.environments[name], now_s) for name in self.environments.alive
            ],
        }

    def newer(self, than: int) -> list[Json]:
        """Return the messages that are kept and came after a number."""
        return [message for message in self.messages if message["n"] > than]

    def _environment(self, view: EnvironmentSeen, now_s: float) -> Json:
        live = self._live.setdefault(view.env_id, EnvironmentLive())
        found = environment(view, now_s, SILENT_S)
        for label, device in found["devices"].items():
            device.update(_device(live.devices.get(label), device, now_s))
        found["problems"] = [*found["problems"], *_silent(found["devices"])]
        found["price"] = live.price
        found["step_age_s"] = round(now_s - live.step_at_s, 2) if live.step_at_s else None
        found["microgrids"] = {
            name: _microgrid(seen, now_s) for name, seen in sorted(live.microgrids.items())
        }
        found["channels"] = {
            name: {
                "messages": kind.messages,
                "lost": kind.lost,
                "repeated": kind.repeated,
                "rate": round(sum(1 for at_s in kind.recent if now_s - at_s < RATE_S) / RATE_S, 2),
            }
            for name, kind in sorted(live.kinds.items())
        }
        found["events"] = [
            {**event, "ago_s": round(now_s - event["at_s"], 1)} for event in reversed(live.events)
        ]
        return found


def _pattern(levels: list[str]) -> str:
    match levels:
        case ["devices", _, _, leaf]:
            return f"devices/+/+/{leaf}"
        case ["agents", _, leaf]:
            return f"agents/+/{leaf}"
        case ["p2p", _, _]:
            return "p2p/+/+"
        case ["estop", "confirm", *_]:
            return "estop/confirm/#"
        case _:
            return "/".join(levels)[:100]


def _has_room(table: Mapping[str, Any], name: str) -> bool:
    return name in table or len(table) < MAX_NAMES


def _note(live: EnvironmentLive, levels: list[str], fields: Mapping[str, Any], heard: Heard) -> None:
    try:
        match levels:
            case ["operators", _, "price"]:
                value = fields.get("value")
                if isinstance(value, int | float) and math.isfinite(value):
                    live.price = float(value)
            case ["agents", agent, "observation"] if (
                agent in live.microgrids or len(live.microgrids) < 10_000
            ):
                seen = live.microgrids.setdefault(agent, MicrogridSeen())
                seen.observation = parse_known_fields(Observation, fields)[0]
            case ["agents", agent, "action"] if _has_room(live.microgrids, agent):
                seen = live.microgrids.setdefault(agent, MicrogridSeen())
                seen.action, seen.action_at_s = parse_known_fields(Action, fields)[0], heard.at_s
                _note_fallbacks(live, agent, seen.action)
            case ["devices", agent, name, "setpoint"] if not heard.retained:
                label = f"{agent}/{name}"
                if _has_room(live.devices, label):
                    _note_setpoint(live.devices.setdefault(label, DeviceLive()), fields, heard.at_s)
            case ["run", "state"] if not heard.retained:
                live.step_at_s = heard.at_s
            case _:
                pass
    except (MessageError, OverflowError):
        pass  # the view of the operator names what cannot be read


def _note_setpoint(device: DeviceLive, fields: Mapping[str, Any], at_s: float) -> None:
    p_mw, lease_s = fields.get("p_mw"), fields.get("lease_s")
    device.heard_at_s = at_s
    if isinstance(lease_s, int | float) and math.isfinite(lease_s):
        device.lease_s = float(lease_s)
    device.sender = str(fields.get("sender") or "by hand")[:100]
    if fields.get("release"):
        device.setpoint_mw, device.lease_s = None, None
    elif not fields.get("renewal") and isinstance(p_mw, int | float) and math.isfinite(p_mw):
        device.setpoint_mw, device.setpoint_at_s = float(p_mw), at_s
        device.setpoints += 1


def _note_fallbacks(live: EnvironmentLive, agent: str, action: Action) -> None:
    why = action.by_prefix().get("fallback_", {})
    for name, reason in why.items():
        device = live.devices.setdefault(f"{agent}/{name}", DeviceLive())
        device.fallbacks += 1
        device.why = str(reason)[:200]
    for label, device in live.devices.items():
        owner, _, name = label.partition("/")
        if owner == agent and name not in why:
            device.why = None


def _facts(view: EnvironmentSeen, levels: list[str]) -> tuple[str, str, str] | None:
    match levels:
        case ["estop"]:
            stop = view.stop.stop
            if stop is None:
                return "stop", "all devices", "no emergency stop is in force"
            return "stop", "all devices", f"EMERGENCY STOP by {stop.who or 'unknown'}: {stop.why or '-'}"
        case ["run", "state"] if view.run is not None:
            return "run", view.env_id, f"the run is {view.run.state}"
        case ["agents", agent, "status"] if agent in view.agents:
            status = view.agents[agent].status
            return ("agent", agent, _says(status.state, status.reason)) if status is not None else None
        case ["devices", agent, name, leaf] if (device := view.devices.get(f"{agent}/{name}")) is not None:
            label = f"{agent}/{name}"
            if leaf == "status" and device.status is not None:
                return "device", label, _says(device.status.state, device.status.reason)
            if leaf == "authority_state" and device.authority is not None:
                manual = device.authority.manual_by
                hand = f", in hand of {manual}" if manual else ""
                return "authority", label, _says(f"{device.authority.level}{hand}", device.authority.reason)
            if leaf == "lease" and device.lease is not None:
                return "lease", label, f"{device.lease.state} {device.lease.holder or ''}".strip()
    return None


def _says(what: str, reason: str | None) -> str:
    return f"{what}: {reason}" if reason else what


def _event(live: EnvironmentLive, heard: Heard, facts: tuple[str, str, str]) -> None:
    kind, subject, what = facts
    live.events.append(
        {
            "at_s": heard.at_s,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": kind,
            "subject": subject[:200],
            "what": what[:500],
            "kept": heard.retained,
        }
    )


def _device(live: DeviceLive | None, device: Json, now_s: float) -> Json:
    is_silent = device["health"] == "online" and (device["age_s"] or 0.0) > SILENT_S
    found = {"health": "silent" if is_silent else device["health"]}
    if live is None:
        return {
            **found,
            "setpoint_mw": None,
            "lease_left_s": None,
            "setpoints": 0,
            "fallbacks": 0,
            "why": None,
        }
    left_s = None if live.lease_s is None else live.heard_at_s + live.lease_s - now_s
    return {
        **found,
        "setpoint_mw": live.setpoint_mw if left_s is not None and left_s > 0.0 else None,
        "lease_left_s": None if left_s is None or left_s <= 0.0 else round(left_s, 1),
        "setpoints": live.setpoints,
        "fallbacks": live.fallbacks,
        "why": live.why,
    }


def _silent(devices: Mapping[str, Json]) -> list[str]:
    return [
        f"device {label} says that it is online, and has said nothing for {device['age_s']:.0f} s"
        for label, device in devices.items()
        if device["health"] == "silent" and device["age_s"] is not None
    ]


def _microgrid(seen: MicrogridSeen, now_s: float) -> Json:
    told, done = seen.observation, seen.action
    found: Json = {"age_s": round(now_s - seen.action_at_s, 2) if seen.action_at_s else None}
    if told is not None:
        found |= {
            "load_mw": told.p_load_mw,
            "vm_min_pu": told.vm_min_pu,
            "vm_max_pu": told.vm_max_pu,
            "loading_max_percent": told.loading_max_percent,
        }
    if done is not None:
        fields = done.by_prefix()
        found |= {
            "p_mw": dict(fields.get("p_", {})),
            "soc": dict(fields.get("soc_", {})),
            "traded_mwh": sum(fields.get("trade_", {}).values()),
            "fallbacks": dict(fields.get("fallback_", {})),
            "missed": done.missed,
        }
    return found
