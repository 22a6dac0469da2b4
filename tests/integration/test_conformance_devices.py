"""Every device program of ours keeps every promise of docs/safety.md that it can be asked for."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from heron_mqtt.testing.conformance import PROMISES, ConformanceResult, PromiseResult
from heron_mqtt.testing.embedded_server import EmbeddedServer
from heron_mqtt.testing.mosquitto_server import Mosquitto, executable
from support import examined_devices as devices
from support.selection import selected

pytestmark = pytest.mark.timeout(600)

OTHER_THAN_PASS = {
    "ramp": "not shown",
    "stop-ramp": "not shown",
    "hand-back": "not shown",
    "proof": "not applicable",
}
MICROPYTHON = shutil.which("micropython")
ON_MOSQUITTO: dict[str, devices.Prepare] = {
    "bare_device.py": devices.bare,
    "c_battery": devices.in_c,
    "esp32 under CPython": functools.partial(devices.esp32, sys.executable),
    "esp32 under MicroPython": functools.partial(devices.esp32, MICROPYTHON),
}
ON_EMBEDDED: dict[str, tuple[str, devices.Prepare]] = {
    "battery": ("ess", functools.partial(devices.emulator, "battery", "three_microgrids", "ess")),
    "genset": ("gen", functools.partial(devices.emulator, "genset", "three_microgrids", "gen")),
    "pv_inverter": ("pv", functools.partial(devices.emulator, "pv_inverter", "three_microgrids", "pv")),
}
PROGRAMS = [*ON_MOSQUITTO, *ON_EMBEDDED, "sunspec_bridge"]
QUICK = {"bare_device.py"}  # nothing of this package is in it; test_devices.py asks the same of the battery

Examine = Callable[[str], dict[str, PromiseResult]]


@pytest.fixture(scope="module")
def examined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Examine:
    """Examine all programs side by side, each at a broker of its own: nearly all of the time is waiting.

    A few programs are each examined on several benches at once, every one of them for a part of the promises.
    """
    asked, ids = selected(request, "program"), [p.id for p in PROMISES]
    benches = 4 if len(asked) <= len(QUICK) else 1
    futures: dict[str, list[Future[ConformanceResult]]] = {}
    with ThreadPoolExecutor(len(asked) * benches) as pool:
        for program in asked:
            futures[program] = [
                pool.submit(examine, program, tmp_path_factory.mktemp("device"), ids[n::benches])
                for n in range(benches)
            ]

    def found(program: str) -> dict[str, PromiseResult]:  # a skip of the program is one of its tests
        parts = [future.result() for future in futures[program]]
        return {one.promise.id: one for part in parts for one in part.results}

    return found


def examine(program: str, folder: Path, only: Collection[str]) -> ConformanceResult:
    if program in ON_MOSQUITTO:
        return devices.examined(ON_MOSQUITTO[program], folder, mosquitto_in(folder), only=only)
    if program in ON_EMBEDDED:
        name, prepare = ON_EMBEDDED[program]
        # It ramps in simulated time, and runs at 20 kW and more.
        dt_s, least_mw = (120.0, 0.02) if program == "genset" else (None, 0.0)
        return devices.examined(
            prepare, folder, EmbeddedServer(), name=name, dt_s=dt_s, least_mw=least_mw, only=only
        )
    with devices.following_inverter() as modbus:
        prepare = functools.partial(devices.sunspec, modbus)
        return devices.examined(prepare, folder, EmbeddedServer(), only=only)


def mosquitto_in(folder: Path) -> Mosquitto:
    if executable() is None:
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")
    (folder / "mosquitto").mkdir()
    return Mosquitto(folder / "mosquitto")


@pytest.mark.parametrize("promise", [p.id for p in PROMISES])
@pytest.mark.parametrize(
    "program", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in PROGRAMS]
)
def test_it_keeps_what_the_safety_page_promises(program: str, promise: str, examined: Examine) -> None:
    found = examined(program)[promise]
    assert found.verdict == OTHER_THAN_PASS.get(promise, "pass"), found.what


def test_the_bare_device_imports_nothing_of_ours() -> None:
    text = (devices.EXAMPLES / "bare_device.py").read_text(encoding="utf-8")
    assert "heron_mqtt" not in text.replace("heron-mqtt", "")


@pytest.mark.slow_but("bare_device.py")
@pytest.mark.parametrize("program", ON_MOSQUITTO)
def test_a_battery_discharged_for_a_quarter_of_an_hour_has_less_in_it(program: str, tmp_path: Path) -> None:
    with devices.online(ON_MOSQUITTO[program], tmp_path, EmbeddedServer()) as bench:
        bench.harness.make_free()
        done = bench.harness.sender().do(0.02, dt_s=900.0)  # of simulated time
    assert abs(done["soc"] - (0.5 - 0.02 * 0.25 / 0.2)) < 1e-6
