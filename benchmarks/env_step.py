"""One step of the default scenario, from the bare solver up to an exchange over a broker, in one run.

    python benchmarks/env_step.py [--rounds 5] [--steps 96] [--copies 256] [--json] [--parts]

Every round measures every row once, over the same steps from the beginning of the scenario's day, on one
core and in CPU time of this process (nothing here waits), so that whatever else the machine does hits all
of them alike. Trust the ratios (medians over the rounds), not the times; and on a machine whose other
threads are busy, Python slows down more than a compiled solver does, so that ratios to it rise. Two processes
against one are measured by wall clock, where there are two cores, beside two that have nothing to do with
each other: more than that the machine does not give.
``--parts`` tells where a centralized step goes instead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import functools
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import two_processes

import powergrid.envs.microgrid_environment as env_module
from powergrid.batched.flow import TOLERANCE_MVA
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.envs.exchange import DirectExchange
from powergrid.envs.grid_state import GridState
from powergrid.envs.step_records import StepRecords
from powergrid.powerflow import CompiledPowerFlow
from powergrid.simulation.grid_simulation import GridSimulation

FOREVER = 10**9
clock = time.process_time
BATCHED_STEPS = 8
REFERENCE_STEPS = 4  # of those that take tens of milliseconds each

Row = Callable[[], float]
"""Runs one row once; returns seconds a step."""

GOALS: dict[str, tuple[float, float]] = {
    "batched step, a copy / batched fixed point": (2.5, 1.5),
    "batched, PV buses / batched fixed point": (2.5, 1.5),
    "two processes (shared memory) / one": (1.8, 1.95),
    "step with actions / raw KLU solve": (5.0, 4.0),
    "distributed (one loop) / centralized": (2.8, 2.0),
}
"""What each ratio must be, and what is aimed at: at most, for two processes at least."""


def centralized(**config: Any) -> MultiAgentMicrogrids:
    """Return the default scenario, begun."""
    env = MultiAgentMicrogrids({"max_episode_steps": FOREVER, **config})
    env.reset(seed=0)
    return env


def random_actions(env: MultiAgentMicrogrids, n: int) -> list[dict[str, Any]]:
    """Return actions for ``n`` steps."""
    rng = np.random.default_rng(0)
    return [
        {agent: rng.uniform(-1, 1, env.action_space(agent).shape) for agent in env.possible_agents}
        for _ in range(n)
    ]


class Recorded:
    """The power flows of a day, as the environment asks for them."""

    def __init__(self, n: int) -> None:
        env = centralized()
        self.simulation = env.simulation
        flow = self.simulation.flow
        assert isinstance(flow, CompiledPowerFlow)
        self.flow = flow
        self.powers: list[Any] = []
        self.arguments: list[tuple[int, Any, Any, Any]] = []
        real = self.simulation.solve

        def noted(row: int, p_mw: Any, q_mvar: Any, load_factor: Any) -> Any:
            self.arguments.append((row, p_mw.copy(), q_mvar.copy(), load_factor))
            result = real(row, p_mw, q_mvar, load_factor)
            self.powers.append(flow._node_power.one().copy())
            return result

        with patched(self.simulation, "solve", noted):
            for _ in range(n):
                env.step({})

    def klu(self) -> float:
        """Solve by lightsim2grid alone, with the arrays that the compiled power flow hands to it."""
        solver, start = self.flow._solver, self.flow._start.voltage
        klu: Any = solver._klu  # type: ignore[union-attr]
        rest = (solver._slack, solver._slack_weight, solver._pv, solver._pq, 20, solver._tolerance)  # type: ignore[union-attr]
        matrix = solver._matrix  # type: ignore[union-attr]
        began_s = clock()
        for power in self.powers:
            klu.reset()
            klu.solve(matrix, start, power, *rest)
        return (clock() - began_s) / len(self.powers)

    def compiled(self) -> float:
        """Solve and read the results."""
        began_s = clock()
        for _ in self.powers:
            self.flow.solve()
        return (clock() - began_s) / len(self.powers)

    def grid(self) -> float:
        """Look up the loads, set every device, solve, read the results."""
        began_s = clock()
        for arguments in self.arguments:
            self.simulation.solve(*arguments)
        return (clock() - began_s) / len(self.arguments)


class RecordedBatch:
    """The power flows of a batch, on its network and on one with two generators that hold voltages.

    Args:
        batch: Begun; is stepped.
        n: Steps.
    """

    def __init__(self, batch: BatchedMicrogrids, n: int) -> None:
        self.flow = batch._flow._flow
        self.powers: list[tuple[Any, Any]] = []
        real = self.flow.solve_batch

        def noted(p_mw: Any, q_mvar: Any) -> Any:
            self.powers.append((p_mw.copy(), q_mvar.copy()))
            return real(p_mw, q_mvar)

        with patched(self.flow, "solve_batch", noted):
            for _ in range(n):
                batch.step()
        self.holding = _with_generators(batch.simulation)
        one, other = (flow.solve_batch(*self.powers[0]) for flow in (self.holding, self.flow))
        assert one.converged.all()
        assert not np.allclose(one.vm_pu, other.vm_pu), "the generators do nothing"

    def seconds(self, flow: CompiledPowerFlow) -> float:
        """Solve and read the results; return seconds a point."""
        began_s = clock()
        for p_mw, q_mvar in self.powers:
            flow.solve_batch(p_mw, q_mvar)
        return (clock() - began_s) / sum(len(p_mw) for p_mw, _ in self.powers)


def _with_generators(simulation: GridSimulation) -> CompiledPowerFlow:
    """Return the grid with a generator at two of its plants, each holding 0.002 pu more than there is."""
    import pandapower as pp

    net = copy.deepcopy(simulation.blueprint.grid.net)
    pp.runpp(net, numba=False)
    for bus in net.sgen.bus.tolist()[:2]:
        pp.create_gen(net, bus, p_mw=0.0, vm_pu=float(net.res_bus.vm_pu[bus]) + 0.002)
    return CompiledPowerFlow(net, solver="fixed_point", tolerance_mva=TOLERANCE_MVA)


def stepping(env: MultiAgentMicrogrids, actions: list[dict[str, Any]]) -> float:
    """Take one step for each entry from the beginning of the day, with the synchronous interface."""
    env.reset(seed=0)
    began_s = clock()
    for given in actions:
        env.step(given)
    return (clock() - began_s) / len(actions)


async def stepping_async(env: MultiAgentMicrogrids, actions: list[dict[str, Any]]) -> float:
    """Take one step for each entry from the beginning of the day, in the running loop."""
    await env.reset_async(seed=0)
    began_s = clock()
    for given in actions:
        await env.step_async(given)
    return (clock() - began_s) / len(actions)


def reference() -> MultiAgentMicrogrids:
    """Return the environment on ``pandapower.runpp`` with its default options."""
    env = centralized(scenario=_with_solver("pandapower"))
    flow: Any = env.simulation.flow
    flow._options = {"tolerance_mva": 1e-8, "numba": importlib.util.find_spec("numba") is not None}
    return env


def _with_solver(solver: str) -> Any:
    from powergrid.scenario import load_scenario

    loaded = load_scenario("three_microgrids")
    network = loaded.scenario.network.model_copy(update={"solver": solver})
    return loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"network": network})})


def measure(rounds: int, n: int, copies: int) -> dict[str, list[float]]:
    """Return microseconds a step (and copy) of every row, one number a round."""
    own: list[dict[str, Any]] = [{}] * n
    recorded, env, acting = Recorded(n), centralized(), centralized()
    actions = random_actions(acting, n)
    on_runpp, batch = reference(), BatchedMicrogrids({"num_envs": copies})
    batch.reset(seed=0)
    points = RecordedBatch(batch, BATCHED_STEPS)
    synchronous = centralized(centralized=False)
    loop = asyncio.new_event_loop()
    one_loop = MultiAgentMicrogrids({"max_episode_steps": FOREVER, "centralized": False})
    loop.run_until_complete(one_loop.reset_async(seed=0))

    def batched() -> float:
        batch.reset(seed=0)
        began_s = clock()
        for _ in range(BATCHED_STEPS):
            batch.step()
        return (clock() - began_s) / BATCHED_STEPS / copies

    rows: dict[str, Row] = {
        "raw KLU solve": recorded.klu,
        "CompiledPowerFlow.solve": recorded.compiled,
        "GridSimulation.solve": recorded.grid,
        "step, own policies": lambda: stepping(env, own),
        "step, actions": lambda: stepping(acting, actions),
        "step on runpp": lambda: stepping(on_runpp, own[:REFERENCE_STEPS]),
        "distributed, memory, one loop": lambda: loop.run_until_complete(stepping_async(one_loop, own)),
        "distributed, memory, sync": lambda: stepping(synchronous, own),
        f"batched, {copies} copies, a copy": batched,
        "batched fixed point, a point": lambda: points.seconds(points.flow),
        "batched fixed point, PV buses, a point": lambda: points.seconds(points.holding),
    }
    found: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(-1, rounds):  # the first round warms up
        for name, row in rows.items():
            took_us = row() * 1e6
            if number >= 0:
                found[name].append(took_us)
    loop.run_until_complete(one_loop.close_async())
    loop.close()
    synchronous.close()
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, tuple[float, float, float]]:
    """Return median, smallest and largest over the rounds of what the goals are about."""
    batched = next(name for name in found if name.startswith("batched, "))
    pairs = {
        "step / raw KLU solve": ("step, own policies", "raw KLU solve"),
        "step with actions / raw KLU solve": ("step, actions", "raw KLU solve"),
        "step on runpp / step": ("step on runpp", "step, own policies"),
        "distributed (one loop) / centralized": ("distributed, memory, one loop", "step, own policies"),
        "distributed (sync) / centralized": ("distributed, memory, sync", "step, own policies"),
        "single / batched, a copy": ("step, own policies", batched),
        "batched step, a copy / batched fixed point": (batched, "batched fixed point, a point"),
        "batched, PV buses / batched fixed point": (
            "batched fixed point, PV buses, a point",
            "batched fixed point, a point",
        ),
    }
    values = {
        name: [a / b for a, b in zip(found[above], found[below], strict=True)]
        for name, (above, below) in pairs.items()
    }
    return {name: spread(v) for name, v in values.items()}


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return median, smallest and largest."""
    return statistics.median(values), min(values), max(values)


def goal(name: str) -> str:
    """Return what a ratio must be and what is aimed at, if it is one of the goals."""
    if name not in GOALS:
        return ""
    must, aim = GOALS[name]
    return f"  must {must:g}, aim {aim:g}"


# -- where a step goes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Put something else in an attribute's place for a while."""
    had = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


PARTS: dict[str, tuple[Any, str]] = {
    "tell the agents (observations, commands, clock)": (MultiAgentMicrogrids, "_begin_step"),
    "agents: policies, trading, device models": (DirectExchange, "step"),
    "settle trades": (env_module, "settle"),
    "record reports": (StepRecords, "record"),
    "power flow (GridSimulation.solve)": (GridSimulation, "solve"),
    "results against limits": (GridState, "apply"),
    "reward terms": (GridState, "terms_by_agent"),
    "infos": (StepRecords, "infos"),
    "next outlook and observations": (MultiAgentMicrogrids, "_observe"),
}


def parts(n: int) -> dict[str, float]:
    """Return the median microseconds of each part of a centralized step with own policies."""
    taken: dict[str, list[float]] = {name: [] for name in (*PARTS, "whole step")}
    env = centralized()

    def timed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            began_s = clock()
            result = real(*args, **kwargs)
            taken[name].append(clock() - began_s)
            return result

        return call

    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            real = getattr(owner, attribute)
            stack.enter_context(patched(owner, attribute, timed(name, real)))
        for _ in range(n):
            began_s = clock()
            env.step({})
            taken["whole step"].append(clock() - began_s)
    return {name: statistics.median(times) * 1e6 for name, times in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One step of the default scenario, from the solver up.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=96, help="steps a round and row")
    parser.add_argument("--copies", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    if options.parts:
        found = parts(options.rounds * options.steps)
        whole = found["whole step"]
        for name, took_us in found.items():
            print(f"{name:52s}{took_us:8.1f} us {took_us / whole:7.0%}")
        return
    rows = measure(options.rounds, options.steps, options.copies)
    found_ratios = ratios(rows)
    if len(cores) > 1:
        os.sched_setaffinity(0, cores)
        shared, apart = two_processes.measured(options.rounds, options.copies, cores)
        found_ratios["two processes (shared memory) / one"] = spread(shared)
        found_ratios["two that share nothing / one (this machine)"] = spread(apart)
    if options.json:
        print(json.dumps({"us": rows, "ratios": found_ratios, "goals": GOALS}))
        return
    for name, times in rows.items():
        print(f"{name:40s}{statistics.median(times):10.1f} us  ({min(times):.1f} to {max(times):.1f})")
    for name, (median, low, high) in found_ratios.items():
        print(f"{name:44s}{median:6.2f}     ({low:.2f} to {high:.2f}){goal(name)}")
    if len(cores) < 2:
        print("two processes (shared memory) / one: left out, there is one core only")


if __name__ == "__main__":
    main()
