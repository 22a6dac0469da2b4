"""Between reports and the state's arrays: reports in; observation messages, infos and text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heron_mqtt.agents.base import StepReport
from heron_mqtt.protocols.p2p import Settlement
from powergrid.envs.state import Array, GridState
from powergrid.rewards import TERMS, RewardTerms, traded
from powergrid.world import World

NO_ACTION = "no action before the deadline; its devices are taken to be in their safe state"
NO_REPORT = StepReport()


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
        self._number = {agent: i for i, agent in enumerate(world.agents)}
        columns = world.devices
        self._devices = {a: [d.name for d in columns if d.agent == a] for a in world.agents}
        self._batteries = [(d.agent, d.name) for d in columns if d.kind == "battery"]
        self._plants = [(d.agent, d.name) for d in columns if d.kind == "pv"]
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self.cost: Array = np.zeros(len(self._number))
        self.traded_usd: Array = np.zeros(len(self._number))
        self._total: list[float] | None = None

    def record(self, reports: Mapping[str, StepReport], settlement: Settlement) -> None:
        """Take the agents' reports; an agent without one is taken to be in its safe state."""
        state = self._state
        p_mw: list[float] = []
        q_mvar: list[float] = []
        safe_mw = self._by_agent(self._plants, state.p_available_mw)
        for agent, names in self._devices.items():
            report = reports.get(agent, NO_REPORT)
            p, q = (report.p_mw, report.q_mvar) if agent in reports else (safe_mw[agent], {})
            p_mw += [p.get(name, 0.0) for name in names]
            q_mvar += [q.get(name, 0.0) for name in names]
            self.cost[self._number[agent]] = sum(report.cost.values())
        state.p_mw[:], state.q_mvar[:] = p_mw, q_mvar
        state.soc[:] = [
            reports.get(agent, NO_REPORT).soc.get(name, before)
            for (agent, name), before in zip(self._batteries, state.soc.tolist(), strict=True)
        ]
        state.traded_mwh[:], self.traded_usd = traded(self._agents, settlement.trades)
        state.account()

    def wire_fields(self) -> dict[str, dict[str, Any]]:
        """Return the fields of each agent's observation message: its own part of the grid and no more."""
        state = self._state
        p_load, q_load = state.p_load_mw.tolist(), state.q_load_mvar.tolist()
        vm_min, vm_max = state.vm_min_pu.tolist(), state.vm_max_pu.tolist()
        loading = state.loading_max_percent.tolist()
        fields: dict[str, dict[str, Any]] = {}
        for agent, i in self._number.items():
            fields[agent] = {"p_load_mw": p_load[i], "q_load_mvar": q_load[i]}
            if vm_min[i] == vm_min[i]:  # NaN: no bus of it has a voltage
                fields[agent] |= {
                    "vm_min_pu": vm_min[i],
                    "vm_max_pu": vm_max[i],
                    "loading_max_percent": loading[i],
                }
        for (agent, name), p_mw in zip(self._plants, state.p_available_mw.tolist(), strict=True):
            fields[agent][f"p_available_{name}"] = p_mw
        return fields

    def infos(
        self, reports: Mapping[str, StepReport], settlement: Settlement, terms: RewardTerms
    ) -> dict[str, dict[str, Any]]:
        """Return what happened to each agent in the last step."""
        state = self._state
        p, q = self._of_devices(state.p_mw), self._of_devices(state.q_mvar)
        soc = self._by_agent(self._batteries, state.soc)
        p_load, net = state.p_load_mw.tolist(), state.net_mwh.tolist()
        vm_min, vm_max = state.vm_min_pu.tolist(), state.vm_max_pu.tolist()
        loading, price = state.loading_max_percent.tolist(), float(state.price[0])
        columns = [getattr(terms, name).tolist() for name in TERMS]
        self._total = terms.total.tolist()
        infos: dict[str, dict[str, Any]] = {}
        for agent, i in self._number.items():
            report = reports.get(agent, NO_REPORT)
            infos[agent] = {
                "price": price,
                "p_mw": p[agent],
                "q_mvar": q[agent],
                "soc": soc[agent],
                "p_load_mw": p_load[i],
                "net_mwh": net[i],
                "vm_pu": {"min": vm_min[i], "max": vm_max[i]},
                "loading_max_percent": loading[i],
                "trades": [t for t in settlement.trades if agent in {t.seller, t.buyer}],
                "void_trades": [t for t in settlement.void if t.reporter == agent],
                "fallbacks": dict(report.fallbacks),
                "fallback": None if agent in reports else NO_ACTION,
                "missed": report.missed,
                "bounds": dict(report.bounds),
                "authority": dict(report.authority),
                "reward_terms": dict(zip(TERMS, [column[i] for column in columns], strict=True)),
            }
        return infos

    def render(self, step: int) -> str:
        """Return the last step as a table in text; ``step`` steps are done."""
        state = self._state
        lines = [f"step {step}  price {state.price[0]:.2f} $/MWh"]
        p, soc = self._of_devices(state.p_mw), self._by_agent(self._batteries, state.soc)
        for agent, i in self._number.items():
            powers = "  ".join(f"{name} {value:+.4f}" for name, value in p[agent].items())
            socs = "  ".join(f"soc_{name} {value:.3f}" for name, value in soc[agent].items())
            reward = "-" if self._total is None else f"{self._total[i]:+.3f} $"
            vm = f"vm {state.vm_min_pu[i]:.4f}..{state.vm_max_pu[i]:.4f} pu"
            loading = f"loading {state.loading_max_percent[i]:.1f} %"
            lines.append(f"{agent:>8}  MW: {powers}  {socs}  {vm}  {loading}  reward {reward}")
        return "\n".join(lines)

    def _of_devices(self, values: Array) -> dict[str, dict[str, float]]:
        """Return (n_devices,) values by agent and device."""
        flat = iter(values.tolist())
        return {agent: {name: next(flat) for name in names} for agent, names in self._devices.items()}

    def _by_agent(self, places: list[tuple[str, str]], values: Array) -> dict[str, dict[str, float]]:
        """Return the values of some of the devices by agent and device."""
        named: dict[str, dict[str, float]] = {agent: {} for agent in self._devices}
        for (agent, name), value in zip(places, values.tolist(), strict=True):
            named[agent][name] = value
        return named
