"""Brokers for the tests of the safety case."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.heron_command import heron
from support.mosquitto_server import Mosquitto


@pytest.fixture
def url(request: pytest.FixtureRequest, own_mosquitto: Callable[..., Mosquitto]) -> Iterator[str]:
    """A broker of the test's own: ``mosquitto`` or ``embedded``, as the test is parametrized."""
    if request.param == "mosquitto":
        yield own_mosquitto().url
        return
    with heron("broker", "--port", "0") as program:
        yield program.wait_for("listening").split()[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, to be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
