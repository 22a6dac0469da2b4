"""docs/examples/c_battery, a device in C written from docs/wire-contract.md alone, keeps the contract."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heron_mqtt.testing.device_checks import CHECKS, Check
from heron_mqtt.testing.device_harness import DeviceHarness
from support import wire_device as wire
from support.mosquitto_server import Mosquitto
from support.wire_device import DeviceProgram

SOURCES = Path(__file__).resolve().parents[2] / "docs/examples/c_battery"
STRICT = "-O1 -g -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build it with its Makefile, with every warning an error and memory errors fatal."""
    missing = [tool for tool in ("cc", "make") if shutil.which(tool) is None]
    if missing:
        pytest.skip(
            f"no C compiler: {' and '.join(missing)} missing (Debian: apt install gcc libc6-dev make)"
        )
    folder = tmp_path_factory.mktemp("c_battery") / "c_battery"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("battery"))
    done = subprocess.run(
        ["make", "-C", str(folder), f"CFLAGS={STRICT}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(folder / "battery")


def make(program: str, url: str, env_id: str, *options: str) -> DeviceProgram:
    host, port = url.removeprefix("mqtt://").split(":")
    return DeviceProgram(url, [program, host, port, "{env}", "MG1", "ess", *options], env_id=env_id)


@pytest.fixture(scope="module")
def device(program: str, mosquitto: Mosquitto) -> Iterator[DeviceHarness]:
    """One device for all checks: each begins from a free device."""
    with make(program, mosquitto.url, f"c-{uuid.uuid4().hex[:8]}") as made:
        yield made.harness


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check: Check, device: DeviceHarness) -> None:
    check(device)


@pytest.mark.parametrize(
    "check",
    [
        wire.check_will_and_new_boot,
        wire.check_replays_of_an_earlier_run,
        wire.check_stop_and_setpoint_kept_by_the_broker,
        wire.check_energy,
    ],
)
def test_it_keeps_the_contract_from_start_to_end(
    check: Callable[[wire.Start], None], program: str, mosquitto: Mosquitto
) -> None:
    check(lambda env_id: make(program, mosquitto.url, env_id))


def test_it_can_require_proof(program: str, mosquitto: Mosquitto) -> None:
    wire.check_required_proof(lambda env_id: make(program, mosquitto.url, env_id, "--require-proof"))


def test_without_its_broker_it_goes_safe_and_is_back_when_the_broker_is(
    program: str, own_mosquitto: Callable[..., Mosquitto]
) -> None:
    server = own_mosquitto()
    wire.check_broker_restart(lambda env_id: make(program, server.url, env_id), server.kill, server.start)
