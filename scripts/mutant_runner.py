"""Run tests of changed code for ``mutants.py``, each time in a fork that has taken in the tests already.

To begin pytest and take in the tests costs five seconds of the processor; a fork and a few tests cost a
fraction of one. A change inside of functions is put into the functions as they are. One of what is done at
import (a default, a constant, a class) needs a process of its own. In both cases the changed file stands in
the copy, for the programs that tests start.

Reads a line of JSON for each run: ``module``, ``original`` and ``changed`` source, ``tests``, those that are
left out of them (``without``), ``limit_s``. Answers with a line: ``failed``, the first test that failed;
empty if none did, and in brackets what else kept the tests from an answer. A first such line says that all is
taken in: no file may be changed before.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

TEST_LIMIT_S = 20
UNDECIDED = "(not decided)"  # the tests took too long, and none of them failed before
ERROR = "(an error of the runner)"
USAGE = "(no such test)"
OPTIONS = ["-n", "0", "-q", "-x", "--tb", "no", "-p", "no:cacheprovider", "--timeout", str(TEST_LIMIT_S)]


class FirstFailure:
    """Remembers the first test that failed, and ends the process at one that hangs.

    Args:
        without: Tests that are left out, by their whole names (``--deselect`` takes what a name begins with).
        say: Takes the name of a test that hangs: where a loop goes round and round, the time limit of a test
            that is raised in it may be taken for an error of a callback.
    """

    def __init__(self, without: Collection[str], say: Callable[[str], None]) -> None:
        self.test = ""
        self._without = without
        self._say = say
        self._watchdog: threading.Timer | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self._without]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._watchdog = threading.Timer(2 * TEST_LIMIT_S, self._end, [nodeid])
        self._watchdog.daemon = True
        self._watchdog.start()

    def pytest_runtest_logfinish(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid

    def _end(self, test: str) -> None:
        self._say(self.test or test)
        os._exit(0)


def first_failed(tests: list[str], without: Collection[str], say: Callable[[str], None]) -> str:
    """Run tests in this process; return the first that failed, or ``say`` which one hangs."""
    first = FirstFailure(without, say)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = pytest.main([*OPTIONS, *tests], plugins=[first])
    if code in {0, 5}:  # 5 = all are deselected, or left out
        return ""
    if code == pytest.ExitCode.USAGE_ERROR:
        return USAGE
    return first.test or f"(exit code {int(code)})"


def functions_by_file() -> dict[str, list[FunctionType]]:
    """Return the functions that are there, and keep all that is there as it is.

    A fork that looked for them would copy every page of memory, and so would its garbage collector.
    """
    gc.unfreeze()
    gc.collect()
    found: dict[str, list[FunctionType]] = {}
    for each in gc.get_objects():
        if isinstance(each, FunctionType):
            found.setdefault(each.__code__.co_filename, []).append(each)
    gc.freeze()
    return found


def put_in(functions: dict[str, list[FunctionType]], module: str, original: str, changed: str) -> bool:
    """Put the changed code into the functions of a module; return False where more has changed."""
    path = str(Path(module).resolve())
    pairs = _changed_functions(compile(original, path, "exec"), compile(changed, path, "exec"))
    if pairs is None:
        return False
    for before, after in pairs:
        found = [f for f in functions.get(path, ()) if f.__code__ == before]
        if not found or before.co_freevars != after.co_freevars:
            return False
        for function in found:
            function.__code__ = after
    return True


def _changed_functions(before: CodeType, after: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    """Return the outermost functions that differ; None if something else does, too."""
    if _own(before) != _own(after):
        return None
    found: list[tuple[CodeType, CodeType]] = []
    for one, other in zip(_inner(before), _inner(after), strict=True):
        if one == other:
            continue
        if _is_function(one):
            found.append((one, other))
            continue
        inside = _changed_functions(one, other)  # a class
        if inside is None:
            return None
        found += inside
    return found


def _own(code: CodeType) -> tuple[Any, ...]:
    own = [(type(c), c) for c in code.co_consts if not isinstance(c, CodeType)]
    return code.co_code, own, code.co_names, code.co_varnames, len(_inner(code))


def _inner(code: CodeType) -> list[CodeType]:
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def _is_function(code: CodeType) -> bool:
    return bool(code.co_flags & 0x2)  # CO_NEWLOCALS: of a function, not of a class


def answer(functions: dict[str, list[FunctionType]], asked: dict[str, Any]) -> str:
    """Run what was asked for, in a fork or in a process of its own, and return the first failed test."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reading)
        failed = ERROR

        def say(what: str) -> None:
            os.write(writing, json.dumps(what).encode())  # one write: the whole answer

        try:
            if put_in(functions, asked["module"], asked["original"], asked["changed"]):
                failed = first_failed(asked["tests"], set(asked["without"]), say)
            else:
                # What a fork has imported is the unchanged code.
                done = subprocess.run(  # noqa: S603 - this program
                    [sys.executable, __file__, "--once"],
                    input=f"{json.dumps(asked)}\n",
                    stdout=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                lines = done.stdout.splitlines()
                failed = json.loads(lines[-1])["failed"] if lines else ERROR
        finally:
            say(failed)
            os._exit(0)
    os.close(writing)
    # Programs that a test has left may hold the other end open: the first that is read is all.
    in_time = select.select([reading], [], [], asked["limit_s"])[0]
    said = os.read(reading, 65536) if in_time else b""
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return str(json.loads(said)) if said else UNDECIDED


def main(arguments: list[str]) -> None:
    """Take in the tests, then answer until there is nothing more to read."""
    if arguments[0] == "--once":
        asked = json.loads(sys.stdin.readline())
        _say(first_failed(asked["tests"], set(asked["without"]), _say))
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main(["--collect-only", *OPTIONS[:3], "-p", "no:cacheprovider", *arguments])
    functions = functions_by_file()
    _say("")  # only now a file may be changed: what is imported here is the unchanged code
    for line in sys.stdin:
        _say(answer(functions, json.loads(line)))


def _say(failed: str) -> None:
    assert sys.__stdout__ is not None
    sys.__stdout__.write(f"\n{json.dumps({'failed': failed})}\n")
    sys.__stdout__.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
