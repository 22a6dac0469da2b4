"""docs/examples/esp32_battery/main.py keeps the wire contract, under CPython and under MicroPython."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import wire_device as wire
from support.mosquitto_server import Mosquitto
from support.wire_device import WireDevice

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "docs/examples/esp32_battery/main.py"
MODULES = ROOT / "tests/support/micropython_modules"
INTERPRETERS = ("python", "micropython")


def start(interpreter: str, url: str, folder: Path, env_id: str | None = None) -> WireDevice:
    """Start it as on the board: main.py beside config.py."""
    program = sys.executable if interpreter == "python" else shutil.which("micropython")
    if program is None:
        pytest.skip("micropython is not installed (Debian: apt install micropython)")
    host, port = url.removeprefix("mqtt://").split(":")
    shutil.copy(MAIN, folder / "main.py")
    device_env = env_id or f"device-{folder.name}"
    config = {"HOST": host, "PORT": int(port), "ENV": device_env, "AGENT": "MG1", "DEVICE": "ess"}
    (folder / "config.py").write_text("".join(f"{name} = {value!r}\n" for name, value in config.items()))
    path = {"PYTHONPATH": str(MODULES), "MICROPYPATH": f".:{MODULES}:.frozen"}
    return WireDevice(url, [program, "main.py"], env_id=device_env, cwd=folder, environment=path)


@pytest.fixture(params=INTERPRETERS)
def device(
    request: pytest.FixtureRequest, mosquitto: Mosquitto, tmp_path: Path, env_id: str
) -> Iterator[WireDevice]:
    with start(request.param, mosquitto.url, tmp_path, env_id) as made:
        yield made


@pytest.mark.parametrize("check", wire.CHECKS)
def test_it_keeps_the_contract(check: Callable[[WireDevice], None], device: WireDevice) -> None:
    check(device)


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_it_hears_an_emergency_stop_that_was_pressed_before(
    interpreter: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    wire.check_estop_before_it_connects(
        mosquitto.url, lambda env_id: start(interpreter, mosquitto.url, tmp_path, env_id)
    )
