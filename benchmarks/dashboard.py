"""What the live page costs a run: the same run with it and without it, in turns.

    python benchmarks/dashboard.py
    python benchmarks/dashboard.py --rounds 15 --steps 480

Broker, page and run are processes of their own. The page is there before the run begins, and is
looked at all the time, so both kinds of run are measured over the same: from the line that the run is
connected to its end. CPU time is what the kernel has counted, also of a process that has ended. The run goes
as fast as it can: on a clock it has time to spare.

Other work on the machine slows a run by more than the page does. So each run with the page is compared with
the geometric mean of the two runs without it around it, and so is every fourth run without it, which tells
how much of a difference is noise: the result is the median of many rounds, with its standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Origin

from heron_mqtt.cli.live_page import NICENESS
from heron_mqtt.program_arguments import ProgramArguments

MS_PER_S = 1e3
WHAT = {
    "run_ms": "CPU of the run",
    "broker_ms": "CPU of its broker",
    "both_ms": "CPU of both",
    "step_ms": "median step",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: CPU a step of it, its broker and the page, median step, ms; snapshots that were looked at."""

    run_ms: float
    broker_ms: float
    both_ms: float
    step_ms: float
    page_ms: float
    seen: int


@contextmanager
def program(*arguments: str, says: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start ``heron-mqtt``; yield it and the address that it says."""
    command = [sys.executable, "-m", "heron_mqtt", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        found = re.search(rf"{says} (\S+)", line)
        if found is None:
            raise SystemExit(f"heron-mqtt {arguments[0]} ended before it had begun; it said {line!r}")
        yield process, found[1]
    finally:
        process.terminate()
        process.wait()


def used_s(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time that the threads of a process have used, s; not in ticks of 10 ms, as elsewhere."""
    total_ns = 0
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


async def look(page: str, seen: list[int]) -> None:
    """Look at a page."""
    with contextlib.suppress(OSError, WebSocketException):
        host = page.removeprefix("http://").rstrip("/")
        url = f"ws://{host}/live?view=devices"
        async with connect(url, origin=Origin(f"http://{host}"), max_size=None, compression=None) as socket:
            async for _ in socket:
                seen[0] += 1


@asynccontextmanager
async def looked_at(broker: str, seen: list[int]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Serve a page, and look at it."""
    with program("dashboard", "--broker", broker, "--port", "0", says="dashboard:") as (page, address):
        psutil.Process(page.pid).nice(NICENESS)  # as the page of a run does by itself
        looking = asyncio.create_task(look(address, seen))
        while not seen[0]:
            await asyncio.sleep(0.01)
        try:
            yield page
        finally:
            looking.cancel()


async def run(broker: str, steps: int) -> tuple[float, float]:
    """Run once; return the CPU time a step and the median step, ms."""
    command = [sys.executable, "-m", "heron_mqtt", "run", "--devices", "simulated", "--no-record", "--json"]
    command += ["--steps", str(steps), "--broker", broker]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        assert process.stderr is not None
        while "broker: " not in (line := (await asyncio.to_thread(process.stderr.readline)).decode()):
            if not line:
                raise SystemExit("a run ended before it had begun")
        before_s = used_s(process)
        await asyncio.to_thread(process.stderr.read)
        _, status, spent = await asyncio.to_thread(os.wait4, process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a run ended with exit code {process.returncode}")
        out.seek(0)
        told = json.loads(out.read())
    return (spent.ru_utime + spent.ru_stime - before_s) * MS_PER_S / steps, told["step_ms"]["median"]


async def measure(steps: int, *, with_page: bool) -> Measured:
    """Run once, devices simulated in process, over a broker of its own."""
    seen = [0]
    with program("broker", "--port", "0", says="listening") as (broker, url):
        async with contextlib.AsyncExitStack() as stack:
            page = await stack.enter_async_context(looked_at(url, seen)) if with_page else None
            broker_s, page_s = used_s(broker), used_s(page) if page else 0.0
            run_ms, step_ms = await run(url, steps)
            broker_ms = (used_s(broker) - broker_s) * MS_PER_S / steps
            page_ms = (used_s(page) - page_s) * MS_PER_S / steps if page else 0.0
    return Measured(run_ms, broker_ms, run_ms + broker_ms, step_ms, page_ms, seen[0])


async def compare(rounds: int, steps: int) -> None:
    """Run in turns, and print medians and ratios."""
    found: list[Measured] = [await measure(steps, with_page=False)]
    for n in range(4 * rounds):
        found += [await measure(steps, with_page=n % 4 == 0)]
    with_page, without = found[1::4], [one for n, one in enumerate(found) if n % 4 != 1]
    print(
        "| run | " + ", ms a step | ".join(WHAT.values()) + ", ms | CPU of the page, ms a step | snapshots |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, runs in (("without", without), ("with", with_page)):
        cells = [statistics.median(getattr(one, what) for one in runs) for what in Measured.__slots__]
        print(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells[:-1]) + f" | {cells[-1]:.0f} |")
    print()
    for what, called in WHAT.items():
        for name, first in (("with / without", 1), ("without / without", 3)):
            print(f"{called}, {name}: {_ratio([getattr(one, what) for one in found], first)}")


def _ratio(values: list[float], first: int) -> str:
    """Return what every fourth run is of the mean of the runs around it: median, standard error, rounds."""
    places = range(first, len(values) - 1, 4)
    ratios = [values[n] / statistics.geometric_mean((values[n - 1], values[n + 1])) for n in places]
    spread = statistics.stdev(ratios) if len(ratios) > 1 else float("nan")
    error = 1.25 * spread / len(ratios) ** 0.5  # of a median of what is normally distributed
    return f"{statistics.median(ratios):.3f} +- {error:.3f} ({len(ratios)} rounds)"


def main() -> None:
    """Read the command line."""
    parser = ProgramArguments(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=240)
    options = parser.parse_args()
    asyncio.run(compare(options.rounds, options.steps))


if __name__ == "__main__":
    main()
