"""The check of all setpoints together, over many copies at once.

All plans are solved together; only copies whose plan breaks a limit go through ``GridCheck``, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.messages import Clearance
from powergrid.batched.flow import BatchFlow
from powergrid.simulation.grid_check import GridCheck
from powergrid.simulation.grid_simulation import GridSimulation

__all__ = ["PlanCheck"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class PlanCheck:
    """Clears the plans of copies.

    Args:
        simulation: The grid; its set-points are overwritten.
        flow: Solves copies together.
    """

    def __init__(self, simulation: GridSimulation, flow: BatchFlow) -> None:
        self._agents, self._devices = simulation.agents, simulation.devices
        self._owner = np.array([simulation.agents.index(d.agent) for d in simulation.devices], dtype=np.intp)
        self._flow = flow
        self._check = GridCheck(simulation, simulation.scenario.envelope)

    def clear(
        self,
        rows: NDArray[np.int64],
        p_mw: Array,
        q_mvar: Array,
        heard: Flags,
        load_factor: Array | None = None,
    ) -> dict[int, Mapping[str, Clearance]]:
        """Return the clearances, by copy, of those whose plan breaks a limit; the others are cleared whole.

        Args:
            rows: (n,) of the time series.
            p_mw: (n, n_devices) planned, MW, positive = injected.
            q_mvar: (n, n_devices) planned, Mvar, positive = injected.
            heard: (n, n_agents) whose plan is known; the others count as nothing.
            load_factor: As in ``BatchFlow.solve``.
        """
        known = heard[:, self._owner]
        p, q = np.where(known, p_mw, 0.0), np.where(known, q_mvar, 0.0)
        result, converged = self._flow.solve(rows, p, q, load_factor)
        with np.errstate(invalid="ignore"):
            good = converged & self._check.is_within(result)
        found: dict[int, Mapping[str, Clearance]] = {}
        for copy in np.flatnonzero(~good & heard.any(axis=1)):
            found[int(copy)] = self._check.clear(
                int(rows[copy]),
                self._by_name(p[copy], heard[copy]),
                self._by_name(q[copy], heard[copy]),
                None if load_factor is None else load_factor[copy],
            )
        return found

    def _by_name(self, values: Array, heard: Flags) -> dict[str, dict[str, float]]:
        named: dict[str, dict[str, float]] = {
            agent: {} for agent, is_heard in zip(self._agents, heard, strict=True) if is_heard
        }
        for device, value in zip(self._devices, values.tolist(), strict=True):
            if device.agent in named:
                named[device.agent][device.name] = value
        return named
