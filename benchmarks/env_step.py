"""One step of the default scenario, from the bare solver up to an exchange over a broker, in one run.

    python benchmarks/env_step.py [--rounds 5] [--steps 96] [--copies 256] [--json] [--parts]

Every round measures every row once, over the same steps from the beginning of the scenario's day, on one
core and in CPU time of this process (nothing here waits), so that whatever else the machine does hits all
of them alike. Trust the ratios (medians over the rounds),
not the times.
``--parts`` tells where a centralized step goes instead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import powergrid.envs.multi_agent_microgrids as env_module
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.envs.exchange import DirectExchange
from powergrid.envs.grid_state import GridState
from powergrid.envs.step_records import StepRecords
from powergrid.powerflow import CompiledPowerFlow
from powergrid.simulation.grid_simulation import GridSimulation

FOREVER = 10**9
clock = time.process_time
REFERENCE_STEPS = 4  # of those that take tens of milliseconds each

Row = Callable[[], float]
"""Runs one row once; returns seconds a step."""


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
    synchronous = centralized(centralized=False)
    loop = asyncio.new_event_loop()
    one_loop = MultiAgentMicrogrids({"max_episode_steps": FOREVER, "centralized": False})
    loop.run_until_complete(one_loop.reset_async(seed=0))

    def batched(steps: int = 8) -> float:
        began_s = clock()
        for _ in range(steps):
            batch.step()
        return (clock() - began_s) / steps / copies

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
    batched = next(name for name in found if name.startswith("batched"))
    pairs = {
        "step / raw KLU solve": ("step, own policies", "raw KLU solve"),
        "step with actions / raw KLU solve": ("step, actions", "raw KLU solve"),
        "step on runpp / step": ("step on runpp", "step, own policies"),
        "distributed (one loop) / centralized": ("distributed, memory, one loop", "step, own policies"),
        "distributed (sync) / centralized": ("distributed, memory, sync", "step, own policies"),
        "single / batched, a copy": ("step, own policies", batched),
    }
    values = {
        name: [a / b for a, b in zip(found[above], found[below], strict=True)]
        for name, (above, below) in pairs.items()
    }
    return {name: (statistics.median(v), min(v), max(v)) for name, v in values.items()}


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
    "reward terms": (GridState, "reward_terms"),
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
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.parts:
        found = parts(options.rounds * options.steps)
        whole = found["whole step"]
        for name, took_us in found.items():
            print(f"{name:52s}{took_us:8.1f} us {took_us / whole:7.0%}")
        return
    rows = measure(options.rounds, options.steps, options.copies)
    if options.json:
        print(json.dumps({"us": rows, "ratios": ratios(rows)}))
        return
    for name, times in rows.items():
        print(f"{name:40s}{statistics.median(times):10.1f} us  ({min(times):.1f} to {max(times):.1f})")
    for name, (median, low, high) in ratios(rows).items():
        print(f"{name:40s}{median:10.2f}     ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
