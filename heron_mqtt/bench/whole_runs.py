"""What whole runs take: until they have begun, with emulated devices, on a clock, with a process an agent."""

from __future__ import annotations

import statistics
from pathlib import Path

from heron_mqtt.app.project.write import make_project
from heron_mqtt.bench.commands import HERON, CommandRunner, ProcessRun
from heron_mqtt.bench.rows import BenchRow, ratio

NUMPY_ALONE = ("-c", "import numpy")
RUN = (*HERON, "run", "--no-record", "--json")
ONE_STEP = (*RUN, "--steps", "1", "--devices", "simulated")
PROXY = (*HERON, "proxy", "--no-record")
PERIOD_S = 0.01
SAME_CPU = "  the same, CPU time of all processes"
FEW_STEPS = 4


async def startup_rows(commands: CommandRunner, rounds: int) -> list[BenchRow]:
    """Return how long runs take as whole processes, beside the shortest program that uses numpy."""
    what = {"numpy": NUMPY_ALONE, "one step": ONE_STEP, "a day": RUN}
    found: dict[str, list[ProcessRun]] = {name: [] for name in what}
    for arguments in what.values():
        await commands.run(*arguments)  # what is compiled once is compiled now
    for _ in range(rounds):
        for name, arguments in what.items():
            found[name].append(await commands.run(*arguments))
    floor = found["numpy"]
    rows = []
    for name, title, must, aim in (
        ("one step", 'run --steps 1 --devices simulated / python -c "import numpy"', 8.0, 5.0),
        ("a day", "run, a day with nine emulated devices / the same", 15.0, 10.0),
    ):
        ran = found[name]
        raw = {
            "s": statistics.median(r.wall_s for r in ran),
            "numpy s": statistics.median(r.wall_s for r in floor),
        }
        walls, floors = [r.wall_s for r in ran], [r.wall_s for r in floor]
        rows += [
            ratio(title, "x", walls, floors, must=must, aim=aim, raw=raw),
            ratio(SAME_CPU, "x", [r.cpu_s for r in ran], [r.cpu_s for r in floor]),
        ]
    return rows


async def device_rows(commands: CommandRunner, rounds: int) -> list[BenchRow]:
    """Return what a step takes with nine emulated devices, beside one with models in process."""
    found: dict[str, list[float]] = {"emulated": [], "simulated": []}
    for _ in range(rounds):
        for devices, times_ms in found.items():
            ran = await commands.run(*RUN, "--devices", devices)
            times_ms.append(ran.result()["step_ms"]["median"])
    raw = {f"{devices} ms": statistics.median(times_ms) for devices, times_ms in found.items()}
    what = "step with nine emulated devices / with simulated ones (embedded)"
    return [ratio(what, "x", found["emulated"], found["simulated"], must=2.5, aim=1.8, raw=raw)]


async def clock_rows(commands: CommandRunner, steps: int) -> list[BenchRow]:
    """Return how many steps of a run on a clock of 100 Hz begin late."""
    clock = ("--realtime", str(PERIOD_S), "--steps", str(steps), "--devices", "emulated")
    result = (await commands.run(*RUN, *clock)).result()
    late = result["overruns"]
    raw = {f"{name} ms": result["step_ms"][name] for name in ("median", "p99", "max")}
    what = f"100 Hz, nine emulated devices, {steps:,} steps: begun late"
    return [BenchRow(what, late, "", late, late, steps / 1_000, 0.0, raw)]


async def process_rows(
    commands: CommandRunner, url: str, agents: int, steps: int, rounds: int
) -> list[BenchRow]:
    """Return what agents take with a process for each, beside all of them in one.

    CPU time is that of a run of many steps less one of few, so that what is needed once cancels out.

    Args:
        commands: Runs them.
        url: Of a broker.
        agents: How many.
        steps: Of the longer run; at least ``FEW_STEPS`` + 1. Starting takes a second of CPU time a process,
            and varies by a tenth of that: the steps must take longer in all.
        rounds: How often.

    Returns:
        A row; none where a longer run did not take more than a short one, so that nothing is known.
    """
    scenario = make_project(commands.folder / "fleet", "mv_oberrhein", agents, 0)[0]
    names = [f"MG{i}" for i in range(1, agents + 1)]
    apart, warm_up = (str(_with_remote(scenario, remote)) for remote in (names, names[:1]))
    options = ("--devices", "simulated", "--broker", url, "--steps")

    def proxies(scenario: str, names: list[str]) -> list[tuple[str, ...]]:
        return [(*PROXY, scenario, "--agent", name, *options[:-1]) for name in names]

    # The grid is compiled once, and the modules of either program, which 30 at once would each do for itself.
    await commands.run_with(proxies(warm_up, names[:1]), (*RUN, warm_up, *options, "1"))
    work = agents * (steps - FEW_STEPS) / 1e6
    one_us: list[float] = []
    each_us: list[float] = []
    one_s: list[float] = []
    each_s: list[float] = []
    for _ in range(rounds):
        one = [await commands.run(*RUN, str(scenario), *options, str(n)) for n in (FEW_STEPS, steps)]
        each = [
            await commands.run_with(proxies(apart, names), (*RUN, apart, *options, str(n)))
            for n in (FEW_STEPS, steps)
        ]
        for ran, us, s in ((one, one_us, one_s), (each, each_us, each_s)):
            us.append((ran[1].cpu_s - ran[0].cpu_s) / work)
            s.append(ran[0].wall_s)
    if min(*each_us, *one_us) <= 0.0:
        return []
    raw = {
        "us": statistics.median(each_us),
        "in one process us": statistics.median(one_us),
        f"s for {FEW_STEPS} steps, from start to end": statistics.median(each_s),
        "in one process s": statistics.median(one_s),
    }
    what = f"{agents} agents, a process each: CPU an agent and step / in one process"
    return [ratio(what, "x", each_us, one_us, must=3.5, aim=2.5, raw=raw)]


def _with_remote(scenario: Path, remote: list[str]) -> Path:
    text = scenario.read_text(encoding="utf-8")
    for name in remote:
        text = text.replace(f"[microgrids.{name}]\n", f"[microgrids.{name}]\nremote = true\n", 1)
    written = scenario.with_name(f"remote_{len(remote)}.toml")
    written.write_text(text, encoding="utf-8")
    return written
