"""How long a command takes as a whole process, beside the shortest program that uses numpy."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.errors import BrokerError

__all__ = ["Ran", "run_process"]

NUMPY_ALONE = ("-c", "import numpy")
ONE_STEP = ("-m", "heron_mqtt", "run", "--steps", "1", "--devices", "simulated", "--no-record", "--json")
MAIN_JOB = ("-m", "heron_mqtt", "run", "--no-record", "--json")


@dataclass(frozen=True, slots=True)
class Ran:
    """One process from its start to its end.

    Attributes:
        wall_s: s.
        cpu_s: CPU time of it and of all the processes that it started, s.
    """

    wall_s: float
    cpu_s: float


async def run_process(arguments: Sequence[str], bytecode: Path) -> Ran:
    """Run this Python with arguments, in an empty directory.

    Args:
        arguments: What follows ``python``.
        bytecode: Folder for compiled modules, so that all runs but the first find them, as an installed
            package's do, whatever ``PYTHONDONTWRITEBYTECODE`` says here.

    Raises:
        BrokerError: It ended with another exit code than 0.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="heron-bench-") as folder:
        before, began = _children_cpu_s(), time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await process.communicate()
        wall_s = time.perf_counter() - began
    if process.returncode != 0:
        raise BrokerError(
            f"python {' '.join(arguments)} ended with {process.returncode}: {told.decode()[-500:]}"
        )
    return Ran(wall_s, _children_cpu_s() - before)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
