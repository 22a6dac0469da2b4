"""CPU time of processes, memory, and one core to measure on."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import heron_mqtt


def cpu_s(*pids: int) -> float:
    """Return the CPU time of this process and of others, s; of others only on Linux."""
    total_s = time.process_time()
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            total_s += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return total_s


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def machine() -> dict[str, Any]:
    """Return what the benchmark runs on."""
    return {
        "version": heron_mqtt.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Keep this process, and those that it starts meanwhile, on one core; yields which, None = cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)
