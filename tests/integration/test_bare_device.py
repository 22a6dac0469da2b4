"""docs/examples/bare_device.py, a device without our library, keeps the wire contract on a real broker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import wire_device as wire
from support.heron_command import until
from support.mosquitto_server import Mosquitto
from support.wire_device import WireDevice

SCRIPT = Path(__file__).resolve().parents[2] / "docs/examples/bare_device.py"


def start(url: str, env_id: str | None = None) -> WireDevice:
    host, port = url.removeprefix("mqtt://").split(":")
    return WireDevice(url, [sys.executable, str(SCRIPT), host, port, "{env}", "MG1", "ess"], env_id=env_id)


@pytest.fixture
def device(mosquitto: Mosquitto) -> Iterator[WireDevice]:
    with start(mosquitto.url) as made:
        yield made


def test_it_imports_nothing_of_ours() -> None:
    assert "heron_mqtt" not in SCRIPT.read_text(encoding="utf-8").replace("heron-mqtt", "")


@pytest.mark.parametrize("check", wire.CHECKS)
def test_it_keeps_the_contract(check: Callable[[WireDevice], None], device: WireDevice) -> None:
    check(device)


def test_it_hears_an_emergency_stop_that_was_pressed_before(mosquitto: Mosquitto) -> None:
    wire.check_estop_before_it_connects(mosquitto.url, lambda env_id: start(mosquitto.url, env_id))


def test_without_its_broker_it_goes_safe_and_is_back_when_the_broker_is(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    with start(server.url) as device:
        device.online()
        device.send(p_mw=0.02, seq=1, lease_s=0.5)
        device.answer(1)
        server.kill()
        time.sleep(0.6)  # longer than the lease; nothing can be seen meanwhile
        server.start()
        until(lambda: len(_births(device)) > 1, "its second birth")
        assert device.new_telemetry()["p_mw"] == 0.0


def _births(device: WireDevice) -> list[object]:
    return [s for s in device.watcher.seen if s.topic == f"{device.at}status" and '"online"' in s.payload]
