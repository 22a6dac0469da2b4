"""The folder that tells a later start whose leases were ours: when it must be there, and when it may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from heron_mqtt.field.gateway.succession import Succession
from support.heron_command import Ended, heron, write_toml
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_toml(tmp_path / "small.toml", scenario({"steps": 1}))


def ran(file: Path, broker: str, *more: str, variable: Path | None = None) -> Ended:
    """Run one step, with a folder as a service manager names it."""
    environment = {} if variable is None else {"STATE_DIRECTORY": str(variable)}
    devices = ["--devices", "simulated", "--no-record", "--json"]
    with heron("run", str(file), "--broker", broker, *devices, *more, environment=environment) as program:
        return program.wait()


def test_a_folder_that_nobody_asked_for_and_that_cannot_be_made_is_told_of_and_the_run_goes_on(
    file: Path, file_mosquitto: Mosquitto
) -> None:
    done = ran(file, file_mosquitto.url, variable=file / "state")
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "STATE_DIRECTORY" in line]
    assert f"STATE_DIRECTORY={file / 'state'}: gateway-MG1" in line
    assert "Not a directory" in line
    assert "the next start of MG1, MG2, MG3 waits for the end of its leases" in line
    assert "--state" not in done.err


def test_a_folder_that_was_asked_for_and_that_cannot_be_made_ends_it(
    file: Path, file_mosquitto: Mosquitto
) -> None:
    done = ran(file, file_mosquitto.url, "--state", str(file / "state"))
    assert done.code == 2
    (line,) = done.errors
    assert f"--state {file / 'state'}: gateway-MG1" in line


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The folder of a service whose gateway of MG1 lives."""
    with closing(Succession(tmp_path / "state", "small", "MG1", "here")) as service:
        service.begin("a")
        yield tmp_path / "state"


def test_a_run_with_a_broker_of_its_own_leaves_the_folder_of_a_service_alone(
    file: Path, served: Path
) -> None:
    done = ran(file, "embedded", variable=served)
    assert done.code == 0, done.err
    assert [path.name.split("-")[1] for path in served.iterdir()] == ["MG1"]


@pytest.mark.parametrize("how", ["asked for", "of the service"])
def test_a_second_gateway_of_the_folder_is_refused(
    file: Path, served: Path, file_mosquitto: Mosquitto, how: str
) -> None:
    if how == "asked for":
        done = ran(file, "embedded", "--state", str(served))
    else:
        done = ran(file, file_mosquitto.url, variable=served)
    assert done.code == 1
    assert "agent MG1 in environment 'small' is served by" in done.errors[0]
