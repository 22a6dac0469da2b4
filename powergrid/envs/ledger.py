"""Between reports and the state's arrays: reports in; observation messages, infos and text out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from heron_mqtt.agents.base import StepReport
from heron_mqtt.protocols.p2p import Settlement
from powergrid.devices.base import clip
from powergrid.envs.state import Array, GridState
from powergrid.rewards import TERMS, traded
from powergrid.world import World

NO_ACTION = "no action before the deadline; its devices are taken to be in their safe state"
NO_REPORT = StepReport()
RESULTS = ("vm_min_pu", "vm_max_pu", "loading_max_percent")


class Ledger:
    """Reads and writes the state of one grid in plain values, by name.

    Args:
        world: The grid.
        state: Of one grid, not of copies.

    Attributes:
        cost: (n_agents,) generation cost of the last step, $.
        traded_usd: (n_agents,) earned minus paid in trades of the last step, $.
    """

    def __init__(self, world: World, state: GridState) -> None:
        self._state = state
        self._agents = world.agents
        columns = world.devices
        self._devices = {a: [d.name for d in columns if d.agent == a] for a in world.agents}
        self._batteries = [(d.agent, d.name) for d in columns if d.kind == "battery"]
        self._plants = [(d.agent, d.name) for d in columns if d.follows_profile]
        tables = world.scenario.microgrids
        specs = [tables[agent].devices[name].spec for agent, name in self._plants]
        self._ranges_mw = [
            (spec.power_range_mw[0], min(spec.power_range_mw[1], spec.rated_s_mva)) for spec in specs
        ]
        self.cost: Array = np.zeros(len(world.agents))
        self.traded_usd: Array = np.zeros(len(world.agents))

    def record(self, reports: Mapping[str, StepReport], settlement: Settlement) -> None:
        """Take the agents' reports; an agent without one is taken to be in its safe state."""
        state = self._state
        p_mw: list[float] = []
        q_mvar: list[float] = []
        for i, (agent, names) in enumerate(self._devices.items()):
            report = reports.get(agent) or self._safe(agent)
            p_mw += [report.p_mw.get(name, 0.0) for name in names]
            q_mvar += [report.q_mvar.get(name, 0.0) for name in names]
            self.cost[i] = sum(report.cost.values())
        state.p_mw[:], state.q_mvar[:] = p_mw, q_mvar
        for i, (agent, name) in enumerate(self._batteries):
            if agent in reports and name in reports[agent].soc:
                state.soc[i] = reports[agent].soc[name]
        state.traded_mwh[:], self.traded_usd = traded(self._agents, settlement.trades)
        state.account()

    def _safe(self, agent: str) -> StepReport:
        """Return what devices do without their agent: PV all that it can, loads draw all, others nothing."""
        plants = zip(self._plants, self._state.p_available_mw.tolist(), self._ranges_mw, strict=True)
        return StepReport(
            p_mw={name: clip(p, *limits) for (owner, name), p, limits in plants if owner == agent}
        )

    def wire_fields(self) -> dict[str, dict[str, Any]]:
        """Return the fields of each agent's observation message: its own part of the grid and no more."""
        now = self._state.plain()
        fields: dict[str, dict[str, Any]] = {}
        for i, agent in enumerate(self._agents):
            fields[agent] = {"p_load_mw": now["p_load_mw"][i], "q_load_mvar": now["q_load_mvar"][i]}
            if not math.isnan(now["vm_min_pu"][i]):  # some bus of it has a voltage
                fields[agent] |= {name: now[name][i] for name in RESULTS}
        for (agent, name), p_mw in zip(self._plants, now["p_available_mw"], strict=True):
            fields[agent][f"p_available_{name}"] = p_mw
        return fields

    def infos(
        self, reports: Mapping[str, StepReport], settlement: Settlement, terms: Array
    ) -> dict[str, dict[str, Any]]:
        """Return what happened to each agent in the last step.

        Args:
            reports: By agent.
            settlement: Of the trades.
            terms: (n_terms, n_agents) of the reward, $.
        """
        now = self._state.plain()
        p, q = self._of_devices(now["p_mw"]), self._of_devices(now["q_mvar"])
        soc = self._of_batteries(now["soc"])
        infos: dict[str, dict[str, Any]] = {}
        for i, (agent, earned) in enumerate(zip(self._agents, terms.T.tolist(), strict=True)):
            report = reports.get(agent, NO_REPORT)
            infos[agent] = {
                "price": now["price"][0],
                "p_mw": p[agent],
                "q_mvar": q[agent],
                "soc": soc[agent],
                "p_load_mw": now["p_load_mw"][i],
                "net_mwh": now["net_mwh"][i],
                "vm_pu": {"min": now["vm_min_pu"][i], "max": now["vm_max_pu"][i]},
                "loading_max_percent": now["loading_max_percent"][i],
                "trades": [t for t in settlement.trades if agent in {t.seller, t.buyer}],
                "void_trades": [t for t in settlement.void if t.reporter == agent],
                "fallbacks": dict(report.fallbacks),
                "fallback": None if agent in reports else NO_ACTION,
                "missed": report.missed,
                "bounds": dict(report.bounds),
                "authority": dict(report.authority),
                "reward_terms": dict(zip(TERMS, earned, strict=True)),
            }
        return infos

    def render(self, step: int, rewards: Mapping[str, float]) -> str:
        """Return the last step as a table in text; ``step`` steps are done."""
        now = self._state.plain()
        lines = [f"step {step}  price {now['price'][0]:.2f} $/MWh"]
        p, soc = self._of_devices(now["p_mw"]), self._of_batteries(now["soc"])
        for i, agent in enumerate(self._agents):
            powers = "  ".join(f"{name} {value:+.4f}" for name, value in p[agent].items())
            socs = "  ".join(f"soc_{name} {value:.3f}" for name, value in soc[agent].items())
            vm = f"vm {now['vm_min_pu'][i]:.4f}..{now['vm_max_pu'][i]:.4f} pu"
            loading = f"loading {now['loading_max_percent'][i]:.1f} %"
            reward = f"{rewards[agent]:+.3f} $" if agent in rewards else "-"
            lines.append(f"{agent:>8}  MW: {powers}  {socs}  {vm}  {loading}  reward {reward}")
        return "\n".join(lines)

    def _of_devices(self, values: list[float]) -> dict[str, dict[str, float]]:
        """Return values of all devices by agent and device."""
        flat = iter(values)
        return {agent: {name: next(flat) for name in names} for agent, names in self._devices.items()}

    def _of_batteries(self, values: list[float]) -> dict[str, dict[str, float]]:
        """Return values of the batteries by agent and device."""
        named: dict[str, dict[str, float]] = {agent: {} for agent in self._agents}
        for (agent, name), value in zip(self._batteries, values, strict=True):
            named[agent][name] = value
        return named
