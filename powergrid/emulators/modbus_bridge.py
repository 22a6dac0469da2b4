"""The bridge to a device by its Modbus registers as a program, for the environment that a scenario names."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from heron_mqtt.field.vendor import modbus_bridge as bridge
from powergrid.scenario import load_scenario


def open_scenario(name: str) -> bridge.BridgeScenario:
    """Return what a scenario says, by its file or name.

    Raises:
        ConfigError: There is none, or it is wrong.
    """
    scenario = load_scenario(name).scenario

    def place(agent: str, device: str) -> bridge.DevicePlace | None:
        microgrid = scenario.microgrids.get(agent)
        table = None if microgrid is None else microgrid.devices.get(device)
        if table is None:
            return None
        return bridge.DevicePlace(table.spec.kind, table.spec.power_range_mw, table.gateway.stale_after_s)

    return bridge.BridgeScenario(scenario.topic_env_id, place)


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return bridge.run(argv, open_scenario)


if __name__ == "__main__":
    sys.exit(run())
