"""A worker of pytest-xdist that is forked from a process which has taken in the tests already.

To import all tests and what they test takes each worker 5 s of the processor, to collect them 2.4 s. Here one
process does both; the workers find the modules, and take the tests over. Run as a program, this file is
what pytest-xdist takes for the worker's Python: it passes its streams on, and ends as the worker ends. As a
server (its standard input is a socket) it is that one process.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import shutil
import socket
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from support.fork_server import ForkedProcess, ForkServer, end, serve
from support.line_coverage import measure_from_here
from support.schedule import begun_in_turn

if TYPE_CHECKING:
    import pytest
    from execnet import XSpec
    from pytest_cov.engine import CovController

__all__ = ["add_coverage_of_imports", "fork_workers"]

ARGUMENTS = "HERON_TEST_ARGUMENTS"
"""Environment variable: what pytest was called with, a line each."""
COVERAGE = "HERON_TEST_COVERAGE"
"""Environment variable: what coverage is measured of and how, as JSON; not set where it is not measured."""
PYTHON = shlex.join([sys.executable, "-S", __file__])
"""What to give pytest-xdist as the Python of a worker."""
OF_PANDAPOWER = (
    *("create_kerber_landnetz_freileitung_1", "create_cigre_network_lv", "create_cigre_network_mv"),
    *("case9", "case14", "case33bw", "case118"),
)
"""Its networks that tests of several files build."""
PROGRAMS = ForkServer()
"""What the tests have ``heron-mqtt`` forked of."""
COLLECTED: list[pytest.Session] = []
"""In a forked worker the session whose tests were collected before: see ``Collected``."""
_OF_FIXTURES = ("_arg2node2fixturedefs", "_node_autousenames")
"""Where pytest (9.1 and later) keeps which fixtures are visible where; with another, each worker collects."""
_BY_THE_CACHE = ("lf", "failedfirst", "newfirst", "stepwise")
"""Options with which it is the cache that selects tests, or orders them; it was empty there."""


def fork_workers(config: pytest.Config, specs: list[XSpec]) -> None:
    """Have the workers of this machine forked; those of ``--tx`` with a Python of their own keep it."""
    os.environ[ARGUMENTS] = "\n".join(config.invocation_params.args)
    if (measuring := _measuring(config)) is not None:
        settings = {"source": measuring.cov_source, "branch": measuring.cov_branch}
        os.environ[COVERAGE] = json.dumps(settings | {"config_file": measuring.cov_config})
    for spec in specs:
        if spec.popen and not spec.python and not spec.via:
            spec.python = PYTHON
    if config.args == config.getini("testpaths"):  # most files start programs: while the tests are taken in
        PROGRAMS.begin()


def add_coverage_of_imports(config: pytest.Config) -> None:
    """Put it beside that of the workers, which pytest-cov adds up: each, when it begins, deletes them all."""
    if (measuring := _measuring(config)) is not None and _of_imports().exists():
        shutil.move(_of_imports(), f"{Path(measuring.cov.config.data_file).absolute()}.imports")


def collected(config: pytest.Config) -> Collected | None:
    """Return the plugin that gives a forked worker the tests that were collected before it was forked."""
    by_the_cache = any(config.getoption(name, False) for name in _BY_THE_CACHE)  # it may be switched off
    if not COLLECTED or not hasattr(config, "workerinput") or by_the_cache:
        return None
    manager = COLLECTED[0]._fixturemanager
    if not all(hasattr(manager, name) for name in _OF_FIXTURES):
        return None
    return Collected(COLLECTED[0])


class Collected:
    """The tests of another session, collected with the same arguments, become those of this one.

    To make ten thousand tests of functions that are imported takes each worker 2.4 s of the processor. A test
    knows its session by its place in the tree and by the fixtures that are visible from there: names that are
    private to pytest. ``HERON_FRESH_PROCESSES=1`` does without.
    """

    def __init__(self, before: pytest.Session) -> None:
        self._before = before

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Take the tests over in place of a collection."""
        session.items = self._before.items
        session.testscollected = len(session.items)
        for node in {node for item in session.items for node in item.listchain()[1:]}:
            node.session, node.config = session, session.config
            if node.parent is self._before:
                node.parent = session
            _register_plugins(node)
        self._take_fixtures(session)
        begin_in_turn(session.items)
        session.config.hook.pytest_collection_finish(session=session)
        return True

    def _take_fixtures(self, session: pytest.Session) -> None:
        manager = self._before._fixturemanager
        manager.session, manager.config = session, session.config
        for by_node in manager._arg2node2fixturedefs.values():
            if self._before in by_node:
                by_node[session] = by_node.pop(self._before)
                for fixture in by_node[session]:
                    fixture.node = session
        manager._node_autousenames[session] = manager._node_autousenames.pop(self._before)
        session._fixturemanager = manager


def _register_plugins(node: pytest.Item | pytest.Collector) -> None:
    """Register what pytest registers when it collects: a conftest, and what a module calls its plugins."""
    import pytest

    config = node.config
    if isinstance(node, pytest.Directory):
        config.pluginmanager._loadconftestmodules(
            node.path,
            config.getoption("importmode"),
            rootpath=config.rootpath,
            consider_namespace_packages=config.getini("consider_namespace_packages"),
        )
    elif isinstance(node, pytest.Module):
        config.pluginmanager.consider_module(node.obj)


def begin_in_turn(items: list[pytest.Item]) -> None:
    """Sort tests so that their files begin in the order of ``support.schedule``."""
    of_file = Counter(item.nodeid.partition("::")[0] for item in items)
    turn = {file: number for number, file in enumerate(begun_in_turn(of_file))}
    items.sort(key=lambda item: turn[item.nodeid.partition("::")[0]])


class _LastCollection:
    """Keeps the session that was collected."""

    session: pytest.Session

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.session = session


def _measuring(config: pytest.Config) -> CovController | None:
    return getattr(config.pluginmanager.get_plugin("_cov"), "cov_controller", None)


def _of_imports() -> Path:
    return Path(os.environ["HERON_TEST_FOLDER"]) / "coverage-of-imports"


def _pass_on() -> int:
    """Have the worker forked with the streams of this process; return how it has ended."""
    server = ForkServer(__file__, "worker-server")
    answers = server.ask(sys.argv[1:], None, os.environ, (0, 1, 2))
    code = ForkedProcess(answers, (sys.stdin, sys.stdout, sys.stderr)).wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _measured() -> Iterator[None]:
    """Measure the coverage of what is imported meanwhile: the lines that no worker runs again."""
    settings = os.environ.get(COVERAGE)
    if settings is None:
        yield
        return
    import coverage

    measuring = coverage.Coverage(data_file=_of_imports(), **json.loads(settings))
    measuring.start()
    try:
        yield
    finally:
        measuring.stop()
        measuring.save()


def _take_in() -> None:
    """Import the tests as pytest does, and what they import.

    All that the arguments name, whatever failed last: the cache is an empty one, which nobody reads after it.
    """
    gc.disable()  # what is made now is kept
    with _measured():
        _import_tests()
        if (forked_modules := sys.modules.get("support.forked_modules")) is not None:
            forked_modules.import_programs()
        _build_networks()
        if (built_models := sys.modules.get("support.built_models")) is not None:
            built_models.build_models()
    _look_up_for_properties()
    gc.collect()
    gc.freeze()
    gc.enable()


def _import_tests() -> None:
    import pytest

    from support.rewritten_ahead import RewritesAhead

    os.environ["PYTEST_XDIST_WORKER"] = "gw"  # what is in the folder of the test run is made already
    asked = os.environ[ARGUMENTS].splitlines()
    with tempfile.TemporaryDirectory() as folder, _kept_back(2) as told:
        ours = ["-n", "0", "--collect-only", "-qq", "-o", f"cache_dir={folder}"]
        if COVERAGE in os.environ:
            ours.append("--no-cov")  # it would begin the data anew
        last = _LastCollection()
        code = pytest.main([*asked, *ours], plugins=[last, RewritesAhead()])
        if code not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.INTERRUPTED}:
            told.append(f"the tests were not taken in before the workers began: {pytest.ExitCode(code)!r}")
    if code == pytest.ExitCode.OK:
        sys.modules["support.forked_worker"].COLLECTED.append(last.session)  # this one is __main__
    else:  # the workers meet the mistake themselves, and tell it
        tests = str(Path(__file__).parents[1])
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(tests) and name != "__main__":
                del sys.modules[name]


@contextlib.contextmanager
def _kept_back(stream: int) -> Iterator[list[str]]:
    """Keep what is written to a stream from the terminal meanwhile, unless a reason is given to show it."""
    reasons: list[str] = []
    terminal = os.dup(stream)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), stream)
        try:
            yield reasons
        except BaseException as exc:
            reasons.append(repr(exc))
            raise
        finally:
            os.dup2(terminal, stream)
            os.close(terminal)
            if reasons:
                file.seek(0)
                os.write(stream, file.read() + "".join(f"{reason}\n" for reason in reasons).encode())


def _build_networks() -> None:
    """Build what tests of many files use, where their helpers were imported: the workers copy it."""
    if "support.powerflow_nets" in sys.modules:
        sys.modules["support.powerflow_nets"].build_all()
    if "support.small_grid" in sys.modules:
        __import__("scipy.signal")  # of random episodes; 0.7 s of the processor
        load_grid = sys.modules["powergrid.networks"].load_grid
        for name in ("cigre_mv_lv", "three_case33bw_on_cigre_mv", *OF_PANDAPOWER):
            load_grid(name)


def _look_up_for_properties() -> None:
    """Have hypothesis look up all characters, and the constants of our sources: 1.6 s, once a process.

    The seed is given so that workers do not go on with the random numbers of this process.
    """
    if "hypothesis" in sys.modules:
        from hypothesis import given, seed, settings, strategies

        seed(0)(settings(max_examples=1, database=None)(given(strategies.text())(lambda _text: None)))()


def _worker(words: list[str]) -> NoReturn:
    """Be what ``python WORDS`` would be; the last word is the program."""
    sys.argv = ["-c"]
    sys.modules["__main__"] = main = ModuleType("__main__")
    exec(words[-1], vars(main))
    end()


if __name__ == "__main__":
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        measure_from_here()
        _take_in()
        _words = serve(socket.socket(fileno=os.dup(0)))
        if _words is not None:
            _worker(_words)
        end()
    else:
        sys.exit(_pass_on())
