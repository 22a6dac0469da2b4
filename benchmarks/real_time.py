"""Steps at 100 Hz that begin late, of a run with nine emulated devices and of two bare processes, in turns.

    python benchmarks/real_time.py [--rounds 3] [--steps 2000] [--hz 100] [--priority 40] [--json]

The floor is what the machine gives: two processes on the clock of a run. In each step they send a message to
and fro ten times over a Unix socket, and each computes 0.3 ms before it sends: 6 ms a step, one after the
other, as the processes of a run do. How much 0.3 ms is, is found once at the beginning. So where the machine
becomes slower or does something else, the floor does so, too, and begins steps late. Compare the two in one
run of this script on a machine without other work: late steps of a run beyond those of the floor are ours.
With ``--priority`` both are measured again, in turns with the others, with that real-time priority.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

from heron_mqtt.app.step_clock import StepClock
from heron_mqtt.program_arguments import ProgramArguments
from heron_mqtt.scheduling import add_priority_option, priority_problem, real_time_priority

ROUND_TRIPS = 10
COMPUTE_S = 0.3e-3
MESSAGE = b"x" * 300  # about one of ours
LEARN_S = 0.2
FLOOR, RUN = "two bare processes", "run"


class Steps(NamedTuple):
    """What became of the steps of one round: how many began late, and how long one took, ms."""

    late: int
    median_ms: float
    p99_ms: float


def compute(turns: int) -> int:
    """Keep the interpreter busy."""
    total = 0
    for i in range(turns):
        total += i & 3
    return total


def turns_of(compute_s: float) -> int:
    """Return how many turns of ``compute`` take so long, of CPU time, at the best."""
    turns, best_s, ends_s = 1_000, float("inf"), time.monotonic() + LEARN_S
    while time.monotonic() < ends_s:
        began_s = time.process_time()
        compute(turns)
        best_s = min(best_s, time.process_time() - began_s)
    return max(1, round(turns * compute_s / best_s))


def answer(link: socket.socket, turns: int) -> None:
    """Be the other process: answer until the link is closed."""
    while link.recv(len(MESSAGE), socket.MSG_WAITALL):
        compute(turns)
        link.sendall(MESSAGE)


async def bare_steps(link: socket.socket, turns: int, steps: int, period_s: float) -> Steps:
    """Take the steps of the floor."""
    clock, late, took_ms = StepClock(period_s, asyncio.sleep), 0, []
    for _ in range(steps):
        late += await clock.next_step()
        began_s = time.perf_counter()
        for _ in range(ROUND_TRIPS):
            compute(turns)
            link.sendall(MESSAGE)
            link.recv(len(MESSAGE), socket.MSG_WAITALL)
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    took_ms.sort()
    return Steps(late, statistics.median(took_ms), took_ms[int(0.99 * (steps - 1))])


def floor(turns: int, steps: int, period_s: float) -> Steps:
    """Measure two bare processes."""
    here, there = socket.socketpair()
    if (child := os.fork()) == 0:
        here.close()
        answer(there, turns)
        os._exit(0)
    there.close()
    try:
        return asyncio.run(bare_steps(here, turns, steps, period_s))
    finally:
        here.close()
        os.waitpid(child, 0)


def ours(steps: int, period_s: float, priority: int | None) -> Steps:
    """Measure a run."""
    command = [sys.executable, "-m", "heron_mqtt", "run", "--no-record", "--json", "--devices", "emulated"]
    command += ["--steps", str(steps), "--realtime", str(period_s)]
    command += [] if priority is None else ["--priority", str(priority)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the run ended with {done.returncode}: {done.stderr[-1000:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return Steps(told["overruns"], told["step_ms"]["median"], told["step_ms"]["p99"])


def main() -> None:
    """Measure and print."""
    parser = ProgramArguments(prog="real_time.py", description="Steps in real time that begin late.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000, help="of each round")
    parser.add_argument("--hz", type=float, default=100.0)
    parser.add_argument("--json", action="store_true")
    add_priority_option(parser)
    options = parser.parse_args()
    if options.priority is not None and (problem := priority_problem(options.priority)) is not None:
        parser.error(problem)
    period_s, turns = 1.0 / options.hz, turns_of(COMPUTE_S)
    kinds = {"": None} | (
        {} if options.priority is None else {f", priority {options.priority}": options.priority}
    )
    found: dict[str, list[Steps]] = {f"{what}{kind}": [] for kind in kinds for what in (FLOOR, RUN)}
    for number in range(options.rounds):
        for kind, priority in kinds.items():
            with real_time_priority(priority):
                rows = {f"{FLOOR}{kind}": floor(turns, options.steps, period_s)}
            rows[f"{RUN}{kind}"] = ours(options.steps, period_s, priority)
            for name, steps in rows.items():
                found[name].append(steps)
                if not options.json:
                    print(
                        f"round {number + 1}, {name}: {steps.late} of {options.steps} late, "
                        f"median {steps.median_ms:.2f} ms, p99 {steps.p99_ms:.2f} ms",
                        flush=True,
                    )
    late = {name: sum(steps.late for steps in rounds) for name, rounds in found.items()}
    of = options.rounds * options.steps
    slower = [r.median_ms / f.median_ms for r, f in zip(found[RUN], found[FLOOR], strict=True)]
    if options.json:
        ratio = statistics.median(slower)
        print(json.dumps({"late": late, "steps": of, "step": found, "run / floor, median step": ratio}))
        return
    for name, count in late.items():
        print(f"{name}: {count} of {of} late")
    print(
        f"median step, run / two bare processes: {statistics.median(slower):.2f} "
        f"({min(slower):.2f} to {max(slower):.2f})"
    )


if __name__ == "__main__":
    main()
