"""Which lines of the product the quick suite runs: by SlipCover, for a few per cent of the processor's time.

On Python 3.11 the tracer of coverage.py takes half as much time again, so it measures in ``.ci/slow`` only.
SlipCover puts a call into the bytecode of each line as a module is imported; on later Pythons it is told by
the interpreter. The processes that workers and programs are forked of import all modules once, so that this
is paid for twice (5 s of the processor each), and every fork has it from there. Each process writes what it
has seen as it ends, as one line of a file; one that is killed has seen nothing, nor has a program that Python
starts. ``.ci/lines.py`` adds the lines up.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

__all__ = ["measure_from_here"]

FILE = "HERON_TEST_LINES"
"""Environment variable: the file that all processes of a test run write to; not set: nothing is measured."""
_ALWAYS = 2**31 - 1
"""How often a line calls before its call is taken out: never, since that looks through all modules."""


def measure_from_here() -> None:
    """Measure what is imported from now on, here and in forks, if that is asked for."""
    file = os.environ.get(FILE)
    if file is None:
        return
    import slipcover

    root = Path(__file__).parents[2]
    matcher = slipcover.FileMatcher(sources=[root / "heron_mqtt", root / "powergrid"])
    seeing = slipcover.Slipcover(d_miss_threshold=_ALWAYS)
    slipcover.ImportManager(seeing, matcher).__enter__()
    os.register_at_fork(after_in_child=lambda: setattr(seeing, "newly_seen", defaultdict(set)))
    _write_at_the_end(seeing, file, str(root))


def _write_at_the_end(seeing: Any, file: str, root: str) -> None:
    """Write what a process has seen when it ends by ``os._exit``, as all that are forked here do."""
    leave = os._exit

    def write_and_leave(status: int) -> None:
        with contextlib.suppress(Exception):  # the file may be gone: so is the test run
            seen = {str(Path(name).relative_to(root)): sorted(at) for name, at in seeing.newly_seen.items()}
            number = os.open(file, os.O_WRONLY | os.O_APPEND)
            os.write(number, json.dumps(seen).encode() + b"\n")  # at once: others write, too
        leave(status)

    os._exit = write_and_leave  # type: ignore[assignment]
