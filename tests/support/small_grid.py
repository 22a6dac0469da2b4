"""The small scenario of the test kit, and its grid built once a process."""

from __future__ import annotations

from heron_mqtt.testing.small_scenario import BUSES
from heron_mqtt.testing.small_scenario import small_scenario as scenario
from powergrid.scenario import LoadedScenario
from powergrid.simulation.build import Blueprint, build
from powergrid.simulation.placed_grid import GridStore

__all__ = ["BUSES", "build_once", "scenario"]

_blueprints: dict[str, Blueprint] = {}


def build_once(loaded: LoadedScenario, cache: GridStore | None = None) -> Blueprint:
    """Do what ``build`` does, once a scenario: it takes nine tenths of making a world."""
    key = f"{loaded.directory} {loaded.scenario.model_dump_json()}"
    if key not in _blueprints:
        _blueprints[key] = build(loaded, cache)
    return _blueprints[key]
