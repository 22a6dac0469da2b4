"""The voltages of a grid while its microgrids' devices do nothing, and the rows of least and most load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from powergrid.simulation.grid_simulation import GridSimulation


@dataclass(frozen=True, slots=True)
class IdleVoltage:
    """One voltage.

    Attributes:
        vm_pu: Magnitude, pu.
        agent: The microgrid of the bus.
        bus: Its name.
    """

    vm_pu: float
    agent: str
    bus: str


def rows_of_least_and_most_load(simulation: GridSimulation, rows: range) -> tuple[int, int]:
    """Return those of the rows in which the loads of all microgrids together are least and most."""
    p_mw = simulation.series.outlook(np.array(rows)).p_load_mw.sum(-1)  # positive = injected
    return rows[int(p_mw.argmax())], rows[int(p_mw.argmin())]


def idle_voltages(simulation: GridSimulation, row: int) -> tuple[IdleVoltage, IdleVoltage]:
    """Return the lowest and the highest voltage inside the microgrids in one row, with all devices at 0.

    Raises:
        PowerFlowDiverged: There is no solution.
    """
    idle = np.zeros(len(simulation.columns))
    vm_pu = simulation.solve(row, idle, idle).vm_pu
    found = [
        IdleVoltage(float(vm_pu[bus]), agent, simulation.bus_names[bus])
        for agent, index in simulation.microgrids.items()
        for bus in index.buses.tolist()
        if np.isfinite(vm_pu[bus])  # a bus without supply has none
    ]
    return min(found, key=lambda one: one.vm_pu), max(found, key=lambda one: one.vm_pu)
