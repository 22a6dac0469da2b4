"""What the live page costs a run: the same run with it and without it, in turns.

    python benchmarks/dashboard.py
    python benchmarks/dashboard.py --rounds 9 --steps 960

The page is a process of its own that reads the broker, and somebody looks at it all the time. The CPU time a
step of the run and its broker is compared, which other work on the machine changes less, and the median step.
The run goes as fast as it can: on a clock it has time to spare. Two runs without the page tell how much of a
difference is noise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Origin

SAMPLED_S = 0.05
MS_PER_S = 1e3


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: CPU a step of run and broker, median step, CPU a step of the page, ms; snapshots seen."""

    cpu_ms: float
    step_ms: float
    page_ms: float
    seen: int


async def look(page: str) -> int:
    """Look at a page until it ends; return how many snapshots came."""
    seen = 0
    with contextlib.suppress(OSError, WebSocketException):
        host = page.removeprefix("http://").rstrip("/")
        url = f"ws://{host}/live?view=devices"
        async with connect(url, origin=Origin(f"http://{host}"), max_size=None, compression=None) as socket:
            async for _ in socket:
                seen += 1
    return seen


async def used_s(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the CPU time from now to the end of a run: of it and its broker, and of its page, s."""
    parent = psutil.Process(process.pid)
    first: dict[int, float] = {}
    newest: dict[int, tuple[bool, float]] = {}
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    times, is_page = one.cpu_times(), "--ends-with-input" in one.cmdline()
                    used = times.user + times.system
                    first.setdefault(one.pid, used)
                    newest[one.pid] = is_page, max(used, newest.get(one.pid, (False, 0.0))[1])
        await asyncio.sleep(SAMPLED_S)
    spent = [(is_page, used - first[pid]) for pid, (is_page, used) in newest.items()]
    return sum(s for is_page, s in spent if not is_page), sum(s for is_page, s in spent if is_page)


async def run(steps: int, *, page: bool) -> Measured:
    """Run once, over an embedded broker, devices simulated in process."""
    command = [sys.executable, "-m", "heron_mqtt", "run", "--devices", "simulated", "--no-record", "--json"]
    command += ["--steps", str(steps), *(["--dashboard", "0"] if page else [])]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        assert process.stderr is not None
        until = "dashboard: " if page else "broker: "
        while until not in (line := (await asyncio.to_thread(process.stderr.readline)).decode()):
            if not line:
                raise SystemExit("a run ended before it had begun")
        found = re.search(r"http://\S+", line)
        looking = None if found is None else asyncio.create_task(look(found[0]))
        drained = asyncio.create_task(asyncio.to_thread(process.stderr.read))
        ours_s, page_s = await used_s(process)
        await drained
        if process.returncode:
            raise SystemExit(f"a run ended with exit code {process.returncode}")
        out.seek(0)
        told = json.loads(out.read())
    seen = 0 if looking is None else await looking
    return Measured(ours_s * MS_PER_S / steps, told["step_ms"]["median"], page_s * MS_PER_S / steps, seen)


async def compare(rounds: int, steps: int) -> None:
    """Run in turns, and print medians and ratios."""
    found: dict[str, list[Measured]] = {"without": [], "with": [], "without, again": []}
    for _ in range(rounds):
        for name, measured in found.items():
            measured.append(await run(steps, page=name == "with"))
    base = found["without"]
    print("| run | CPU ms a step | median step ms | CPU of the page, ms a step | snapshots |")
    print("|---|---|---|---|---|")
    for name, measured in found.items():
        cells = [statistics.median(getattr(one, what) for one in measured) for what in Measured.__slots__]
        print(f"| {name} | {cells[0]:.2f} | {cells[1]:.2f} | {cells[2]:.2f} | {cells[3]:.0f} |")
    print()
    for name in ("with", "without, again"):
        for what in ("cpu_ms", "step_ms"):
            ratios = [getattr(a, what) / getattr(b, what) for a, b in zip(found[name], base, strict=True)]
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"{name} / without, {what}: {middle:.3f} ({low:.3f} .. {high:.3f})")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=960)
    options = parser.parse_args()
    asyncio.run(compare(options.rounds, options.steps))


if __name__ == "__main__":
    main()
