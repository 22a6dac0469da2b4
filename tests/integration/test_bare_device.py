"""docs/examples/bare_device.py, a device without our library, keeps the wire contract on a real broker."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heron_mqtt.testing.device_checks import CHECKS, Check
from heron_mqtt.testing.device_harness import DeviceHarness
from support import wire_device as wire
from support.mosquitto_server import Mosquitto
from support.wire_device import DeviceProgram

SCRIPT = Path(__file__).resolve().parents[2] / "docs/examples/bare_device.py"


def make(url: str, env_id: str, *options: str) -> DeviceProgram:
    host, port = url.removeprefix("mqtt://").split(":")
    command = [sys.executable, str(SCRIPT), host, port, "{env}", "MG1", "ess", *options]
    return DeviceProgram(url, command, env_id=env_id)


@pytest.fixture(scope="module")
def device(mosquitto: Mosquitto) -> Iterator[DeviceHarness]:
    """One device for all checks: each begins from a free device."""
    with make(mosquitto.url, f"bare-{uuid.uuid4().hex[:8]}") as made:
        yield made.harness


def test_it_imports_nothing_of_ours() -> None:
    assert "heron_mqtt" not in SCRIPT.read_text(encoding="utf-8").replace("heron-mqtt", "")


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
    check: Callable[[wire.Start], None], mosquitto: Mosquitto
) -> None:
    check(lambda env_id: make(mosquitto.url, env_id))


def test_it_can_require_proof(mosquitto: Mosquitto) -> None:
    wire.check_required_proof(lambda env_id: make(mosquitto.url, env_id, "--require-proof"))


def test_without_its_broker_it_goes_safe_and_is_back_when_the_broker_is(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    wire.check_broker_restart(lambda env_id: make(server.url, env_id), server.kill, server.start)
