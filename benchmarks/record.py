"""What recording costs: the default run with everything recorded beside the same run without, in one run.

    python benchmarks/record.py [--rounds 5] [--steps 96] [--memory] [--json]

Each round runs the day once without and once with the record (steps, agents, devices, every message), over
the embedded broker with emulated devices as processes, as ``heron-mqtt run`` does. ``--memory`` takes the
broker in memory and models in place of devices: a step is then as short as it gets. Trust the ratios (medians
over the rounds of the mean step), not the times; on a busy machine trust the one of CPU time of this process,
the writer's thread included.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from heron_mqtt.app.run_plan import RunOptions, plan_run
from heron_mqtt.app.runner import new_summary, run
from heron_mqtt.program_arguments import ProgramArguments


class Silent:
    """Shows nothing; looks at the CPU time of this process at the end of each step."""

    def __init__(self) -> None:
        self.cpu_s: list[float] = []

    def note(self, text: str) -> None:
        pass

    def opened(self, url: str) -> None:
        pass

    def step(self, summary: Any, price: float, infos: dict[str, dict[str, Any]]) -> None:
        self.cpu_s.append(time.process_time())


class Cost(NamedTuple):
    """The mean step of one run, without the first one, ms; and what was recorded."""

    wall_ms: float
    cpu_ms: float
    record: dict[str, Any] | None


def measure(record: Path | None, steps: int, broker: str) -> Cost:
    """Run once."""
    options = RunOptions(
        steps=steps, broker=broker, record=None if record is None else str(record), record_messages=True
    )
    plan = plan_run("three_microgrids", options)
    summary, silent = new_summary(plan), Silent()
    asyncio.run(run(plan, silent, summary))
    cpu_ms = (silent.cpu_s[-1] - silent.cpu_s[0]) * 1e3 / (len(silent.cpu_s) - 1)
    return Cost(statistics.fmean(summary.step_ms[1:]), cpu_ms, summary.record)


def main() -> None:
    parser = ProgramArguments(description="What recording a run costs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--memory", action="store_true", help="in memory, with models")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    broker = "memory" if options.memory else "embedded"
    plain: list[Cost] = []
    recorded: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        measure(None, 4, broker)  # imports, caches
        for i in range(options.rounds):
            plain.append(measure(None, options.steps, broker))
            recorded.append(measure(Path(folder) / f"{i}.heron", options.steps, broker))
        size = (Path(folder) / "0.heron").stat().st_size
    record = recorded[0].record
    result: dict[str, Any] = {"broker": broker, "rows": record["rows"] if record else {}, "bytes": size}
    for name in ("wall_ms", "cpu_ms"):
        before, after = [getattr(c, name) for c in plain], [getattr(c, name) for c in recorded]
        result[name] = {
            "plain": statistics.median(before),
            "recorded": statistics.median(after),
            "ratios": sorted(b / a for a, b in zip(before, after, strict=True)),
        }
    if options.json:
        print(json.dumps(result))
        return
    for name, label in (("wall_ms", "wall clock"), ("cpu_ms", "CPU time")):
        one = result[name]
        ratios = one["ratios"]
        print(
            f"step, {broker}, {label}: {one['plain']:.2f} ms, recorded {one['recorded']:.2f} ms, ratio "
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} .. {ratios[-1]:.3f}); 1.15 is the limit"
        )
    print(f"{size / 1e6:.2f} MB, rows {result['rows']}")


if __name__ == "__main__":
    main()
