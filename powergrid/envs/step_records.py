"""Between reports and the state's arrays: reports in; what agents receive, infos and text out."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import repeat
from typing import Any

from heron_mqtt.agents.base import LocalState, StepReport
from heron_mqtt.protocols.p2p import Settlement
from powergrid.envs.grid_state import GridState
from powergrid.rewards import enter_trades
from powergrid.simulation.grid_simulation import GridSimulation

NO_ACTION = "no action before the deadline; its devices are taken to be in their safe state"
NO_REPORT = StepReport()


class StepRecords:
    """Reads and writes the state of one grid in plain values, by name.

    Args:
        simulation: The grid.
        state: Of one grid, not of copies.
        observing: The agents whose policy takes an observation, in the scenario's scale.

    Attributes:
        cost: (n_agents,) generation cost of the last step, $.
        traded_usd: (n_agents,) earned minus paid in trades of the last step, $.
    """

    def __init__(self, simulation: GridSimulation, state: GridState, observing: Container[str] = ()) -> None:
        self._observing = observing
        self._state = state
        self._agents = simulation.agents
        self._dt_s = simulation.scenario.step_s
        self._plants = [d for d in simulation.devices if d.follows_profile]
        self.cost = [0.0] * len(simulation.agents)
        self.traded_usd = [0.0] * len(simulation.agents)

    def record(self, reports: Mapping[str, StepReport], settlement: Settlement) -> None:
        """Take the agents' reports; an agent without one is taken to be in its safe state."""
        state = self._state
        p_mw: list[float] = []
        q_mvar: list[float] = []
        soc: list[float] = []
        cost: list[float] = []
        soc_before, nothing = iter(state.soc.tolist()), repeat(0.0)
        for agent, view in state.views.items():
            report = reports.get(agent) or self._safe(agent)
            p_mw += map(report.p_mw.get, view.devices, nothing)
            q_mvar += map(report.q_mvar.get, view.devices, nothing)
            soc += map(report.soc.get, view.storage, soc_before)
            cost.append(sum(report.cost.values(), 0.0))
        state.take_devices(p_mw, q_mvar, soc)
        state.traded_mwh[...] = 0.0
        self.cost, self.traded_usd = cost, enter_trades(self._agents, settlement.trades, state.traded_mwh)
        state.account()

    def _safe(self, agent: str) -> StepReport:
        """Return what devices do in their safe state: nothing, except consumers, which continue."""
        plants = zip(self._plants, self._state.p_available_mw.tolist(), strict=True)
        return StepReport(p_mw={d.name: d.spec.safe_p_mw(p) for d, p in plants if d.agent == agent})

    def local_states(self, commanded: Container[str], clock_s: float) -> dict[str, LocalState]:
        """Return what each agent receives of the coming step: its own part of the grid and no more.

        Args:
            commanded: The agents to which a command is on its way.
            clock_s: Seconds since local midnight at which the step begins; told to the millisecond.
        """
        now, dt_s, clock_s = self._state.plain(), self._dt_s, round(clock_s, 3) % 86_400.0
        told = {}
        for agent, view in self._state.views.items():
            local = view.local_state(now, dt_s, clock_s, agent in commanded)
            if agent in self._observing:
                local = local._replace(observation=self._state.own(agent).tolist())
            told[agent] = local
        return told

    def infos(
        self, reports: Mapping[str, StepReport], settlement: Settlement, terms: Sequence[Sequence[float]]
    ) -> dict[str, dict[str, Any]]:
        """Return what happened to each agent in the last step.

        Args:
            reports: By agent.
            settlement: Of the trades.
            terms: For each agent the terms of its reward, $.
        """
        now, names = self._state.plain(), self._state.reward_names
        infos = {}
        for (agent, view), earned in zip(self._state.views.items(), terms, strict=True):
            report = reports.get(agent, NO_REPORT)
            infos[agent] = info = view.info(now)
            info["trades"] = []
            info["void_trades"] = []
            info["fallbacks"] = report.fallbacks.copy()
            info["fallback"] = None if agent in reports else NO_ACTION
            info["missed"] = report.missed
            info["bounds"] = report.bounds.copy()
            info["authority"] = report.authority.copy()
            info["reward_terms"] = dict(zip(names, earned, strict=True))
        for trade in settlement.trades:
            infos[trade.seller]["trades"].append(trade)
            infos[trade.buyer]["trades"].append(trade)
        for void in settlement.void:
            infos[void.reporter]["void_trades"].append(void)
        return infos

    def render(self, step: int, rewards: Mapping[str, float]) -> str:
        """Return the last step as a table in text; ``step`` steps are done."""
        infos = {agent: view.info(self._state.plain()) for agent, view in self._state.views.items()}
        lines = [f"step {step}  price {self._state.price[0]:.2f} $/MWh"]
        for agent, info in infos.items():
            powers = "  ".join(f"{name} {value:+.4f}" for name, value in info["p_mw"].items())
            socs = "  ".join(f"soc_{name} {value:.3f}" for name, value in info["soc"].items())
            vm = f"vm {info['vm_pu']['min']:.4f}..{info['vm_pu']['max']:.4f} pu"
            loading = f"loading {info['loading_max_percent']:.1f} %"
            reward = f"{rewards[agent]:+.3f} $" if agent in rewards else "-"
            lines.append(f"{agent:>8}  MW: {powers}  {socs}  {vm}  {loading}  reward {reward}")
        return "\n".join(lines)
