"""Fixtures for every test: a real mosquitto, and the embedded broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mosquitto_server import Mosquitto, executable

from heron_mqtt.messaging.background import run_sync
from heron_mqtt.messaging.embedded import EmbeddedBroker


@pytest.fixture(autouse=True)
def _no_login_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment of whoever runs the tests are not for the tests' brokers."""
    monkeypatch.delenv("HERON_MQTT_USERNAME", raising=False)
    monkeypatch.delenv("HERON_MQTT_PASSWORD", raising=False)


@pytest.fixture
def env_id() -> str:
    """An environment of the test's own, so that tests can share one broker."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto that all tests share; do not disturb it."""
    _need_mosquitto()
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto")).start()
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


def _need_mosquitto() -> None:
    if executable() is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
