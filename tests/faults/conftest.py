"""Brokers for the tests of the safety case."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from heron_mqtt.testing.faults.tcp_link import TcpLink
from heron_mqtt.testing.faults.trial_broker import TrialBroker, why_no_broker
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
def link(url: str) -> Iterator[TcpLink]:
    """A TCP link to the broker of the test, to be cut, silenced and mended."""
    made = TcpLink(urlsplit(url).port or 1883, random.Random(1)).start()
    yield made
    made.close()


@pytest.fixture
def trial_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrialBroker]:
    """A broker to be killed and started again on the same port: it keeps nothing. As ``url``, of a kind."""
    if why := why_no_broker(request.param):
        pytest.skip(why)
    (tmp_path / "broker").mkdir()
    made = TrialBroker(request.param, tmp_path / "broker")
    made.start()
    yield made
    made.kill()


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
