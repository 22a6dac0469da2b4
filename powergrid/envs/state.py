"""What the environment knows between two steps: device powers, grid results, outlook; and what it tells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from heron_mqtt.agents.base import StepReport
from heron_mqtt.protocols.p2p import Settlement
from powergrid.devices import BatterySpec
from powergrid.envs.spaces import LocalView, observation_space
from powergrid.powerflow import PowerFlowResult
from powergrid.rewards import RewardTerms, grid_bill, trade_sums, violations
from powergrid.world import World

NAN = float("nan")
NO_ACTION = "no action before the deadline; its devices are taken to be in their safe state"


@dataclass(slots=True)
class MicrogridState:
    """One microgrid after a step; powers MW and Mvar, positive = injected.

    ``fallback`` says why the values were assumed rather than reported.
    """

    p_mw: dict[str, float] = field(default_factory=dict)
    q_mvar: dict[str, float] = field(default_factory=dict)
    soc: dict[str, float] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    fallback: str | None = None
    missed: int = 0
    traded: dict[str, float] = field(default_factory=dict)
    net_mwh: float = 0.0
    vm_min_pu: float = NAN
    vm_max_pu: float = NAN
    loading_max_percent: float = NAN


class GridState:
    """Everything that changes from step to step, and the vectors made of it.

    Args:
        world: The grid.
        full: Observations show the whole grid instead of the agent's own part.
    """

    def __init__(self, world: World, *, full: bool) -> None:
        self.world = world
        self.result: PowerFlowResult | None
        self.outlook = world.outlook(0)
        self.microgrids: dict[str, MicrogridState] = {}
        self._full = full
        scenario = world.scenario
        self._dt_h = scenario.step_s / 3600.0
        self._limits = scenario.reward
        self._tables = scenario.microgrids
        self._adder = scenario.market.import_adder_per_mwh
        self._views = {
            agent: LocalView(agent, table, [peer for peer in world.agents if peer != agent])
            for agent, table in scenario.microgrids.items()
        }
        self._rewards: dict[str, RewardTerms] = {}
        self.result = None
        self.reset()
        self._alive = np.flatnonzero(np.isfinite(self._solved().vm_pu))  # the others never have a voltage
        self._grid_names = self._name_grid()
        size = sum(len(view.names) for view in self._views.values()) + len(self._grid_names)
        self._spaces = {
            agent: observation_space(size if full else len(view.names)) for agent, view in self._views.items()
        }

    def reset(self) -> None:
        """Go back to the beginning of an episode: devices at rest, the grid as it is without them.

        Raises:
            PowerFlowDiverged: The grid has no solution even so.
        """
        self._rewards = {}
        self.outlook = self.world.outlook(0)
        self.microgrids = {
            agent: MicrogridState(
                p_mw=dict.fromkeys(table.devices, 0.0),
                q_mvar=dict.fromkeys(table.devices, 0.0),
                soc={
                    n: d.spec.initial_soc for n, d in table.devices.items() if isinstance(d.spec, BatterySpec)
                },
            )
            for agent, table in self._tables.items()
        }
        self.apply(self.world.solve(0, self.p_mw, self.q_mvar))

    def look_ahead(self, step: int) -> None:
        """Take the time series' values of the step that comes next, while there are any."""
        if self.world.has_row(step):
            self.outlook = self.world.outlook(step)

    # -- what happened -----------------------------------------------------------------------------

    @property
    def p_mw(self) -> dict[str, dict[str, float]]:
        """Active power by microgrid and device, MW."""
        return {agent: state.p_mw for agent, state in self.microgrids.items()}

    @property
    def q_mvar(self) -> dict[str, dict[str, float]]:
        """Reactive power by microgrid and device, Mvar."""
        return {agent: state.q_mvar for agent, state in self.microgrids.items()}

    def record(self, reports: Mapping[str, StepReport], settlement: Settlement) -> None:
        """Take the agents' reports; an agent without one is taken to be in its safe state."""
        for agent, table in self._tables.items():
            before = self.microgrids[agent]
            report = reports.get(agent)
            state = MicrogridState()
            if report is None:
                state.fallback = NO_ACTION
                available = self.outlook.p_available_mw[agent]
                state.p_mw = {name: available.get(name, 0.0) for name in table.devices}
                state.q_mvar = dict.fromkeys(table.devices, 0.0)
                state.soc = before.soc
            else:
                state.p_mw = {name: report.p_mw.get(name, 0.0) for name in table.devices}
                state.q_mvar = {name: report.q_mvar.get(name, 0.0) for name in table.devices}
                state.soc = {name: report.soc.get(name, soc) for name, soc in before.soc.items()}
                state.fallbacks = dict(report.fallbacks)
                state.missed = report.missed
            state.net_mwh = (self.outlook.p_load_mw[agent] + sum(state.p_mw.values())) * self._dt_h
            self.microgrids[agent] = state
        for trade in settlement.trades:
            self.microgrids[trade.seller].traded[trade.buyer] = trade.mwh
            self.microgrids[trade.buyer].traded[trade.seller] = -trade.mwh

    def apply(self, result: PowerFlowResult | None) -> None:
        """Take the power flow's results; None = it diverged: every result is NaN."""
        self.result = result
        for agent, index in self.world.microgrids.items():
            state = self.microgrids[agent]
            if result is None:
                state.vm_min_pu = state.vm_max_pu = state.loading_max_percent = NAN
                continue
            vm = result.vm_pu[index.buses]
            state.vm_min_pu, state.vm_max_pu = float(np.nanmin(vm)), float(np.nanmax(vm))
            state.loading_max_percent = max(
                (float(np.nanmax(part)) for part in self._loading(result, agent) if part.size), default=0.0
            )

    def rewards(
        self, price: float, reports: Mapping[str, StepReport], settlement: Settlement
    ) -> dict[str, RewardTerms]:
        """Return the reward terms of the step, by agent; NaN where the power flow diverged."""
        self._rewards = {
            agent: self._terms(agent, price, reports.get(agent), settlement) for agent in self.microgrids
        }
        return self._rewards

    def _terms(
        self, agent: str, price: float, report: StepReport | None, settlement: Settlement
    ) -> RewardTerms:
        result, state, limits = self.result, self.microgrids[agent], self._limits
        if result is None:
            return RewardTerms.unknown()
        traded_mwh, traded_usd = trade_sums(agent, settlement.trades)
        voltage, loading, soc = violations(
            result.vm_pu[self.world.microgrids[agent].buses],
            np.concatenate(self._loading(result, agent)),
            state.soc,
            limits,
        )
        return RewardTerms(
            generation=-sum(report.cost.values()) if report else 0.0,
            grid=grid_bill(state.net_mwh, traded_mwh, price, self._adder),
            trades=traded_usd,
            voltage=-limits.voltage_weight * voltage,
            loading=-limits.loading_weight * loading,
            soc=-limits.soc_weight * soc,
        )

    def _loading(
        self, result: PowerFlowResult, agent: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        index = self.world.microgrids[agent]
        return result.line_loading_percent[index.lines], result.trafo_loading_percent[index.trafos]

    def render(self, step: int) -> str:
        """Return the last step as a table in text; ``step`` steps are done."""
        lines = [f"step {step}  price {self.outlook.price:.2f} $/MWh"]
        for agent, state in self.microgrids.items():
            powers = "  ".join(f"{name} {p:+.4f}" for name, p in state.p_mw.items())
            socs = "  ".join(f"soc_{name} {soc:.3f}" for name, soc in state.soc.items())
            reward = f"{self._rewards[agent].total:+.3f} $" if agent in self._rewards else "-"
            lines.append(
                f"{agent:>8}  MW: {powers}  {socs}  vm {state.vm_min_pu:.4f}..{state.vm_max_pu:.4f} pu  "
                f"loading {state.loading_max_percent:.1f} %  reward {reward}"
            )
        return "\n".join(lines)

    # -- what it tells -----------------------------------------------------------------------------

    def wire_fields(self, agent: str) -> dict[str, float]:
        """Return the fields of an agent's observation message: its own part of the grid and no more."""
        outlook, state = self.outlook, self.microgrids[agent]
        fields = {f"p_available_{name}": p for name, p in outlook.p_available_mw[agent].items()}
        fields["p_load_mw"] = outlook.p_load_mw[agent]
        fields["q_load_mvar"] = outlook.q_load_mvar[agent]
        if math.isfinite(state.vm_min_pu):
            fields["vm_min_pu"] = state.vm_min_pu
            fields["vm_max_pu"] = state.vm_max_pu
            fields["loading_max_percent"] = state.loading_max_percent
        return fields

    def info(self, agent: str, settlement: Settlement) -> dict[str, Any]:
        """Return what happened to one agent in the last step, in plain values."""
        state = self.microgrids[agent]
        return {
            "p_mw": dict(state.p_mw),
            "q_mvar": dict(state.q_mvar),
            "soc": dict(state.soc),
            "p_load_mw": self.outlook.p_load_mw[agent],
            "net_mwh": state.net_mwh,
            "vm_pu": {"min": state.vm_min_pu, "max": state.vm_max_pu},
            "loading_max_percent": state.loading_max_percent,
            "trades": [t for t in settlement.trades if agent in {t.seller, t.buyer}],
            "void_trades": [t for t in settlement.void if t.reporter == agent],
            "fallbacks": dict(state.fallbacks),
            "fallback": state.fallback,
            "missed": state.missed,
            "reward_terms": self._rewards[agent].as_dict(),
        }

    def space(self, agent: str) -> Box:
        """Return an agent's observation space."""
        return self._spaces[agent]

    def names(self, agent: str) -> tuple[str, ...]:
        """Return what each entry of an agent's observation is."""
        if not self._full:
            return self._views[agent].names
        local = (f"{a}/{name}" for a, view in self._views.items() for name in view.names)
        return (*local, *self._grid_names)

    def observations(self, agents: Iterable[str], clock_s: float) -> dict[str, NDArray[np.float32]]:
        """Return the observation vectors, (n,) float32, laid out as ``names`` says.

        Args:
            agents: Whose.
            clock_s: Seconds since midnight.
        """
        angle = 2.0 * math.pi * clock_s / 86_400.0
        shared = {"price": self.outlook.price, "hour_sin": math.sin(angle), "hour_cos": math.cos(angle)}
        if not self._full:
            return {a: np.array(self._local(a, shared), dtype=np.float32) for a in agents}
        flat = [value for agent in self._views for value in self._local(agent, shared)]
        result = self.result
        grid = np.full(len(self._grid_names), NAN)
        if result is not None:
            grid = np.concatenate(
                [result.vm_pu[self._alive], result.line_loading_percent, result.trafo_loading_percent]
            )
        whole = np.concatenate([flat, np.nan_to_num(grid) if result is not None else grid]).astype(np.float32)
        return {agent: whole.copy() for agent in agents}

    def _local(self, agent: str, shared: Mapping[str, float]) -> list[float]:
        state, outlook = self.microgrids[agent], self.outlook
        values = dict(shared)
        values["p_load_mw"] = outlook.p_load_mw[agent]
        values["q_load_mvar"] = outlook.q_load_mvar[agent]
        for name in state.p_mw:
            values[f"p_{name}"] = state.p_mw[name]
            values[f"q_{name}"] = state.q_mvar[name]
        values.update((f"soc_{name}", soc) for name, soc in state.soc.items())
        values.update((f"p_available_{name}", p) for name, p in outlook.p_available_mw[agent].items())
        values["vm_min_pu"] = state.vm_min_pu
        values["vm_max_pu"] = state.vm_max_pu
        values["loading_max_percent"] = state.loading_max_percent
        values.update(
            (f"trade_{peer}", state.traded.get(peer, 0.0)) for peer in self.microgrids if peer != agent
        )
        return self._views[agent].vector(values)

    def _name_grid(self) -> list[str]:
        world = self.world
        return [
            *(f"vm_pu/{world.bus_names[i]}" for i in self._alive),
            *(f"line_loading_percent/{i}" for i in world.flow.line_index),
            *(f"trafo_loading_percent/{i}" for i in world.flow.trafo_index),
        ]

    def _solved(self) -> PowerFlowResult:
        assert self.result is not None
        return self.result
