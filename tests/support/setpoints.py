"""What an independent subscriber checks of every setpoint of a run, from the scenario alone."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from support.mosquitto_clients import Seen

LAXITY_MW = 1e-9


def setpoints(seen: Iterable[Seen]) -> list[tuple[str, dict[str, Any]]]:
    """Return (AGENT/DEVICE, message) of every setpoint, in order."""
    found = []
    for message in seen:
        *_, agent, device, leaf = message.topic.split("/")
        if leaf == "setpoint":
            found.append((f"{agent}/{device}", message.json))
    return found


def read_scenario(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def assert_inside_nameplate(scenario: Mapping[str, Any], seen: Iterable[Seen]) -> int:
    """Fail if a setpoint is not finite or beyond its device's nameplate; return how many there were."""
    checked = 0
    for name, message in setpoints(seen):
        agent, device = name.split("/")
        spec = scenario["microgrids"][agent]["devices"][device]
        p_mw, q_mvar = message["p_mw"], message["q_mvar"]
        assert math.isfinite(p_mw), name
        assert math.isfinite(q_mvar), name
        low = -spec["max_p_charge_mw"] if spec["kind"] == "battery" else 0.0
        high = spec["max_p_discharge_mw"] if spec["kind"] == "battery" else spec["max_p_mw"]
        assert low - LAXITY_MW <= p_mw <= high + LAXITY_MW, f"{name}: {message}"
        assert message["lease_s"] == scenario.get("lease_s", 30.0)
        checked += 1
    return checked
