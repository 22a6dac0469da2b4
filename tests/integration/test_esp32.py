"""docs/examples/esp32_battery/main.py keeps the wire contract, under CPython and under MicroPython."""

from __future__ import annotations

import shutil
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

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "docs/examples/esp32_battery/main.py"
MODULES = ROOT / "tests/support/micropython_modules"
INTERPRETERS = ("python", "micropython")


def make(interpreter: str, url: str, folder: Path, env_id: str, **options: object) -> DeviceProgram:
    """Prepare it as on the board: main.py beside config.py."""
    program = sys.executable if interpreter == "python" else shutil.which("micropython")
    if program is None:
        pytest.skip("micropython is not installed (Debian: apt install micropython)")
    host, port = url.removeprefix("mqtt://").split(":")
    shutil.copy(MAIN, folder / "main.py")
    config = {"HOST": host, "PORT": int(port), "ENV": env_id, "AGENT": "MG1", "DEVICE": "ess", **options}
    (folder / "config.py").write_text("".join(f"{name} = {value!r}\n" for name, value in config.items()))
    path = {"PYTHONPATH": str(MODULES), "MICROPYPATH": f".:{MODULES}:.frozen"}
    return DeviceProgram(url, [program, "main.py"], env_id=env_id, cwd=folder, environment=path)


@pytest.fixture(scope="module", params=INTERPRETERS)
def device(
    request: pytest.FixtureRequest, mosquitto: Mosquitto, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeviceHarness]:
    """One device for all checks: each begins from a free device."""
    env_id = f"esp32-{uuid.uuid4().hex[:8]}"
    with make(request.param, mosquitto.url, tmp_path_factory.mktemp("esp32"), env_id) as made:
        yield made.harness


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check: Check, device: DeviceHarness) -> None:
    check(device)


@pytest.mark.parametrize("interpreter", INTERPRETERS)
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
    check: Callable[[wire.Start], None], interpreter: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    check(lambda env_id: make(interpreter, mosquitto.url, tmp_path, env_id))


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_it_can_require_proof(interpreter: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    wire.check_required_proof(
        lambda env_id: make(interpreter, mosquitto.url, tmp_path, env_id, REQUIRE_PROOF=True)
    )


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_without_its_broker_it_goes_safe_and_is_back_when_the_broker_is(
    interpreter: str, own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    wire.check_broker_restart(
        lambda env_id: make(interpreter, server.url, tmp_path, env_id), server.kill, server.start
    )
