"""The ladder of authority over one device: simulated -> emulated -> shadow -> limited -> full.

Going down is always allowed and immediate. Going up needs its gates: the device online, its telemetry
fresh, and for ``limited`` and ``full`` a small residual for a number of steps; ``full`` is reached from
``limited`` alone, and ``limited`` needs a band. Every change and every refusal is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.settings import DeviceSettings
from heron_mqtt.messages import AuthorityRequest, AuthorityState, Level
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.authority")

LADDER: tuple[Level, ...] = ("simulated", "emulated", "shadow", "limited", "full")
SENDS: frozenset[Level] = frozenset({"emulated", "limited", "full"})
"""Levels at which setpoints leave the gateway."""
MAX_HISTORY = 1_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a device when its promotion is asked for."""

    health: str
    """online, stale, fault or offline."""
    is_fresh: bool
    """Whether its last telemetry is young enough; a birth alone tells nothing."""
    steady_steps: int
    """Steps in a row with a residual below the gate's bound."""


@dataclass(frozen=True, slots=True)
class AuthorityChange:
    """One request and what became of it."""

    at: datetime
    step: int
    before: Level
    requested: Level
    granted: bool
    who: str
    why: str
    reason: str
    """The gate that refused; empty when granted."""

    def __str__(self) -> str:
        asked = f"{self.before} -> {self.requested} by {self.who}"
        why = f" ({self.why})" if self.why else ""
        return f"step {self.step}: {asked}{why}: {self.reason or 'granted'}"


class Authority:
    """The level in force over one device, and how it came to be.

    Args:
        level: At the start; taken on the scenario's word.
        gate_steps: Steady steps that ``limited`` and ``full`` want.
        has_band: Whether a band for ``limited`` is configured.
    """

    def __init__(self, level: Level, *, gate_steps: int, has_band: bool) -> None:
        self.level: Level = level
        self.history: list[AuthorityChange] = []
        self._gate_steps = gate_steps
        self._has_band = has_band

    def request(
        self, level: Level, evidence: Evidence, *, who: str, why: str, at: datetime, step: int
    ) -> AuthorityChange:
        """Grant or refuse a level, and record it."""
        reason = self._refusal(level, evidence)
        change = AuthorityChange(at, step, self.level, level, not reason, who, why, reason)
        self.history.append(change)
        del self.history[:-MAX_HISTORY]
        if change.granted:
            self.level = level
        return change

    def _refusal(self, level: Level, evidence: Evidence) -> str:
        if LADDER.index(level) <= LADDER.index(self.level):
            return ""
        if evidence.health != "online":
            return f"gate health: the device is {evidence.health}, it must be online"
        if not evidence.is_fresh:
            return "gate telemetry: there is no fresh telemetry of the device"
        if level == "limited" and not self._has_band:
            return "gate band: limited needs a band; set gateway.band in the scenario"
        if level == "full" and self.level != "limited":
            return f"gate ladder: full is reached from limited, not from {self.level}"
        if level in {"limited", "full"} and evidence.steady_steps < self._gate_steps:
            return (
                f"gate residual: {evidence.steady_steps} steps in a row were steady, "
                f"{self._gate_steps} are needed"
            )
        return ""


class AuthorityManager:
    """Holds the authority over each of an agent's devices and answers requests for another.

    Requests come on ``devices/<agent>/<device>/authority``; the level in force and the answer to the
    last request stand, retained, on ``devices/<agent>/<device>/authority_state``.

    Args:
        agent_id: Owner of the devices.
        devices: Their settings, by name.
        broker: Carries the messages.
        stamper: Stamps what is published.
        evidence: Returns what is known of a device.
        on_change: Called with a device and its new level.
        now: Clock for the record, UTC.
    """

    def __init__(
        self,
        agent_id: str,
        devices: Mapping[str, DeviceSettings],
        broker: MessageBroker,
        stamper: MessageStamper,
        *,
        evidence: Callable[[str], Evidence],
        on_change: Callable[[str, Level], None],
        now: Callable[[], datetime],
    ) -> None:
        self.step = 0
        """The step under way, for the record."""
        self._agent_id = agent_id
        self._broker = broker
        self._stamper = stamper
        self._evidence = evidence
        self._on_change = on_change
        self._now = now
        self._retain = {"retain": True} if broker.features.retain else {}
        self._subscriptions: list[Subscription] = []
        self._held = {
            name: Authority(
                settings.authority,
                gate_steps=settings.gateway.gate_steps,
                has_band=settings.gateway.band is not None,
            )
            for name, settings in devices.items()
        }

    def level(self, name: str) -> Level:
        """Return the level in force; a device that the desk does not hold is simulated."""
        held = self._held.get(name)
        return "simulated" if held is None else held.level

    @property
    def all_simulated(self) -> bool:
        """Whether no device is held above ``simulated``."""
        return all(held.level == "simulated" for held in self._held.values())

    def history(self, name: str) -> tuple[AuthorityChange, ...]:
        """Return every request for a device, granted or refused, oldest first."""
        return tuple(self._held[name].history)

    async def open(self) -> None:
        """Take requests, and say which level each device has."""
        for name in self._held:
            channel = topics.device(self._agent_id, name, "authority")
            self._subscriptions.append(self._broker.subscribe(channel, self._on_request))
        for subscription in self._subscriptions:
            await subscription
        for name, authority in self._held.items():
            self._tell(name, AuthorityState(level=authority.level))

    def close(self) -> None:
        """Take no more requests. Idempotent."""
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions.clear()

    def request(self, name: str, asked: AuthorityRequest) -> AuthorityChange:
        """Grant or refuse, record it and announce it."""
        authority = self._held[name]
        change = authority.request(
            asked.level, self._evidence(name), who=asked.who, why=asked.why, at=self._now(), step=self.step
        )
        log.warning(
            "%s/%s: authority %s -> %s asked by %s (%s): %s",
            self._agent_id,
            name,
            change.before,
            asked.level,
            asked.who,
            asked.why or "no reason given",
            change.reason or "granted",
        )
        if change.granted and change.before != asked.level:
            self._on_change(name, asked.level)
        answer = AuthorityState(
            level=authority.level,
            requested=asked.level,
            granted=change.granted,
            reason=(change.reason or f"asked by {asked.who}: {asked.why}")[:500],
            request_seq=asked.seq,
            request_boot=asked.boot,
        )
        self._tell(name, answer)
        return change

    def _on_request(self, message: Received) -> None:
        asked = self._broker.parsed(message, AuthorityRequest)
        if asked is None:
            return
        if message.retained:
            self._broker.reject(message, MessageError("a request is for now: it must not be retained"))
            return
        self.request(topics.levels(message.channel)[2], asked)

    def _tell(self, name: str, state: AuthorityState) -> None:
        channel = topics.device(self._agent_id, name, "authority_state")
        self._broker.publish(channel, self._stamper.stamp(channel, state), **self._retain)
