"""The check of a step's setpoints together: would the grid keep its limits if all of them were followed?

Rule. A plan that keeps all limits is cleared. Otherwise reference is the grid of the step without any device
power. Limits that are violated in the reference are ignored, but setpoints must not increase the violation.
If the plan violates another limit, every setpoint is multiplied by one common factor, the largest in [0, 1]
that keeps all limits. Then, microgrid by microgrid in order of their names, its own factor is raised again as
far as the limits allow. Factors are found by bisection, to 1/1024, and only set to values that were solved
and keep the limits. So nothing is amplified, and a power flow that diverges counts as a violation. The
remaining power is checked and cleared as the device can realise it (``part_mw`` of its kind). A generator
gets 0 or at least its ``min_p_mw``, a load at least the part that it cannot shed (this part also belongs to
the reference).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import PowerFlowDiverged
from heron_mqtt.messages import MAX_REASON, Clearance
from powergrid.powerflow import Loadings
from powergrid.scenario import EnvelopeTable
from powergrid.simulation.grid_simulation import GridSimulation

Array = NDArray[np.float64]
Powers = Mapping[str, Mapping[str, float]]

BISECTIONS = 10
SLACK = 1e-9  # what solving twice may differ by


class GridCheck:
    """Clears plans against voltage and loading limits.

    Args:
        simulation: The grid; its set-points are overwritten.
        limits: The limits.
    """

    def __init__(self, simulation: GridSimulation, limits: EnvelopeTable) -> None:
        self._simulation = simulation
        self._limits = limits
        self._load_factor: Array | None = None
        self._specs = {(device.agent, device.name): device.spec for device in simulation.devices}

    def clear(
        self, row: int, p_mw: Powers, q_mvar: Powers, load_factor: Array | None = None
    ) -> dict[str, Clearance]:
        """Return the clearance of each agent's plan.

        Args:
            row: Of the time series; decides the loads.
            p_mw: Planned power by agent and device, MW, positive = injected, finite.
            q_mvar: Likewise, Mvar.
            load_factor: As in ``GridSimulation.solve``.
        """
        self._load_factor = load_factor
        agents = sorted(p_mw)
        factors = dict.fromkeys(agents, 1.0)
        whole = self._solve(row, p_mw, q_mvar, factors)
        if whole is not None and self.is_within(whole):
            return {agent: Clearance() for agent in agents}
        reference = self._excess(row, p_mw, q_mvar, dict.fromkeys(agents, 0.0))

        def good(factors: Mapping[str, float]) -> bool:
            excess = self._excess(row, p_mw, q_mvar, factors)
            if excess is None or reference is None:
                return False
            return bool(np.all(excess <= reference + SLACK))

        def one(agent: str, factor: float) -> bool:
            return good({**factors, agent: factor})

        if good(factors):
            return {agent: Clearance() for agent in agents}
        limit = self._limit_that_bound(whole, reference)
        factors.update(dict.fromkeys(agents, _largest(lambda f: good(dict.fromkeys(agents, f)), 0.0)))
        for agent in agents:
            factors[agent] = _largest(partial(one, agent), factors[agent])
        return {
            agent: Clearance()
            if factors[agent] == 1.0
            else _clearance(
                self._left(agent, p_mw[agent], factors[agent]), q_mvar[agent], factors[agent], limit
            )
            for agent in agents
        }

    def is_within(self, result: Loadings) -> Any:
        """Whether a result, or each of (n, ...) results, keeps all limits."""
        return np.all(self._beyond(result) <= SLACK, axis=-1)

    def _left(self, agent: str, p_mw: Mapping[str, float], factor: float) -> dict[str, float]:
        """Return what devices do when told a part of their power, MW."""
        specs = self._specs
        return {
            device: specs[agent, device].part_mw(planned_mw, factor)
            if (agent, device) in specs
            else planned_mw * factor
            for device, planned_mw in p_mw.items()
        }

    def _solve(self, row: int, p_mw: Powers, q_mvar: Powers, factors: Mapping[str, float]) -> Loadings | None:
        p = {agent: self._left(agent, own, factors[agent]) for agent, own in p_mw.items()}
        q = {agent: {d: v * factors[agent] for d, v in own.items()} for agent, own in q_mvar.items()}
        try:
            vector = self._simulation.vector
            return self._simulation.solve(row, vector(p), vector(q), self._load_factor)
        except PowerFlowDiverged:
            return None

    def _excess(self, row: int, p_mw: Powers, q_mvar: Powers, factors: Mapping[str, float]) -> Array | None:
        """Return how far each quantity is beyond its limit, 0 within; None if the power flow diverges."""
        result = self._solve(row, p_mw, q_mvar, factors)
        return None if result is None else np.maximum(self._beyond(result), 0.0)

    def _beyond(self, result: Loadings) -> Array:
        limits, vm = self._limits, np.nan_to_num(result.vm_pu, nan=1.0)
        over = (np.nan_to_num(result.branch_loading_percent) - limits.loading_max_percent) / 100.0
        return np.concatenate([limits.vm_min_pu - vm, vm - limits.vm_max_pu, over], axis=-1)

    def _limit_that_bound(self, result: Loadings | None, reference: Array | None) -> str:
        """Name the limit that the whole plan breaks most beyond the reference."""
        if result is None or reference is None:
            return "the power flow diverges"
        at = int(np.argmax(self._beyond(result) - reference))
        n, limits, names = len(result.vm_pu), self._limits, self._simulation.bus_names
        if at < n:
            return f"vm_min_pu {limits.vm_min_pu:g} at {names[at]}: {result.vm_pu[at]:.4f}"
        if at < 2 * n:
            return f"vm_max_pu {limits.vm_max_pu:g} at {names[at - n]}: {result.vm_pu[at - n]:.4f}"
        at -= 2 * n
        flow, lines = self._simulation.flow, len(result.line_loading_percent)
        if at < lines:
            what, value = f"line {flow.line_index[at]}", result.line_loading_percent[at]
        else:
            what, value = f"trafo {flow.trafo_index[at - lines]}", result.trafo_loading_percent[at - lines]
        return f"loading_max_percent {limits.loading_max_percent:g} at {what}: {value:.1f}"


def _largest(good: Callable[[float], bool], low: float) -> float:
    """Return the largest factor in [``low``, 1] found good by bisection; ``low`` is taken to be good."""
    if good(1.0):
        return 1.0
    high = 1.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if good(middle):
            low = middle
        else:
            high = middle
    return low


def _clearance(
    p_mw: Mapping[str, float], q_mvar: Mapping[str, float], factor: float, limit: str
) -> Clearance:
    powers = {f"p_{name}": p for name, p in p_mw.items()}
    powers.update((f"q_{name}", q * factor) for name, q in q_mvar.items())
    return Clearance.model_validate({**powers, "factor": factor, "limit": limit[:MAX_REASON]})
