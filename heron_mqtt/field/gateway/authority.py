"""The ladder of authority over one device: simulated -> emulated -> shadow -> limited -> full.

What a level means is data (``RULES``): whether setpoints are sent, whether a band bounds them, and
whether it may be held over a real device. A demotion is always allowed and immediate. A promotion
has gates: the device is online by its own birth, and its telemetry is fresh. For ``limited`` and ``full``,
new telemetry must agree with the model for a number of steps. ``limited`` needs a band, and a person reaches
``full`` only from ``limited``.

The level of the scenario is a standing request: over a device that it would be sent to it begins at
``shadow`` and rises as the gates pass. A request below it lowers it for good: the ceiling stands,
retained, in the authority state, and is read back after a restart.

Every change and every refusal is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from heron_mqtt.messages import Level

if TYPE_CHECKING:
    from heron_mqtt.messages import AuthorityState

MAX_HISTORY = 1_000
HAS_WAITED = "the request may be old: ask again"


@dataclass(frozen=True, slots=True)
class LevelRule:
    """What a level means.

    Attributes:
        rank: Its place on the ladder.
        sends: Whether setpoints leave the gateway.
        is_banded: Whether ``gateway.band`` bounds them.
        over_real: Whether it may be held over a real device.
        is_earned: Whether it has to be reached by evidence.
    """

    rank: int
    sends: bool
    is_banded: bool = False
    over_real: bool = True
    is_earned: bool = False


RULES: dict[Level, LevelRule] = {
    "simulated": LevelRule(0, sends=False),
    "emulated": LevelRule(1, sends=True, over_real=False),
    "shadow": LevelRule(2, sends=False),
    "limited": LevelRule(3, sends=True, is_banded=True, is_earned=True),
    "full": LevelRule(4, sends=True, is_earned=True),
}
LADDER: tuple[Level, ...] = tuple(sorted(RULES, key=lambda level: RULES[level].rank))
SENDS: frozenset[Level] = frozenset(level for level, rule in RULES.items() if rule.sends)
"""Levels at which setpoints leave the gateway."""
REAL_LEVELS: tuple[Level, ...] = tuple(level for level in LADDER if RULES[level].over_real)
"""Levels that may be held over a real device."""


def lower(one: Level, other: Level) -> Level:
    """Return the lower of two levels."""
    return min(one, other, key=lambda level: RULES[level].rank)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a device when its promotion is asked for."""

    health: str
    """online, stale, fault or offline."""
    is_fresh: bool
    """Whether its last telemetry is young enough; a birth alone tells nothing."""
    steady_steps: int
    """Steps in a row, each with new telemetry, with a residual below the gate's bound."""
    plausible: int = 0
    """New telemetry messages in a row with nothing wrong in them."""
    is_born: bool = True
    """Whether the device has published that it is online."""


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
        ceiling: The scenario's level.
        is_real: Whether a real device is at the other end.
        gate_steps: How much evidence in a row ``limited`` and ``full`` want.
        has_band: Whether a band for ``limited`` is configured.
    """

    def __init__(self, ceiling: Level, *, gate_steps: int, has_band: bool, is_real: bool = False) -> None:
        if is_real and not RULES[ceiling].over_real:
            ceiling = "shadow"  # a scenario that says so is refused; never a level without gates in its place
        self.ceiling: Level = ceiling
        """The level to which it rises by itself."""
        self.is_demoted = False
        """Whether a request has lowered the ceiling below the scenario's level."""
        self.level: Level = _first_level(ceiling)
        self.waits_for = ""
        """The gate that keeps it below its ceiling."""
        self.history: list[AuthorityChange] = []
        self._scenario_level: Level = ceiling
        self._is_real = is_real
        self._gate_steps = gate_steps
        self._has_band = has_band

    @property
    def rule(self) -> LevelRule:
        """What the level in force means."""
        return RULES[self.level]

    def resume(self, kept: AuthorityState) -> bool:
        """Take the lower of the scenario's level and what an earlier run left; return if that is lower.

        The level that an earlier run reached is not used: each run collects its own evidence.
        """
        ceiling = kept.ceiling
        if ceiling is None:
            ceiling = kept.level  # of one that knew no ceilings: its level was all there is
        elif not kept.demoted:
            return False  # what the scenario allowed then: it may say something else now
        if RULES[ceiling].rank >= RULES[self.ceiling].rank:
            return False
        self.ceiling, self.is_demoted = ceiling, True
        self.level = lower(self.level, _first_level(ceiling))
        return True

    def request(
        self,
        level: Level,
        evidence: Evidence,
        *,
        who: str,
        why: str,
        at: datetime,
        step: int,
        has_waited: bool = False,
    ) -> AuthorityChange:
        """Grant or refuse a person's request, and record it. What is granted is the new ceiling.

        One that may have waited is of another moment: it lowers, and raises nothing.
        """
        is_raised = RULES[level].rank > min(self.rule.rank, RULES[self.ceiling].rank)
        reason = HAS_WAITED if has_waited and is_raised else self._refusal(level, evidence)
        if not reason:
            self.ceiling = level
            self.is_demoted = RULES[level].rank < RULES[self._scenario_level].rank
        return self._record(level, reason, who, why, at, step)

    def rise(self, evidence: Evidence, *, at: datetime, step: int) -> AuthorityChange | None:
        """Go up one rung towards the ceiling if its gates pass; None = nothing to do, or not yet."""
        self.waits_for = ""
        if RULES[self.level].rank >= RULES[self.ceiling].rank:
            return None
        target = self.ceiling
        if target == "full" and self._has_band and self.level != "limited":
            target = "limited"
        self.waits_for = self._refusal(target, evidence, standing=True)
        if self.waits_for:
            return None
        return self._record(target, "", "scenario", "the gates have passed", at, step)

    def _record(
        self, level: Level, reason: str, who: str, why: str, at: datetime, step: int
    ) -> AuthorityChange:
        change = AuthorityChange(at, step, self.level, level, not reason, who, why, reason)
        self.history.append(change)
        del self.history[:-MAX_HISTORY]
        if change.granted:
            self.level = level
        return change

    def _refusal(self, level: Level, evidence: Evidence, *, standing: bool = False) -> str:
        rule = RULES[level]
        if self._is_real and not rule.over_real:
            return (
                f"gate kind: a real device is at the other end, {level} is for emulators; "
                f"expected {', '.join(REAL_LEVELS)}"
            )
        if rule.rank <= self.rule.rank:
            return ""
        if not evidence.is_born:
            return "gate health: the device has not said that it is online (its birth, retained)"
        if evidence.health != "online":
            return f"gate health: the device is {evidence.health}, it must be online"
        if not evidence.is_fresh:
            return "gate telemetry: there is no fresh telemetry of the device"
        if rule.is_banded and not self._has_band:
            return "gate band: limited needs a band; set gateway.band in the scenario"
        if level == "full" and self.level != "limited" and not standing:
            return f"gate ladder: full is reached from limited, not from {self.level}"
        if not rule.is_earned:
            return ""
        if standing and not self.rule.sends:
            if evidence.plausible < self._gate_steps:
                return (
                    f"gate telemetry: {evidence.plausible} plausible telemetry messages in a row, "
                    f"{self._gate_steps} are needed"
                )
        elif evidence.steady_steps < self._gate_steps:
            return (
                f"gate residual: {evidence.steady_steps} steps in a row were steady, "
                f"{self._gate_steps} are needed"
            )
        return ""


def gates(present: Level, wanted: Level) -> list[str]:
    """Return what a person's request for a level has to pass, from another level; empty: it is granted."""
    found = []
    if not RULES[wanted].over_real:
        found.append("kind: no real device at the other end")
    if RULES[wanted].rank <= RULES[present].rank:
        return found
    found += ["health: the device is online by its own birth, and not silent", "telemetry: it is fresh"]
    if RULES[wanted].is_banded:
        found.append("band: gateway.band in the scenario")
    if wanted == "full" and present != "limited":
        found.append(f"ladder: full is reached from limited, not from {present}")
    if RULES[wanted].is_earned:
        found.append("residual: enough steps in a row with new telemetry that agrees with the model")
    return found


def _first_level(ceiling: Level) -> Level:
    """Return the level at which a ceiling is begun: one that has to be earned begins at shadow."""
    return "shadow" if RULES[ceiling].is_earned else ceiling
