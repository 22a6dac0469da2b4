"""A command as a whole process: its duration, its output, and the CPU time of all its child processes."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.errors import BrokerError
from heron_mqtt.own_program import module_environment

HERON = ("-m", "heron_mqtt")


@dataclass(frozen=True, slots=True)
class ProcessRun:
    """One process from its start to its end.

    Attributes:
        wall_s: s.
        cpu_s: CPU time of the command and of all its child processes that have ended, s. Exact only where
            nothing else was started meanwhile.
        out: What it printed on standard output.
    """

    wall_s: float
    cpu_s: float
    out: bytes

    def result(self) -> dict[str, Any]:
        """Return the JSON object of ``--json``."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True, slots=True)
class CommandRunner:
    """Runs this Python, in a folder of the benchmark's.

    Attributes:
        folder: Where programs run, and compiled modules are kept: all runs but the first find them, as an
            installed package's do, whatever ``PYTHONDONTWRITEBYTECODE`` says here.
    """

    folder: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start ``python`` with arguments; standard output and standard error are pipes."""
        environment = {
            **module_environment(),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=self.folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> ProcessRun:
        """Run ``python`` with arguments to its end.

        Raises:
            BrokerError: It ended with another exit code than 0.
        """
        return await self.run_with((), arguments)

    async def run_with(self, beside: Sequence[Sequence[str]], arguments: Sequence[str]) -> ProcessRun:
        """Do the same beside others, which are started first and told to end (SIGTERM) afterwards."""
        before, began = _children_cpu_s(), time.perf_counter()
        others = [await self.start(*other) for other in beside]
        try:
            out = await _finished(await self.start(*arguments), arguments)
            wall_s = time.perf_counter() - began
        finally:
            for other in others:
                if other.returncode is None:
                    other.terminate()
            await asyncio.gather(*(other.communicate() for other in others))
        return ProcessRun(wall_s, _children_cpu_s() - before, out)


async def _finished(process: asyncio.subprocess.Process, arguments: Sequence[str]) -> bytes:
    try:
        out, told = await process.communicate()
    except BaseException:  # we are being ended: so is what we started
        process.terminate()
        await process.wait()
        raise
    if process.returncode != 0:
        command = " ".join(arguments)
        raise BrokerError(f"python {command} ended with {process.returncode}: {told.decode()[-500:]}")
    return out


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
