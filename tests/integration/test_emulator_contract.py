"""``heron-mqtt device battery``, and so ``FieldDevice``, keeps the wire contract as any device must."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from heron_mqtt.testing.device_checks import CHECKS, Check
from heron_mqtt.testing.device_harness import DeviceHarness
from support import wire_device as wire
from support.heron_command import HERON
from support.mosquitto_server import Mosquitto
from support.wire_device import DeviceProgram


def make(url: str, env_id: str, *options: str) -> DeviceProgram:
    named = ["--agent", "MG1", "--name", "ess", "--broker", url, "--env-id", "{env}"]
    return DeviceProgram(url, [HERON, "device", "battery", *named, *options], env_id=env_id)


@pytest.fixture(scope="module")
def device(mosquitto: Mosquitto) -> Iterator[DeviceHarness]:
    """One device for all checks: each begins from a free device."""
    with make(mosquitto.url, f"emulator-{uuid.uuid4().hex[:8]}") as made:
        yield made.harness


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check: Check, device: DeviceHarness) -> None:
    check(device)


@pytest.mark.parametrize(
    "check", [wire.check_replays_of_an_earlier_run, wire.check_stop_and_setpoint_kept_by_the_broker]
)
def test_it_keeps_the_contract_from_start_to_end(
    check: Callable[[wire.Start], None], mosquitto: Mosquitto
) -> None:
    check(lambda env_id: make(mosquitto.url, env_id))


def test_it_can_require_proof(mosquitto: Mosquitto) -> None:
    wire.check_required_proof(lambda env_id: make(mosquitto.url, env_id, "--require-proof"))
