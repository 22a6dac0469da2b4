"""A worker of pytest-xdist that is forked from a process which has taken in the tests already.

To import all tests and what they test takes each worker 5 s of the processor. Here one process does it; the
workers then find the modules, and only make their own test items of them. Run as a program, this file is
what pytest-xdist takes for the worker's Python: it passes its streams on, and ends as the worker ends. As a
server (its standard input is a socket) it is that one process.
"""

from __future__ import annotations

import gc
import os
import socket
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from support.fork_server import ForkedProcess, ForkServer, serve

__all__ = ["ARGUMENTS", "PYTHON"]

ARGUMENTS = "HERON_TEST_ARGUMENTS"
"""Environment variable: what pytest was called with, a line each."""
PYTHON = f"{sys.executable} -S {__file__}"
"""What to give pytest-xdist as the Python of a worker."""


def _pass_on() -> int:
    """Have the worker forked with the streams of this process; return how it has ended."""
    server = ForkServer(__file__, "worker-server")
    answers = server.ask(sys.argv[1:], None, os.environ, (0, 1, 2))
    code = ForkedProcess(answers, (sys.stdin, sys.stdout, sys.stderr)).wait()
    return code if code >= 0 else 128 - code


def _take_in() -> None:
    """Import the tests as pytest does, and what they import."""
    import pytest

    os.environ["PYTEST_XDIST_WORKER"] = "gw"  # what is in the folder of the test run is made already
    asked = os.environ[ARGUMENTS].splitlines()
    code = pytest.main([*asked, "-n", "0", "--collect-only", "-qq", "-p", "no:cacheprovider"])
    if code != pytest.ExitCode.OK:  # the workers meet the mistake themselves, and tell it
        tests = str(Path(__file__).parents[1])
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(tests) and name != "__main__":
                del sys.modules[name]
    _build_networks()
    gc.collect()
    gc.freeze()


def _build_networks() -> None:
    """Build what tests of many files use, where their helpers were imported: the workers copy it."""
    if "support.powerflow_nets" in sys.modules:
        sys.modules["support.powerflow_nets"].build_all()
    if "support.small_grid" in sys.modules:
        load_grid = sys.modules["powergrid.networks"].load_grid
        for name in ("cigre_mv_lv", "three_case33bw_on_cigre_mv"):
            load_grid(name)


def _worker(words: list[str]) -> NoReturn:
    """Be what ``python WORDS`` would be; the last word is the program."""
    sys.argv = ["-c"]
    sys.modules["__main__"] = main = ModuleType("__main__")
    exec(words[-1], vars(main))
    sys.exit()


if __name__ == "__main__":
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        _take_in()
        _words = serve(socket.socket(fileno=os.dup(0)))
        if _words is not None:
            _worker(_words)
    else:
        sys.exit(_pass_on())
