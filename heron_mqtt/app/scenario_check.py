"""``heron-mqtt check``: builds everything a scenario names, starts nothing, and says what would run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from heron_mqtt.app.surprises import surprises
from heron_mqtt.app.vendor_adapters import load_mappings, mapping_notes
from heron_mqtt.errors import ConfigError, PowerFlowDiverged
from heron_mqtt.messaging.settings import topics_begin
from heron_mqtt.messaging.topics import TopicMap
from heron_mqtt.scheduling import SUGGESTED_PRIORITY, priority_problem
from powergrid.agents.proxies import emulated_devices
from powergrid.scenario import LoadedScenario

if TYPE_CHECKING:
    from powergrid.simulation.grid_simulation import GridSimulation


def describe(loaded: LoadedScenario) -> Iterator[str]:
    """Return what a scenario would run, line by line.

    Raises:
        ConfigError: One line for each problem: file, key, value and what was expected.
    """
    from powergrid.simulation.build import build
    from powergrid.simulation.grid_simulation import GridSimulation

    scenario = loaded.scenario
    problems: list[str] = []
    try:
        mappings = load_mappings(loaded)
    except ConfigError as exc:
        problems += exc.problems
    try:
        blueprint = build(loaded)
    except ConfigError as exc:
        problems += exc.problems
    if problems:
        raise ConfigError(*problems)
    simulation = GridSimulation(blueprint)
    net = blueprint.net
    if scenario.network.solver == "fixed_point" and len(net.gen):
        _require_fixed_point(loaded, simulation)
    yield f"{loaded.source}: valid"
    start = f"{simulation.series.clock.moment(scenario.profiles.start_row):%Y-%m-%d %H:%M} UTC"
    yield f"scenario    {scenario.name}: {scenario.steps} steps of {scenario.step_s:g} s from {start}"
    yield (
        f"network     {scenario.network.source}: {len(net.bus)} buses, {len(net.line)} lines, "
        f"{len(net.trafo)} transformers, {len(net.load)} loads, solver {scenario.network.solver}"
    )
    yield f"profiles    {loaded.path(scenario.profiles.file)}, {simulation.series.n_rows} rows"
    yield f"prices      {loaded.path(scenario.profiles.price_file)}, column {scenario.profiles.price_column}"
    yield from _real_time(scenario.realtime_s)
    before = topics_begin(scenario.broker.topic_prefix)
    yield f"topics      {before}{TopicMap(scenario.topic_env_id).prefix}#, operator {scenario.operator_id}"
    yield f"protocols   price and setpoint, {scenario.protocol.horizontal} between the microgrids"
    for agent, table in scenario.microgrids.items():
        sites = blueprint.sites[agent]
        start = f"heron-mqtt proxy --agent {agent} --broker URL {loaded.source}"
        where = f"remote: {start}" if table.remote else "local"
        yield f"microgrid   {agent} ({where}): {len(sites.buses)} buses, {len(sites.loads)} loads"
        over_mqtt = emulated_devices(scenario, agent, "emulated")
        for name, device in table.devices.items():
            element, index = blueprint.devices[agent, name]
            bus = net.bus.name[net[element].bus[index]]
            if (agent, name) in mappings:
                means = "topics" if device.modbus is None else f"registers at {device.modbus.address}"
                how = f"a {mappings[agent, name].name} by its own {means}"
            elif device.external:
                how = "a real device"
            else:
                how = "emulated where devices can connect" if name in over_mqtt else "simulated"
            profile = f", profile {device.profile}" if device.profile else ""
            level = device.settings("emulated").authority
            authority = "" if level in {"simulated", "emulated"} else f", authority {level}"
            yield f"device      {agent}/{name}: {device.spec.kind} at {bus!r}{profile}, {how}{authority}"
            if (agent, name) in mappings:
                yield from (f"            {note}" for note in mapping_notes(mappings[agent, name]))
    for text in surprises(simulation):
        yield f"SURPRISE    {text}"


def _real_time(realtime_s: float | None) -> Iterator[str]:
    """Say how fast steps follow, and whether this user may give them a priority on this machine."""
    if realtime_s is not None:
        why_not = priority_problem(SUGGESTED_PRIORITY)
        prior = f"--priority {SUGGESTED_PRIORITY}: possible here" if why_not is None else why_not
        yield f"real time   a step each {realtime_s:g} s; {prior}"


def _require_fixed_point(loaded: LoadedScenario, simulation: GridSimulation) -> None:
    """See that the fixed point holds the voltages of the generators, which it does where they are few."""
    nothing = np.zeros(len(simulation.columns))
    try:
        simulation.solve(loaded.scenario.profiles.start_row, nothing, nothing)
    except PowerFlowDiverged as exc:
        raise ConfigError(
            f"{loaded.source}: network.solver: 'fixed_point' does not suit {loaded.scenario.network.source}: "
            f"{exc}"
        ) from None
