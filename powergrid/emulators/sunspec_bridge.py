"""The bridge to a SunSpec inverter as a program, for the environment that a scenario names."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from heron_mqtt.field.sunspec import bridge
from powergrid.scenario import load_scenario


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return bridge.run(argv, lambda scenario: load_scenario(scenario).scenario.topic_env_id)


if __name__ == "__main__":
    sys.exit(run())
