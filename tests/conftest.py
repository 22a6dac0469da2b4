"""Fixtures for every test: a real mosquitto, and the embedded broker."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.embedded import EmbeddedBroker
from support import (
    built_models,  # noqa: F401 # the process that workers are forked of looks for it
    forked_modules,
    forked_worker,
    quick_grids,
    quick_hashes,
    quick_lookups,
    quick_networks,
    worker_events,
)
from support.kafka_server import KafkaServer
from support.mosquitto_server import Mosquitto, executable
from support.nats_server import NatsServer

if TYPE_CHECKING:
    from execnet import XSpec
    from xdist.workermanage import WorkerController

    from powergrid.envs import MultiAgentMicrogrids

# Started in the background of a script, SIGINT is ignored, and every child inherits that: tests that
# press Ctrl-C would wait for ever. Started with nohup, the same holds of SIGHUP, a terminal that is gone.
_in_main_thread = threading.current_thread() is threading.main_thread()
if _in_main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if _in_main_thread and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Runs of the tests leave no records behind; a test of records says where they go.
os.environ["HERON_MQTT_RECORD"] = "off"
# Credentials in the environment of whoever runs the tests are not for the tests' brokers.
for _credential in ("HERON_MQTT_USERNAME", "HERON_MQTT_PASSWORD"):
    os.environ.pop(_credential, None)
# The threads of OpenBLAS wait actively for 25 ms each, in every process that has imported numpy or scipy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What all the processes of a test run share, and no run after them: the grids that they compile, and the
# process that they fork programs of.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _shared = tempfile.TemporaryDirectory(prefix="heron-tests-")
    os.environ["HERON_TEST_FOLDER"] = _shared.name
    os.environ["HERON_MQTT_GRID_CACHE"] = f"{_shared.name}/grids"
    # Fixtures of a module or session are made before ``state_home``: what a device that rejects its release
    # has left would be there in the next run of the tests, of whoever runs them.
    os.environ["XDG_STATE_HOME"] = f"{_shared.name}/state"

# A busy machine is slow, not wrong: examples have no deadline. .ci/slow asks for the thorough profile.
settings.register_profile("quick", deadline=None, max_examples=10)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[XSpec]) -> None:
    """Let the workers keep what they compile, also where ``PYTHONDONTWRITEBYTECODE`` is set, and fork them.

    Rewriting the assertions of all tests takes 13 s of the processor, in each of them; importing them, 5 s.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not os.environ.get("HERON_FRESH_PROCESSES"):
        forked_worker.fork_workers(config, specs)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Add what the workers were forked with to the coverage, now that they have all begun."""
    forked_worker.add_coverage_of_imports(node.config)


def pytest_configure(config: pytest.Config) -> None:
    """Give a forked worker the tests that are collected already; have workers tell what is used, no more.

    Programs that are modules of ours are forked: see ``support.forked_modules``. Passwords are hashed with
    little work: see ``support.quick_hashes``.
    """
    if not os.environ.get("HERON_FRESH_PROCESSES"):
        forked_modules.fork_modules()
        quick_hashes.hash_quickly()
    if hasattr(config, "workerinput"):
        worker_events.tell_less(config)
    if (plugin := forked_worker.collected(config)) is not None:
        config.pluginmanager.register(plugin)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is taken in out of the garbage collector: it lives as long as the process.

    It is half a million objects, in each of the workers, and looking through them again and again took a
    twelfth of the processor's time. What tests make is looked through less often than by default, which took
    a twentieth.

    From then on pandapower copies its empty tables, grids that were compiled are found wherever they are
    needed, and some answers are not looked up again: see ``support.quick_networks``, ``quick_grids`` and
    ``quick_lookups``.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        quick_networks.copy_empty_tables()
        if not os.environ.get("HERON_FRESH_PROCESSES"):
            quick_grids.find_grids()
        quick_lookups.look_up_once()
        quick_lookups.freeze()
        gc.set_threshold(5_000, 20, 20)
        gc.enable()


@pytest.fixture
def unfrozen() -> Iterator[None]:
    """What the tests themselves keep out of the garbage collector is let in meanwhile."""
    gc.unfreeze()
    yield
    quick_lookups.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest leaves out what is slow, and after it
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Mark what is slow (see ``slow_but``), and put files in turn where workers share them."""
    _mark_slow(config, items)
    yield
    if hasattr(config, "workerinput"):
        forked_worker.begin_in_turn(items)


def _mark_slow(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases of a parametrized test for which a quicker one stands in: see ``slow_but``."""
    quick: dict[str, int] = {}
    for item in items:
        stands_in = item.get_closest_marker("slow_but")
        if stands_in is None or not isinstance(item, pytest.Function):
            continue
        name, _, case = item.nodeid.partition("[")
        is_quick = any(f"-{word}-" in f"-{case.removesuffix(']')}-" for word in stands_in.args)
        quick[name] = quick.get(name, 0) + is_quick
        if not is_quick:
            item.add_marker(pytest.mark.slow)
    without = [name for name, count in quick.items() if count == 0]
    if without and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"slow_but leaves no case: {', '.join(without)}")


@pytest.fixture(scope="session")
def state_homes() -> Iterator[str]:
    """Folder of ``state_home``, gone after the tests."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@pytest.fixture(autouse=True)
def state_home(state_homes: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs keep for their next start goes to a folder of each test: another test starts without."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    monkeypatch.setenv("XDG_STATE_HOME", f"{state_homes}/{name}")


@pytest.fixture
def fresh_programs() -> Iterator[None]:
    """Programs that are modules of ours are started by Python: how they start is what is tested."""
    with forked_modules.starting_afresh():
        yield


@pytest.fixture
def costly_hashes() -> Iterator[None]:
    """Passwords are hashed as in use: what that costs others is what is tested."""
    with quick_hashes.costly_hashes():
        yield


@pytest.fixture
def built_anew() -> Iterator[None]:
    """Grids are built by pandapower wherever a test does not say where to look for them."""
    with quick_grids.building_anew():
        yield


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build each scenario once a process: most tests of environments differ in other things than the grid."""
    from support.small_grid import build_once

    monkeypatch.setattr("powergrid.envs.microgrid_environment.build", build_once)
    monkeypatch.setattr("powergrid.envs.batched.build", build_once)


@pytest.fixture
def env_id() -> str:
    """An environment of the test's own, so that tests can share one broker."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto that all tests share; do not disturb it."""
    yield from _running_mosquitto(tmp_path_factory)


@pytest.fixture(scope="module")
def file_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto that the tests of one file share: nothing that others have left is on it."""
    yield from _running_mosquitto(tmp_path_factory)


def _running_mosquitto(folders: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    _need_mosquitto()
    server = Mosquitto(folders.mktemp("mosquitto")).start()
    yield server
    server.stop()


@pytest.fixture
def own_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Make a mosquitto of the test's own, to kill, to restart, or with further configuration lines."""
    _need_mosquitto()
    made: list[Mosquitto] = []

    def make(*lines: str) -> Mosquitto:
        folder = tmp_path / f"mosquitto{len(made)}"
        folder.mkdir()
        made.append(Mosquitto(folder, *lines))
        return made[-1].start()

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """The address of an embedded broker (a child process) that all tests share; do not disturb it."""
    server = EmbeddedBroker()
    run_sync(server.start())
    yield server.url
    run_sync(server.close())


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS server that all tests share; do not disturb it."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A server of Kafka's protocol that all tests share; do not disturb it."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka")).start()
    yield server
    server.stop()


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Make a NATS server of the test's own, to kill, to restart, or with a configuration."""
    made: list[NatsServer] = []

    def make(config: str = "", scheme: str = "nats") -> NatsServer:
        folder = tmp_path / f"nats{len(made)}"
        folder.mkdir()
        made.append(NatsServer(folder, config, scheme))
        return made[-1].start()

    yield make
    for server in made:
        server.stop()


def _need_mosquitto() -> None:
    if executable() is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")


# What a machine may lack without CI failing: nothing on its package registry provides it, it takes root, or
# it is the libraries for training, 6 GB: run their recipes by hand after a change of the environments.
MAY_BE_MISSING = (
    "micropython",
    "network namespaces cannot be made here",
    "no image localhost/heron-mqtt",
    "real-time priorities cannot be had here",
    "pip install 'heron-mqtt[rl]'",
    "pip install 'heron-mqtt[rllib]'",
    "pip install 'heron-mqtt[torchrl]'",
)
UNEXPECTED_SKIPS = 9
"""The exit code of a run in which something else was skipped: not that of a test that failed."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With ``HERON_NO_SKIPS`` a skip ends the run with a code of its own: CI installs what tests need."""
    if not os.environ.get("HERON_NO_SKIPS"):
        return
    for test, why in _unexpected_skips(terminalreporter):
        terminalreporter.write_line(f"UNEXPECTED SKIP {test}: {why}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn unexpected skips into an exit code of their own, which is not taken for a test that failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("HERON_NO_SKIPS") and reporter is not None and _unexpected_skips(reporter):
        session.exitstatus = UNEXPECTED_SKIPS


def _unexpected_skips(reporter: pytest.TerminalReporter) -> list[tuple[str, str]]:
    skipped = [(str(r.nodeid), str(r.longrepr[2])) for r in reporter.stats.get("skipped", [])]
    return [(test, why) for test, why in skipped if not any(name in why for name in MAY_BE_MISSING)]


@pytest.fixture(scope="module", params=["centralized", "distributed"])
def env(request: pytest.FixtureRequest) -> Iterator[MultiAgentMicrogrids]:
    """One environment of the small grid a mode, shared by the tests of a file; each test resets it."""
    from support.env_modes import MODES, make

    made = make(**MODES[request.param], render_mode="ansi")
    yield made
    made.close()


@pytest.fixture(scope="module")
def central() -> MultiAgentMicrogrids:
    """The centralized one, shared by the tests of a file."""
    from support.env_modes import make

    return make()
