"""pytest-xdist with forked workers, in a project of its own: any path, any option, any worker's Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support import forked_worker

CONFTEST = """
from support.forked_worker import add_coverage_of_imports, collected, fork_workers

def pytest_configure(config):
    if (plugin := collected(config)) is not None:
        config.pluginmanager.register(plugin)

def pytest_xdist_setupnodes(config, specs):
    fork_workers(config, specs)

def pytest_testnodedown(node):
    add_coverage_of_imports(node.config)
"""
TESTS = """
import os
from pathlib import Path

import pytest

import measured

pytest_plugins = ["pytester"]

def pytest_generate_tests(metafunc):
    with open("collected", "a") as file:
        file.write(f"{metafunc.function.__name__}\\n")

def test_forked():
    assert "forked_worker.py" in Path(f"/proc/{os.getppid()}/cmdline").read_text()
    assert measured.doubled(2) == 4

@pytest.fixture(scope="session")
def of_a_session(tmp_path_factory):
    return tmp_path_factory.mktemp("it")

@pytest.fixture(params=["one", "two"])
def of_a_test(request, of_a_session, monkeypatch):
    return request.param, of_a_session, request.session is request.node.session

def test_of_fixtures(request, of_a_test):
    word, folder, is_of_the_session = of_a_test
    assert folder == request.getfixturevalue("of_a_session")
    assert request.config.getoption("--runpytest") == "inprocess"  # of the plugin that the module names
    assert not hasattr(request.node, "of_inner")
    assert is_of_the_session and request.config is request.session.config and not list(folder.iterdir())

def test_of_its_own():
    assert "forked_worker.py" not in Path(f"/proc/{os.getppid()}/cmdline").read_text()
"""

INNER_CONFTEST = """
def pytest_runtest_setup(item):
    item.of_inner = True
"""
INNER = """
def test_of_inner_fixtures(request):
    assert request.node.of_inner
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a space in its name; ``HERON_TEST_FOLDER`` is short, as a socket's path has to be."""
    folder = tmp_path / "a 'path' of one's own"
    (folder / "support").mkdir(parents=True)
    for name in (
        "forked_worker.py",
        "fork_server.py",
        "line_coverage.py",
        "rewritten_ahead.py",
        "schedule.py",
    ):
        shutil.copy(Path(forked_worker.__file__).with_name(name), folder / "support")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (folder / "test_it.py").write_text(TESTS)
    (folder / "inner").mkdir()
    (folder / "inner" / "conftest.py").write_text(INNER_CONFTEST)
    (folder / "inner" / "test_inner.py").write_text(INNER)
    (folder / "measured.py").write_text("def doubled(number):\n    return 2 * number\n")
    return folder


def pytest_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-p", "xdist", "-q", *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "HERON_"))}
    with tempfile.TemporaryDirectory() as short:
        environment = kept | {"HERON_TEST_FOLDER": short}
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60.0, check=False
        )


@pytest.mark.slow  # the last one has forked workers, too
def test_workers_are_forked_whatever_the_path_and_the_options(project: Path) -> None:
    done = pytest_in(project, "-n", "1", "-k", "test_forked", "--lf", "--nf", "--sw", "--cache-clear")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.slow
def test_a_worker_keeps_the_python_that_it_was_given(project: Path) -> None:
    spec = f"popen//python={sys.executable}"
    done = pytest_in(project, "--dist", "load", "--tx", spec, "-k", "test_of_its_own")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.slow  # all quick tests run in such workers
def test_tests_are_collected_once_and_coverage_has_what_their_import_runs(project: Path) -> None:
    words = ["-p", "pytest_cov", "--cov=measured", "--cov-report=json", "-n", "1", "-k", "forked or fixtures"]
    done = pytest_in(project, *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "4 passed" in done.stdout
    assert (project / "collected").read_text().split() == [
        "test_forked",
        "test_of_fixtures",
        "test_of_its_own",
    ]
    (covered,) = json.loads((project / "coverage.json").read_text())["files"].values()
    assert (covered["executed_lines"], covered["missing_lines"]) == ([1, 2], [])
