"""The dispatch of microgrids over the steps to come as a linear program. Formulas: docs/models.md, planning.

Solved by HiGHS (Q. Huangfu, J. A. J. Hall, Parallelizing the dual revised simplex method, Mathematical
Programming Computation 10, 2018), through scipy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linprog

from heron_mqtt.errors import HeronError
from powergrid.scenario import Scenario

__all__ = ["DispatchProgram", "ProgramSolution"]

Array = NDArray[np.float64]


class ProgramSolution(NamedTuple):
    """An optimum.

    Attributes:
        value: What the horizon earns, $; without the value of the energy that is left.
        left_usd: Worth of the energy that is left in batteries, $.
        battery_mw: By (agent, device), (n_steps,) MW, positive = discharging.
    """

    value: float
    left_usd: float
    battery_mw: dict[tuple[str, str], Array]


class DispatchProgram:
    """Batteries, generators and the exchange with the grid of some microgrids, together.

    The network has no limits here. Generators have no minimum, ramp or start cost, and microgrids trade with
    each other without loss. So with ``lower_bound`` no policy can earn more than its optimum.

    Args:
        scenario: Nameplates, market and reward.
        agents: The microgrids that plan together.
        n_steps: Horizon.
        segments: Pieces of a generator's quadratic cost.
        lower_bound: Costs are never above the true ones, PV may be curtailed, standby is free.
    """

    def __init__(
        self,
        scenario: Scenario,
        agents: tuple[str, ...],
        n_steps: int,
        *,
        segments: int = 4,
        lower_bound: bool = False,
    ) -> None:
        self._n, self._dt_h = n_steps, scenario.step_s / 3600.0
        self._adder = scenario.market.import_adder_per_mwh
        devices: list[tuple[str, str, Any]] = [
            (a, name, t.spec) for a in agents for name, t in scenario.microgrids[a].devices.items()
        ]
        self.batteries = [(a, name, spec) for a, name, spec in devices if spec.kind == "battery"]
        generators = [spec for _, _, spec in devices if spec.kind == "generator"]
        self._free = lower_bound
        n, dt = n_steps, self._dt_h
        blocks: list[tuple[Array, float]] = []  # cost a step, and upper bound, of each block of n variables
        balance: list[float] = []  # what a unit of it adds to the power balance

        def add(cost: float, upper: float, power: float) -> int:
            blocks.append((np.full(n, cost), upper))
            balance.append(power)
            return len(blocks) - 1

        self._sold, self._bought = add(0.0, np.inf, -1.0), add(0.0, np.inf, 1.0)
        add(0.0, np.inf if lower_bound else 0.0, -1.0)
        for spec in generators:
            edges = np.linspace(0.0, spec.max_p_mw, segments + 1)
            at = edges[:-1] if lower_bound else 0.5 * (edges[:-1] + edges[1:])
            for width, point in zip(np.diff(edges), at, strict=True):
                marginal = spec.cost_b_usd_per_mwh + 2.0 * spec.cost_c_usd_per_mw2h * point
                add(marginal * dt, float(width), 1.0)
        reward = scenario.reward
        self._places: list[tuple[int, int, int]] = []
        rows: list[dict[int, Any]] = []
        upper_rows: list[tuple[dict[int, Any], float]] = []
        for _, _, spec in self.batteries:
            charge = add(1e-6, min(spec.max_p_charge_mw, spec.rated_s_mva), -1.0)
            discharge = add(1e-6, min(spec.max_p_discharge_mw, spec.rated_s_mva), 1.0)
            energy = add(0.0, spec.max_soc * spec.max_e_mwh, 0.0)
            weight = reward.soc_weight / spec.max_e_mwh
            under, over = add(weight, np.inf, 0.0), add(weight, np.inf, 0.0)
            self._places.append((charge, discharge, energy))
            # energy[k] - energy[k-1] - eta_c c dt + d dt / eta_d = -standby dt
            rows.append({
                energy: sp.eye(n) - sp.eye(n, k=-1),
                charge: -spec.efficiency_charge * dt * sp.eye(n),
                discharge: dt / spec.efficiency_discharge * sp.eye(n),
            })  # fmt: skip
            upper_rows.append(({energy: -sp.eye(n), under: -sp.eye(n)}, -reward.soc_min * spec.max_e_mwh))
            upper_rows.append(({energy: sp.eye(n), over: -sp.eye(n)}, reward.soc_max * spec.max_e_mwh))
        n_blocks = len(blocks)
        rows.append({b: power * sp.eye(n) for b, power in enumerate(balance) if power})
        self._equal = _stacked(rows, n_blocks, n)
        self._below = _stacked([row for row, _ in upper_rows], n_blocks, n) if upper_rows else None
        self._below_right = np.repeat([right for _, right in upper_rows], n)
        self._cost = np.concatenate([cost for cost, _ in blocks])
        lower = np.zeros((n_blocks, n))
        for (_, _, energy), (_, _, spec) in zip(self._places, self.batteries, strict=True):
            lower[energy] = spec.min_soc * spec.max_e_mwh
        upper = np.repeat([bound for _, bound in blocks], n)
        self._bounds = np.stack([lower.reshape(-1), upper], axis=1)

    def solve(
        self, price: Array, other_mw: Array, soc: Mapping[tuple[str, str], float], value_per_mwh: float
    ) -> ProgramSolution:
        """Return the best dispatch.

        Args:
            price: (n_steps,) $/MWh.
            other_mw: (n_steps,) loads and PV of all the microgrids together, MW, positive = injected.
            soc: Of each battery at the beginning, fraction.
            value_per_mwh: Of a MWh that is left in a battery at the end, before discharging it, $/MWh.

        Raises:
            HeronError: HiGHS found none; says why.
        """
        n, cost = self._n, self._cost.copy()
        cost[self._sold * n : (self._sold + 1) * n] = -price * self._dt_h
        cost[self._bought * n : (self._bought + 1) * n] = (price + self._adder) * self._dt_h
        right = []
        for (agent, name, spec), (_, _, energy) in zip(self.batteries, self._places, strict=True):
            moved = np.full(n, 0.0 if self._free else -spec.standby_loss_mw * self._dt_h)
            moved[0] += soc[agent, name] * spec.max_e_mwh
            right.append(moved)
            cost[(energy + 1) * n - 1] -= value_per_mwh * spec.efficiency_discharge
        right.append(-other_mw)
        bounds = self._bounds
        if any(soc[agent, name] < spec.min_soc for agent, name, spec in self.batteries):
            bounds = bounds.copy()
            for (_, _, energy), _ in zip(self._places, self.batteries, strict=True):
                bounds[energy * n : (energy + 1) * n, 0] = 0.0
        solve: Any = linprog
        found = solve(
            cost,
            A_ub=self._below,
            b_ub=self._below_right if self._below is not None else None,
            A_eq=self._equal,
            b_eq=np.concatenate(right),
            bounds=bounds,
            method="highs",
        )
        if found.x is None:
            raise HeronError(f"no dispatch was found: {found.message}")
        x = found.x.reshape(-1, n)
        left = sum(
            value_per_mwh * spec.efficiency_discharge * x[energy, -1]
            for (_, _, spec), (_, _, energy) in zip(self.batteries, self._places, strict=True)
        )
        powers = {
            (agent, name): x[discharge] - x[charge]
            for (agent, name, _), (charge, discharge, _) in zip(self.batteries, self._places, strict=True)
        }
        return ProgramSolution(-float(found.fun) - float(left), float(left), powers)


def _stacked(rows: list[dict[int, Any]], n_blocks: int, n: int) -> Any:
    return sp.block_array(
        [[row.get(b, sp.csr_array((n, n))) for b in range(n_blocks)] for row in rows], format="csc"
    )
