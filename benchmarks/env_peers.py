"""One step of the environment beside what other environments and pandapower itself need, in one run.

    pip install grid2op                               in the environment of this project
    pip install citylearn                             each in one of its own: they want older libraries
    pip install 'numpy<2' python-microgrid
    python benchmarks/env_peers.py [--python OTHER/bin/python ...] [--rounds 3] [--only NAME] [--json]

Every row is a process of its own, on one core, of the first interpreter that has its library; a row of which
none has it is "not installed". Rows follow one another, round after round; told is CPU time a step, after a
few steps to warm up, and its ratio to ours in the same round. Trust the ratios (medians of the rounds).

The rows do not do the same: the column "what" says what is in a step. CityLearn brings no data set, so that
a small one is made for it; python-microgrid and grid2op bring theirs.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

clock = time.process_time
OURS = "heron-mqtt, own policies"
LONGEST_S = 300.0  # for one row of one round


class Row(NamedTuple):
    """One contestant.

    Attributes:
        library: Module that it needs.
        package: Its name at the package index.
        what: What is in a step.
        run: Takes a number of steps; returns seconds a step.
        steps: So many.
    """

    library: str
    package: str
    what: str
    run: Callable[[int], float]
    steps: int = 192


def taken(step: Callable[[int], Any], steps: int, warm: int = 8) -> float:
    """Return the seconds that a step takes; ``step`` is told its number."""
    for number in range(warm):
        step(number)
    began_s = clock()
    for number in range(warm, warm + steps):
        step(number)
    return (clock() - began_s) / steps


# -- ours ---------------------------------------------------------------------------------------------------


def own_policies(steps: int) -> float:
    """Step the default scenario; agents decide and trade."""
    import env_step

    env = env_step.centralized()
    return taken(lambda _: env.step({}), steps)


def given_actions(steps: int) -> float:
    """Step the default scenario with actions for every agent."""
    import env_step

    env = env_step.centralized()
    actions = env_step.random_actions(env, steps + 8)
    return taken(lambda number: env.step(actions[number]), steps)


def copies(steps: int, n: int = 256) -> float:
    """Step many copies at once."""
    from powergrid.envs import BatchedMicrogrids

    batch = BatchedMicrogrids({"num_envs": n})
    batch.reset(seed=0)
    return taken(lambda _: batch.step(), steps, warm=2) / n


# -- pandapower on the same network --------------------------------------------------------------------------


def runpp(steps: int, **options: Any) -> float:
    """Set loads, PV, generators and storage of each step in the tables, and solve."""
    import env_step
    import numpy as np
    import pandapower as pp

    env = env_step.reference()
    flow: Any = env.simulation.flow
    net, options = flow._net, {**flow._options, **options}
    recorded = []
    for _ in range(steps + 2):
        env.step({})
        powers = {name: (net[name].p_mw.copy(), net[name].q_mvar.copy()) for name in TABLES}
        recorded.append((powers, net.res_bus.vm_pu.to_numpy(float, copy=True)))
    pp.runpp(net, **flow._options)  # what recycle goes on from

    def step(number: int) -> None:
        powers, vm_pu = recorded[number]
        for name, (p_mw, q_mvar) in powers.items():
            net[name]["p_mw"], net[name]["q_mvar"] = p_mw, q_mvar
        pp.runpp(net, **options)
        assert np.abs(net.res_bus.vm_pu.to_numpy(float) - vm_pu).max() < 1e-8

    return taken(step, steps, warm=2)


TABLES = ("load", "sgen", "storage")


def recycled(steps: int) -> float:
    """Likewise, with the model of the network kept between solves."""
    return runpp(steps, recycle={"bus_pq": True, "trafo": False, "gen": True})


# -- others --------------------------------------------------------------------------------------------------


def grid2op_step(name: str, *, compiled: bool) -> Callable[[int], float]:
    """Return a row of a test environment that grid2op brings, in which nothing is done."""

    def run(steps: int) -> float:
        import grid2op

        backend: Any = {}
        if compiled:
            from lightsim2grid import LightSimBackend

            backend = {"backend": LightSimBackend()}
        env = grid2op.make(name, test=True, **backend)
        env.reset()
        nothing, in_steps_s = env.action_space({}), 0.0
        for number in range(-8, steps):
            began_s = clock()
            done = env.step(nothing)[2]
            in_steps_s += (clock() - began_s) * (number >= 0)
            if done:
                env.reset()
        return in_steps_s / steps

    return run


def python_microgrid(scenario: int) -> Callable[[int], float]:
    """Return a row of one of the 25 microgrids that python-microgrid brings, with random actions."""

    def run(steps: int) -> float:
        from pymgrid.envs import ContinuousMicrogridEnv

        env = ContinuousMicrogridEnv.from_scenario(scenario)
        env.reset()
        actions = [env.action_space.sample() for _ in range(steps + 8)]
        return taken(lambda number: env.step(actions[number]), steps)

    return run


def citylearn(steps: int) -> float:
    """Step three buildings with load, PV, battery and prices, with random actions."""
    from citylearn.citylearn import CityLearnEnv

    rng = random.Random(0)
    actions = [[[rng.uniform(-1.0, 1.0)] for _ in BUILDINGS] for _ in range(steps + 8)]
    with tempfile.TemporaryDirectory() as folder:
        env = CityLearnEnv(str(citylearn_data(Path(folder), steps + 16)))
        env.reset()
        return taken(lambda number: env.step(actions[number]), steps)


BUILDINGS = ("A", "B", "C")


def citylearn_data(folder: Path, hours: int) -> Path:
    """Write a small data set in CityLearn's form; return its schema."""
    rng = random.Random(1)
    ahead = ("", "_predicted_1", "_predicted_2", "_predicted_3")
    weather = ("outdoor_dry_bulb_temperature", "outdoor_relative_humidity")
    sun = ("diffuse_solar_irradiance", "direct_solar_irradiance")
    rest = dict.fromkeys(("dhw_demand", "cooling_demand", "heating_demand", "daylight_savings_status"), 0)
    building = [
        {
            "month": 7,
            "hour": hour % 24 + 1,
            "day_type": hour // 24 % 7 + 1,
            "indoor_dry_bulb_temperature": 20.0,
            "average_unmet_cooling_setpoint_difference": 0.0,
            "indoor_relative_humidity": 50.0,
            "non_shiftable_load": rng.uniform(1.0, 5.0),
            "solar_generation": 800.0 * (8 <= hour % 24 <= 17),
            **rest,
        }
        for hour in range(hours)
    ]
    air = {f"{name}{k}": 10.0 for name in (*weather, *sun) for k in ahead}
    prices = [{f"electricity_pricing{k}": rng.uniform(0.1, 0.5) for k in ahead} for _ in range(hours)]
    files = {"building.csv": building, "weather.csv": [air] * hours, "pricing.csv": prices}
    for name, rows in files.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    battery = {"capacity": 6.4, "efficiency": 0.9, "loss_coefficient": 0.0, "nominal_power": 5.0}
    one = {
        "include": True,
        "energy_simulation": "building.csv",
        "weather": "weather.csv",
        "pricing": "pricing.csv",
        "carbon_intensity": None,
        "inactive_observations": [],
        "inactive_actions": [],
        "electrical_storage": {"type": "citylearn.energy_model.Battery", "attributes": battery},
        "pv": {"type": "citylearn.energy_model.PV", "attributes": {"nominal_power": 4.0}},
    }
    seen = [
        "hour",
        "non_shiftable_load",
        "solar_generation",
        "electrical_storage_soc",
        "electricity_pricing",
        "net_electricity_consumption",
    ]
    schema = {
        "root_directory": str(folder),
        "central_agent": False,
        "simulation_start_time_step": 0,
        "simulation_end_time_step": hours - 1,
        "episode_time_steps": hours,
        "seconds_per_time_step": 3600,
        "observations": {name: {"active": True, "shared_in_central_agent": False} for name in seen},
        "actions": {"electrical_storage": {"active": True}},
        "reward_function": {"type": "citylearn.reward_function.RewardFunction", "attributes": None},
        "buildings": dict.fromkeys(BUILDINGS, one),
    }
    path = folder / "schema.json"
    path.write_text(json.dumps(schema), encoding="utf-8")
    return path


# -- the run -------------------------------------------------------------------------------------------------

MICROGRIDS = "55 buses, 3 agents, 9 devices, power flow"
ROWS: dict[str, Row] = {
    OURS: Row("powergrid", "heron-mqtt", f"{MICROGRIDS}, trading", own_policies),
    "heron-mqtt, actions given": Row("powergrid", "heron-mqtt", f"{MICROGRIDS}, trading", given_actions),
    "heron-mqtt, a copy of 256": Row("powergrid", "heron-mqtt", f"{MICROGRIDS}, trading", copies, 24),
    "pandapower, runpp": Row("powergrid", "pandapower", "55 buses, power flow alone", runpp, 24),
    "pandapower, runpp with recycle": Row(
        "powergrid", "pandapower", "55 buses, power flow alone", recycled, 24
    ),
    "grid2op, lightsim2grid, 14 buses": Row(
        "grid2op",
        "grid2op",
        "power flow, rules of a control room",
        grid2op_step("l2rpn_case14_sandbox", compiled=True),
    ),
    "grid2op, lightsim2grid, 118 buses": Row(
        "grid2op",
        "grid2op",
        "power flow, rules of a control room",
        grid2op_step("l2rpn_wcci_2022_dev", compiled=True),
    ),
    "grid2op, pandapower, 14 buses": Row(
        "grid2op",
        "grid2op",
        "power flow, rules of a control room",
        grid2op_step("l2rpn_case14_sandbox", compiled=False),
        24,
    ),
    "CityLearn, 3 buildings": Row("citylearn", "citylearn", "no network; load, PV, battery each", citylearn),
    "python-microgrid, scenario 0": Row(
        "pymgrid", "python-microgrid", "no network; load, PV, battery, grid", python_microgrid(0)
    ),
    "python-microgrid, scenario 1": Row(
        "pymgrid", "python-microgrid", "no network; generator besides", python_microgrid(1)
    ),
}


def measured_here(name: str) -> dict[str, Any]:
    """Return what a row needs a step, us, in this process, and of which version it is."""
    warnings.simplefilter("ignore")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    row = ROWS[name]
    return {"us": 1e6 * row.run(row.steps), "version": importlib.metadata.version(row.package)}


def measured_by(python: str, name: str) -> dict[str, Any]:
    """Return the same of a process of its own.

    Raises:
        RuntimeError: It failed; says how.
    """
    command = [python, __file__, "--row", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def has(python: str, library: str) -> bool:
    """Whether an interpreter finds a library."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def homes(pythons: Sequence[str]) -> dict[str, str]:
    """Return the interpreter of each row whose library is installed."""
    libraries = {row.library for row in ROWS.values()}
    of = {library: next((p for p in pythons if has(p, library)), None) for library in libraries}
    return {name: home for name, row in ROWS.items() if (home := of[row.library]) is not None}


def table(found: dict[str, list[dict[str, Any]]], missing: dict[str, str]) -> list[tuple[str, ...]]:
    """Return a line a row: name and version, us, ratio to ours with its extremes, what is in a step."""
    ours = [one["us"] for one in found[OURS]]
    lines: list[tuple[str, ...]] = []
    for name, row in ROWS.items():
        if name in missing:
            lines.append((name, missing[name], "", row.what))
        if name not in found:
            continue
        times = [one["us"] for one in found[name]]
        ratios = [time_us / base for time_us, base in zip(times, ours, strict=True)]
        title = f"{name} ({row.package} {found[name][0]['version']})"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        lines.append((title, f"{statistics.median(times):.0f}", ratio, row.what))
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One step of environments, side by side.")
    parser.add_argument("--python", action="append", default=[], help="another interpreter with libraries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="beside ours, only rows whose name has this in it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measured_here(options.row)))
        return
    home = homes([sys.executable, *options.python])
    if OURS not in home:
        raise SystemExit("heron-mqtt is not installed here: pip install -e .")
    wanted = [name for name in home if name == OURS or options.only in name]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    missing = {name: "not installed" for name in ROWS if name not in home and options.only in name}
    for number in range(options.rounds):
        for name in list(found):
            print(f"round {number + 1}: {name}", file=sys.stderr)
            try:
                found[name].append(measured_by(home[name], name))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                if name == OURS:
                    raise
                print(f"{name} failed: {error}", file=sys.stderr)
                missing[name] = "failed"
                del found[name]
    if options.json:
        print(json.dumps({"rows": found, "missing": missing}))
        return
    for title, took_us, ratio, what in table(found, missing):
        print(f"{title:52s}{took_us:>14s}{'' if not ratio else ' us':3s}  {ratio:24s}{what}")


if __name__ == "__main__":
    main()
