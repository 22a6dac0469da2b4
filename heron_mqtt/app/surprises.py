"""What a valid scenario does that its author will probably not expect; ``heron-mqtt check`` says it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from heron_mqtt.errors import PowerFlowDiverged
from heron_mqtt.input_files import is_file
from powergrid.scenario import LoadedScenario
from powergrid.simulation.build import Blueprint
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.idle_voltages import idle_voltages, rows_of_least_and_most_load

MANY_TIMES = 20.0  # the nominal load of a microgrid: more devices than that are a wrong unit
LEASE_STEPS = 3
SHORTEST_LEASE_S = 0.1  # of a run that waits for no clock


def surprises(simulation: GridSimulation) -> Iterator[str]:
    """Return one line for each thing in a scenario that will probably surprise.

    Args:
        simulation: Its grid.
    """
    blueprint = simulation.blueprint
    loaded = blueprint.loaded
    yield from _files(loaded)
    for agent in loaded.scenario.microgrids:
        yield from _places(loaded, blueprint, agent)
        yield from _sizes(loaded, blueprint, agent)
        yield from _policy(loaded, blueprint, agent)
    yield from _voltages(loaded, simulation)
    yield from _times(loaded)
    yield from _faults(loaded)


def _files(loaded: LoadedScenario) -> Iterator[str]:
    path = loaded.path(loaded.scenario.profiles.file)
    if not is_file(path):
        yield f"profiles.file = {loaded.scenario.profiles.file!r}: no such file; no column of it is used"


def _places(loaded: LoadedScenario, blueprint: Blueprint, agent: str) -> Iterator[str]:
    table, sites = loaded.scenario.microgrids[agent], blueprint.sites[agent]
    given = table.buses or []
    twice = sorted({str(bus) for bus in given if given.count(bus) > 1})
    if twice:
        yield f"microgrids.{agent}.buses: {', '.join(twice)} is named more than once"
    net = blueprint.net
    for name in table.devices:
        element, index = blueprint.devices[agent, name]
        bus = int(net[element].bus[index])
        if bus not in sites.buses:
            where = f"{net.bus.name[bus]!r} (index {bus})"
            yield f"microgrids.{agent}.devices.{name}: its bus {where} is outside of the microgrid"


def _sizes(loaded: LoadedScenario, blueprint: Blueprint, agent: str) -> Iterator[str]:
    table, sites, net = loaded.scenario.microgrids[agent], blueprint.sites[agent], blueprint.net
    load_mw = float(net.load.p_mw.loc[list(sites.loads)].sum())
    supply_mva = _supply_mva(net, sites.trafos, sites.buses)
    for name, device in table.devices.items():
        largest_mw = max(abs(p_mw) for p_mw in device.spec.power_range_mw)
        key = f"microgrids.{agent}.devices.{name}"
        if supply_mva is not None and largest_mw > supply_mva:
            yield (
                f"{key}: up to {largest_mw:g} MW, more than the transformers of {agent} carry "
                f"({supply_mva:g} MVA)"
            )
        elif load_mw > 0.0 and largest_mw > MANY_TIMES * load_mw:
            times = largest_mw / load_mw
            yield f"{key}: up to {largest_mw:g} MW, {times:.0f} times the loads of {agent}: MW?"


def _supply_mva(net: Any, trafos: tuple[int, ...], buses: tuple[int, ...]) -> float | None:
    """Return what the transformers between a microgrid and the grid carry, MVA; None = there are none."""
    inside = set(buses)
    hv, lv = net.trafo.hv_bus, net.trafo.lv_bus
    between = [float(net.trafo.sn_mva[t]) for t in trafos if (hv[t] in inside) != (lv[t] in inside)]
    return sum(between) if between else None


def _policy(loaded: LoadedScenario, blueprint: Blueprint, agent: str) -> Iterator[str]:
    table, profiles = loaded.scenario.microgrids[agent], loaded.scenario.profiles
    if not any(device.spec.has_soc for device in table.devices.values()):
        return
    column = blueprint.prices.columns[profiles.price_column]
    rows = [(profiles.start_row + n) % len(column) for n in range(min(loaded.scenario.steps, len(column)))]
    low, high = float(column[rows].min()), float(column[rows].max())
    if table.policy.use is None and low > table.policy.charge_below and high < table.policy.discharge_above:
        yield (
            f"microgrids.{agent}.policy: the price stays between {low:.4g} and {high:.4g} $/MWh, so storage "
            f"never charges (below {table.policy.charge_below:g}) nor discharges "
            f"(above {table.policy.discharge_above:g})"
        )


def _voltages(loaded: LoadedScenario, simulation: GridSimulation) -> Iterator[str]:
    """Say where a voltage is outside of the band of the reward although there is little load.

    A low voltage under load is what generators and storage are there for.
    """
    scenario, reward = loaded.scenario, loaded.scenario.reward
    first = scenario.profiles.start_row
    rows = range(first, first + min(scenario.steps, simulation.series.n_rows))
    try:
        row, _ = rows_of_least_and_most_load(simulation, rows)
        lowest, highest = idle_voltages(simulation, row)
    except (IndexError, PowerFlowDiverged):  # the run reports it, with the row
        return
    for one, is_outside, side in (
        (highest, highest.vm_pu > reward.vm_max_pu, f"above reward.vm_max_pu = {reward.vm_max_pu:g}"),
        (lowest, lowest.vm_pu < reward.vm_min_pu, f"below reward.vm_min_pu = {reward.vm_min_pu:g}"),
    ):
        if is_outside:
            yield (
                f"network: {one.vm_pu:.4f} pu at {one.bus!r} of {one.agent}, {side}, with the least load "
                f"(row {row}) and all devices at 0: the agents' actions cannot avoid this penalty; "
                "network.vm_pu sets "
                "the voltage of the supply"
            )


def _times(loaded: LoadedScenario) -> Iterator[str]:
    scenario = loaded.scenario
    step_s, deadlines = scenario.realtime_s, scenario.deadlines
    if step_s is None:
        if scenario.lease_s < SHORTEST_LEASE_S:
            yield (
                f"lease_s = {scenario.lease_s:g}: as fast as possible a step with devices takes some 0.01 to "
                "0.05 s: setpoints run out before they are renewed"
            )
        return
    if scenario.lease_s < LEASE_STEPS * step_s:
        yield (
            f"lease_s = {scenario.lease_s:g}: shorter than {LEASE_STEPS} steps of {step_s:g} s: one lost "
            "message sends a device to its safe state"
        )
    slowest_s = deadlines.upstream_s + deadlines.peer_s + deadlines.device_s
    if slowest_s > step_s:
        yield (
            f"deadlines: one step may wait {slowest_s:g} s (upstream, peer, device), and realtime_s is "
            f"{step_s:g}: one late message makes the next steps begin late"
        )


def _faults(loaded: LoadedScenario) -> Iterator[str]:
    steps = loaded.scenario.steps
    for i, fault in enumerate(loaded.scenario.faults):
        if fault.at_step >= steps:
            yield f"faults[{i}].at_step = {fault.at_step}: the run has {steps} steps, so it never begins"
