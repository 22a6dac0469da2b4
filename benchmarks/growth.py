"""What a step costs by the number of buses, and by the number of devices.

    python benchmarks/growth.py [--rounds 5] [--quick] > growth.json
    python benchmarks/plot_growth.py growth.json docs

Buses: one solve with all results, the raw KLU solve of the same network, and ``pandapower.runpp``.
Devices: a step of the default scenario with more and more batteries, PV plants and generators in each
microgrid, centralized and distributed over an ``InMemoryBroker``. One core, CPU time, interleaved rounds;
every figure is the median of the rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import pandapower as pp
import pandapower.networks as pn

from powergrid.envs import MultiAgentMicrogrids
from powergrid.powerflow import CompiledPowerFlow
from powergrid.scenario import load_scenario

clock = time.process_time
SOLVES, STEPS, RUNPP = 200, 48, 3
NETWORKS: dict[str, Callable[[], Any]] = {
    "CIGRE MV with DER": lambda: pn.create_cigre_network_mv(with_der="pv_wind"),
    "case33bw": pn.case33bw,
    "CIGRE LV": pn.create_cigre_network_lv,
    "case118": pn.case118,
    "mv_oberrhein": pn.mv_oberrhein,
    "Kerber Vorstadt": pn.create_kerber_vorstadtnetz_kabel_1,
}
PER_MICROGRID = (3, 6, 12, 24, 48)


def timed(work: Callable[[], object], times: int) -> float:
    """Return the microseconds of one call."""
    began_s = clock()
    for _ in range(times):
        work()
    return (clock() - began_s) / times * 1e6


def by_buses(rounds: int, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row for each of these networks."""
    rows = []
    for name in names:
        make = NETWORKS[name]
        net = make()
        pp.runpp(net, numba=False)
        flow = CompiledPowerFlow(net)
        flow.solve()
        solver: Any = flow._solver
        power, start = flow._node_power.one().copy(), flow._start.voltage
        rest = (solver._slack, solver._slack_weight, solver._pv, solver._pq, 20, solver._tolerance)

        def klu(solver: Any = solver, power: Any = power, start: Any = start, rest: Any = rest) -> None:
            solver._klu.reset()
            solver._klu.solve(solver._matrix, start, power, *rest)

        def runpp(net: Any = net) -> None:
            pp.runpp(net, numba=False)

        found: dict[str, list[float]] = {"raw KLU us": [], "solve us": [], "runpp us": []}
        for _ in range(rounds):
            found["raw KLU us"].append(timed(klu, SOLVES))
            found["solve us"].append(timed(flow.solve, SOLVES))
            found["runpp us"].append(timed(runpp, RUNPP))
        rows.append({"network": name, "buses": len(net.bus), **medians(found)})
    return rows


def with_devices(n: int) -> Any:
    """Return the default scenario with ``n`` devices in each microgrid, copies of its own."""
    loaded = load_scenario("three_microgrids")
    microgrids = {}
    for agent, table in loaded.scenario.microgrids.items():
        own = list(table.devices.items())
        devices = {
            f"{name}{k // len(own) or ''}": device for k in range(n) for name, device in [own[k % len(own)]]
        }
        microgrids[agent] = table.model_copy(update={"devices": devices})
    return loaded.model_copy(
        update={"scenario": loaded.scenario.model_copy(update={"microgrids": microgrids})}
    )


def by_devices(rounds: int, per_microgrid: Iterable[int]) -> list[dict[str, Any]]:
    """Return a row for each number of devices."""
    rows = []
    loop = asyncio.new_event_loop()
    for n in per_microgrid:
        scenario = with_devices(n)
        direct = MultiAgentMicrogrids({"scenario": scenario})
        memory = MultiAgentMicrogrids({"scenario": scenario, "centralized": False})

        async def distributed(env: MultiAgentMicrogrids = memory) -> float:
            await env.reset_async(seed=0)
            began_s = clock()
            for _ in range(STEPS):
                await env.step_async({})
            return (clock() - began_s) / STEPS * 1e6

        def centralized(env: MultiAgentMicrogrids = direct) -> None:
            env.step({})

        found: dict[str, list[float]] = {"centralized us": [], "in memory us": []}
        for number in range(-1, rounds):  # the first warms up
            direct.reset(seed=0)
            took_us = timed(centralized, STEPS)
            took_memory_us = loop.run_until_complete(distributed())
            if number >= 0:
                found["centralized us"].append(took_us)
                found["in memory us"].append(took_memory_us)
        loop.run_until_complete(memory.close_async())
        rows.append({"devices": 3 * n, **medians(found)})
    loop.close()
    return rows


def medians(found: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each list."""
    return {name: round(statistics.median(values), 1) for name, values in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a step costs by buses and by devices.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two networks, two numbers of devices")
    options = parser.parse_args()
    most = 2 if options.quick else None
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    buses = by_buses(options.rounds, list(NETWORKS)[:most])
    print(json.dumps({"buses": buses, "devices": by_devices(options.rounds, PER_MICROGRID[:most])}, indent=1))
