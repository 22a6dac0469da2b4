"""The power flow of many copies at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError, PowerFlowDiverged, PowerFlowError
from powergrid.powerflow import CompiledPowerFlow, Loadings
from powergrid.simulation.grid_simulation import GridSimulation

__all__ = ["BatchFlow"]

Array = NDArray[np.float64]

# The fixed point stops at this mismatch, so that its voltages are Newton's to about 1e-11 pu.
TOLERANCE_MVA = 1e-12
# Iterations of the fixed point for the network as given, beyond which Newton's method is as fast.
MAX_ITERATIONS = 30


class BatchFlow:
    """Solves copies of a world's grid together.

    They are solved by fixed point, all copies in one matrix product; what does not converge is tried once
    more by the simulation's own solver, which decides. Networks that the fixed point does not suit, as those
    whose voltages are held by many generators, are solved one copy after the other.

    Args:
        simulation: The grid; its set-points are overwritten where a copy is solved by itself.

    Raises:
        ConfigError: The network cannot be compiled.
    """

    def __init__(self, simulation: GridSimulation) -> None:
        self._simulation = simulation
        table = simulation.scenario.network
        try:
            network = simulation.blueprint.grid.compiled()
            self._flow = CompiledPowerFlow(
                network, solver="fixed_point", tolerance_mva=min(TOLERANCE_MVA, table.tolerance_mva)
            )
            if network.n_gen and not _converges(self._flow):
                self._flow = CompiledPowerFlow(network, tolerance_mva=table.tolerance_mva)
        except PowerFlowError as exc:
            raise ConfigError(f"{simulation.blueprint.loaded.source}: network: {exc}") from exc
        if table.vm_pu is not None:
            self._flow.set_slack(table.vm_pu)
        self._base = self._flow.set_points.copy()
        self._loads = self._flow.injection_columns["load"]

    def solve(
        self, rows: NDArray[np.int64], p_mw: Array, q_mvar: Array, load_factor: Array | None = None
    ) -> tuple[Loadings, NDArray[np.bool_]]:
        """Solve (n,) copies, each in a row of the time series of its own.

        Args:
            rows: (n,) decide the loads.
            p_mw: (n, n_devices) MW, positive = injected.
            q_mvar: (n, n_devices) Mvar, positive = injected.
            load_factor: (n, n_agents) on each microgrid's loads; None = 1.

        Returns:
            (n, ...) voltages and loadings, NaN where a copy diverged; and (n,) whether it did not.
        """
        simulation = self._simulation
        points = np.tile(self._base, (len(rows), 1, 1))
        points[:, :, self._loads] = simulation.loads(rows, load_factor)
        points[:, 0, simulation.columns] = p_mw * simulation.p_sign
        points[:, 1, simulation.columns] = q_mvar * simulation.q_sign
        result = self._flow.solve_batch(points[:, 0], points[:, 1])
        found = Loadings.of(result.vm_pu, result.line_loading_percent, result.trafo_loading_percent)
        for copy in np.flatnonzero(~result.converged):
            try:
                factor = None if load_factor is None else load_factor[copy]
                alone = simulation.solve(int(rows[copy]), p_mw[copy], q_mvar[copy], factor)
            except PowerFlowDiverged:
                continue
            found.side_by_side[copy] = alone.side_by_side
            result.converged[copy] = True
        return found, result.converged


def _converges(flow: CompiledPowerFlow) -> bool:
    """Whether the fixed point solves the network as given, in a number of iterations that pays."""
    try:
        return flow.solve().iterations <= MAX_ITERATIONS
    except PowerFlowError:
        return False
