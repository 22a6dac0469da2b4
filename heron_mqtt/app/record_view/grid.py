"""The grid of a record: its network, and the power flow of a step solved again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heron_mqtt.app.record_view.timeline import StepPlace
from heron_mqtt.app.recorded_world import recorded_blueprint
from heron_mqtt.errors import DataError, PowerFlowDiverged
from heron_mqtt.json_object import Json
from heron_mqtt.messages import Message
from heron_mqtt.record.reader import RecordFile
from powergrid.simulation.grid_messages import results_fields
from powergrid.simulation.grid_simulation import GridSimulation

_METADATA = {*Message.model_fields, "type"}
SAME_PU = 1e-4


class RecordedGrid:
    """Solves steps of a record again, from the powers that were recorded.

    Args:
        record: Of an environment.

    Raises:
        DataError: The record does not hold what the grid is built from.
    """

    def __init__(self, record: RecordFile) -> None:
        self._world = GridSimulation(recorded_blueprint(record))
        message = self._world.blueprint.grid.drawing()
        self.network = None if message is None else message.model_dump(mode="json", exclude=_METADATA)

    def results(
        self,
        place: StepPlace,
        devices: Mapping[str, Mapping[str, Any]],
        agents: Mapping[str, Mapping[str, Any]],
    ) -> Json:
        """Return the results of a step as in ``GridResults``, with ``step``, ``episode`` and ``differs``.

        Args:
            place: The step.
            devices: By AGENT/DEVICE, its row.
            agents: By agent, its row; ``differs`` says whose voltages are not what was recorded.
        """
        found: Json = {"step": place.step, "episode": place.episode, "differs": []}
        world = self._world
        rows = [devices.get(f"{one.agent}/{one.name}") for one in world.devices]
        if place.diverged is not None:
            return {**found, "diverged": place.diverged}
        if place.row is None or not world.series.has(place.row) or None in rows:
            return {**found, "diverged": "the record does not hold every load and device of this step"}
        p_mw = np.array([row["p_mw"] or 0.0 for row in rows if row is not None])
        q_mvar = np.array([row["q_mvar"] or 0.0 for row in rows if row is not None])
        try:
            result = world.solve(place.row, p_mw, q_mvar)
        except PowerFlowDiverged as exc:
            return {**found, "diverged": exc.reason}
        for name, index in world.microgrids.items():
            said = agents.get(name, {}).get("vm_min_pu")
            if said is not None and abs(float(np.nanmin(result.vm_pu[index.buses])) - said) > SAME_PU:
                found["differs"].append(name)
        return {**found, **results_fields(result)}


def recorded_grid(record: RecordFile) -> tuple[RecordedGrid | None, str | None]:
    """Return the grid of a record, or why there is none."""
    if record.meta.get("role", "environment") != "environment":
        return None, f"this is the record of {record.meta['role']}: it has no grid"
    try:
        return RecordedGrid(record), None
    except DataError as exc:
        return None, str(exc)
