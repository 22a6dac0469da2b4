"""What a run amounts to: collected step by step, told at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.field.gateway.hand_back import Unreturned
from heron_mqtt.messages import EmergencyStop
from heron_mqtt.record.run_part import RunPart
from heron_mqtt.scheduling import SUGGESTED_PRIORITY, is_possible_here

MESSAGE_COUNTS = ("published", "received", "duplicated", "rejected", "lost")


@dataclass(slots=True)
class AgentTotals:
    """One microgrid over the run; energies MWh, money $."""

    reward: float = 0.0
    net_mwh: float = 0.0
    imported_mwh: float = 0.0
    exported_mwh: float = 0.0
    generated_mwh: float = 0.0
    consumed_mwh: float = 0.0
    cost: float = 0.0


@dataclass(slots=True)
class Summary:
    """Totals and extremes of a run.

    ``cost`` of a microgrid is what it paid for generation, grid and trades minus what it earned; the
    violations' penalties are in the reward alone. ``error`` is why the run ended before its last step,
    ``diverged`` why the power flow did.
    """

    scenario: str
    mode: str
    broker: str
    seed: int
    step_s: float
    agents: dict[str, AgentTotals]
    steps: int = 0
    trades: int = 0
    traded_mwh: float = 0.0
    void_trades: int = 0
    vm_min_pu: float = math.inf
    vm_max_pu: float = -math.inf
    loading_max_percent: float = -math.inf
    step_ms: list[float] = field(default_factory=list)
    deadline_misses: int = 0
    fallbacks: int = 0
    overruns: int = 0
    realtime_s: float | None = None
    """Wall-clock length of a step, s; None = as fast as it went."""
    priority: int | None = None
    """Real-time priority during the steps; None = none."""
    messages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MESSAGE_COUNTS, 0))
    record: dict[str, Any] | None = None
    """The record of the run, where there is one: file, head (its hash), rows, lost."""
    csv: dict[str, Any] | None = None
    """The CSV file of the results, where one was asked for: file, lost (rows that are missing in it)."""
    impairment: dict[str, Any] | None = None
    """What the impaired network did, where there was one: name and counts."""
    undisturbed: dict[str, Any] | None = None
    """The same run without faults and network, where there were any: rewards, cost, vm_pu, loading."""
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreturned: dict[str, Unreturned] = field(default_factory=dict)
    """Devices that were driven and do not show their release, by AGENT/DEVICE."""
    estop: dict[str, Any] | None = None
    """The emergency stop that was in force, if one was: who, why, first and last step, still active."""
    diverged: str | None = None
    error: str | None = None
    interrupted: bool = False
    unknown_parts: int = 0
    """Parts of a resumed run that were killed: messages, steps that came late and stops are not known."""
    earlier_messages: dict[str, int] = field(default_factory=dict)
    """Counts of ``messages`` of the parts before this one."""
    earlier_lost_rows: int = 0
    """Rows of the record that are missing in the parts before this one."""

    def carry_on(self, parts: Iterable[RunPart]) -> None:
        """Take what the parts of a resumed run said of themselves; each tells of those before it, too."""
        told: Mapping[str, Any] = {}
        for part in parts:
            if part.summary is None:
                self.unknown_parts += 1
            else:
                told = part.summary
                self.unknown_parts = told.get("unknown_parts", 0)
                self.earlier_lost_rows += told.get("lost_rows", 0)
            self.earlier_lost_rows += part.lost_rows
        messages = told.get("messages", {})
        self.earlier_messages = {name: messages.get(name, 0) for name in MESSAGE_COUNTS}
        self.messages = dict(self.earlier_messages)
        self.overruns = told.get("overruns", 0)
        self.estop = None if told.get("estop") is None else dict(told["estop"])

    def note_messages(self, counts: Mapping[str, int]) -> None:
        """Take what the broker has counted in this part of the run."""
        earlier = self.earlier_messages
        self.messages = {name: counts[name] + earlier.get(name, 0) for name in MESSAGE_COUNTS}

    def add_step(
        self, rewards: Mapping[str, float], infos: Mapping[str, Mapping[str, Any]], step_ms: float
    ) -> None:
        """Take one step as the environment returned it."""
        self.steps += 1
        self.step_ms.append(step_ms)
        for agent, info in infos.items():
            totals = self.agents[agent]
            # The penalty of a step without a solution is for training: here nothing is known of it.
            totals.reward += math.nan if info.get("diverged") else rewards[agent]
            net_mwh = info["net_mwh"]
            totals.net_mwh += net_mwh
            totals.exported_mwh += max(net_mwh, 0.0)
            totals.imported_mwh += max(-net_mwh, 0.0)
            totals.consumed_mwh -= info["p_load_mw"] * self.step_s / 3600.0
            totals.generated_mwh += sum(info["p_mw"].values()) * self.step_s / 3600.0
            terms = info["reward_terms"]
            totals.cost -= terms["generation"] + terms["grid"] + terms["trades"]
            self.vm_min_pu = min(self.vm_min_pu, info["vm_pu"]["min"])
            self.vm_max_pu = max(self.vm_max_pu, info["vm_pu"]["max"])
            self.loading_max_percent = max(self.loading_max_percent, info["loading_max_percent"])
            sold = [trade for trade in info["trades"] if trade.seller == agent]
            self.trades += len(sold)
            self.traded_mwh += sum(trade.mwh for trade in sold)
            self.void_trades += len(info["void_trades"])
            self.deadline_misses += info["missed"] + (info["fallback"] is not None)
            self.fallbacks += len(info["fallbacks"]) + (info["fallback"] is not None)
            self.diverged = info.get("diverged", self.diverged)

    def note_stop(self, stop: EmergencyStop | None) -> None:
        """Take whether an emergency stop is in force after the step that was just done."""
        if stop is None:
            if self.estop is not None:
                self.estop["active"] = False
            return
        if self.estop is None:
            self.estop = {"first_step": max(self.steps - 1, 0)}
        self.estop |= {
            "active": True,
            "who": stop.who,
            "why": stop.why,
            "last_step": max(self.steps - 1, 0),
        }

    @property
    def shortfalls(self) -> dict[str, int]:
        """What did not go as it should have, by name, where there was any: a run may end in spite of it."""
        found = {
            "devices not handed back": len(self.unreturned),
            "fallbacks": self.fallbacks,
            "missed deadlines": self.deadline_misses,
            "lost messages": self.messages.get("lost", 0),
            "rows missing in the record": self.lost_rows,
            "rows missing in the CSV file": 0 if self.csv is None else self.csv["lost"],
        }
        return {name: count for name, count in found.items() if count}

    @property
    def overruns_told(self) -> str:
        """How many steps began late, and what can be done about it, where something can be said."""
        text = f"{self.overruns} steps began late"
        median_ms = self.percentile_ms(0.5)
        if not self.overruns or self.realtime_s is None or median_ms is None:
            return text
        if median_ms >= self.realtime_s * 1e3:
            return f"{text}: a step takes {median_ms:.1f} ms here, and has {self.realtime_s * 1e3:g} ms"
        waited = self.deadline_misses or self.fallbacks  # for messages: no processor was missing
        if self.priority is not None or waited or not is_possible_here():
            return text
        return f"{text}: beside other programs --priority {SUGGESTED_PRIORITY} may help"

    @property
    def lost_rows(self) -> int:
        """Rows that are missing in the record, those of earlier parts of a resumed run included."""
        return self.earlier_lost_rows + (0 if self.record is None else self.record["lost"])

    @property
    def unknown(self) -> str | None:
        """What is not known of a resumed run whose earlier parts were killed, in words; None = nothing."""
        if not self.unknown_parts or self.mode != "distributed":
            return None
        if self.unknown_parts == 1:
            return "a part of the run was killed: its lost messages are not known"
        return f"{self.unknown_parts} parts of the run were killed: their lost messages are not known"

    def over_budget(self, *, strict: bool, max_fallbacks: int | None) -> list[str]:
        """Return one line for each budget of the user that the run has exceeded.

        Args:
            strict: Nothing may have fallen short.
            max_fallbacks: So many fallbacks are within budget; None = any number.
        """
        found = []
        if strict and self.shortfalls:
            found.append(f"--strict: {told(self.shortfalls)}")
        if strict and (unknown := self.unknown):
            found.append(f"--strict: {unknown}")
        if max_fallbacks is not None and self.fallbacks > max_fallbacks:
            found.append(f"--max-fallbacks {max_fallbacks}: {self.fallbacks} fallbacks")
        return found

    def percentile_ms(self, share: float) -> float | None:
        """Return the step time that a share of the steps did not exceed, ms; None before the first step."""
        if not self.step_ms:
            return None
        ordered = sorted(self.step_ms)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object of ``heron-mqtt run --json``; what is not known is null."""
        return {
            "scenario": self.scenario,
            "mode": self.mode,
            "broker": self.broker,
            "seed": self.seed,
            "steps": self.steps,
            "agents": list(self.agents),
            "rewards": {agent: _known(t.reward) for agent, t in self.agents.items()},
            "energy_mwh": {agent: _known(t.net_mwh) for agent, t in self.agents.items()},
            "cost": {agent: _known(t.cost) for agent, t in self.agents.items()},
            "trades": {"count": self.trades, "mwh": self.traded_mwh, "void": self.void_trades},
            "vm_pu": {"min": _known(self.vm_min_pu), "max": _known(self.vm_max_pu)},
            "loading_max_percent": _known(self.loading_max_percent),
            "step_ms": {
                "median": self.percentile_ms(0.5),
                "p99": self.percentile_ms(0.99),
                "max": self.percentile_ms(1.0),
            },
            "messages": dict(self.messages),
            "deadline_misses": self.deadline_misses,
            "fallbacks": self.fallbacks,
            "overruns": self.overruns,
            "priority": self.priority,
            "devices": self.devices,
            "not_handed_back": {name: left.why for name, left in self.unreturned.items()},
            "estop": self.estop,
            "undisturbed": self.undisturbed,
            "impairment": self.impairment,
            "record": self.record,
            "csv": self.csv,
            "diverged": self.diverged,
            "error": self.error,
            "interrupted": self.interrupted,
            "unknown_parts": self.unknown_parts,
        }


def told(counts: Mapping[str, int]) -> str:
    """Return counts by name as text for people."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
