"""The device programs of this repository on benches of their own, and what their examination found."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from heron_mqtt.testing.conformance import ConformanceBench, ConformanceResult, examine_device
from heron_mqtt.testing.device_harness import DeviceHarness
from heron_mqtt.testing.device_process import DeviceProcess
from heron_mqtt.testing.embedded_server import EmbeddedServer
from heron_mqtt.testing.mosquitto_server import Mosquitto
from support.fork_server import is_forked
from support.heron_command import FORK_SERVER, HERON
from support.sunspec_server import BATTERY, EmulatedInverter

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
WITHIN_S = 20.0  # on a machine under load
ENV = "bench"


@dataclass
class Prepared:
    """A program that can be started at a broker."""

    command: list[str]
    cwd: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


class ForkedDeviceProcess(DeviceProcess):
    """A device's program; where ``HeronProgram`` forks it, this does."""

    def start(self) -> None:
        """Start it."""
        if not is_forked(self.command, self._environment):
            super().start()
            return
        self.said.clear()
        process = FORK_SERVER.start(self.command, self._cwd, self._environment)
        process.stdin.close()
        for stream in (process.stdout, process.stderr):
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()
        self._process = process  # type: ignore[assignment]  # has what is used of subprocess.Popen


Prepare = Callable[[str, Path, bool], Prepared]
"""Given host:port, an empty folder, and whether it is to require proof."""


def bare(place: str, folder: Path, proof: bool) -> Prepared:
    """docs/examples/bare_device.py, plain paho."""
    host, port = place.split(":")
    command = [sys.executable, str(EXAMPLES / "bare_device.py"), host, port, ENV, "MG1", "ess"]
    return Prepared([*command, *(["--require-proof"] if proof else [])])


def in_c(place: str, folder: Path, proof: bool) -> Prepared:
    """docs/examples/c_battery, with every warning an error and memory errors fatal."""
    missing = [tool for tool in ("cc", "make") if shutil.which(tool) is None]
    if missing:
        pytest.skip(
            f"no C compiler: {' and '.join(missing)} missing (Debian: apt install gcc libc6-dev make)"
        )
    built = folder / "c_battery"
    shutil.copytree(EXAMPLES / "c_battery", built, ignore=shutil.ignore_patterns("battery"))
    strict = "CFLAGS=-O1 -g -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
    done = subprocess.run(["make", "-C", str(built), strict], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command = [str(built / "battery"), *place.split(":"), ENV, "MG1", "ess"]
    return Prepared([*command, *(["--require-proof"] if proof else [])])


def esp32(interpreter: str | None, place: str, folder: Path, proof: bool) -> Prepared:
    """docs/examples/esp32_battery, as on the board: main.py beside config.py."""
    if interpreter is None:
        pytest.skip("micropython is not installed (Debian: apt install micropython)")
    host, port = place.split(":")
    shutil.copy(EXAMPLES / "esp32_battery/main.py", folder / "main.py")
    config = {"HOST": host, "PORT": int(port), "ENV": ENV, "AGENT": "MG1", "DEVICE": "ess"}
    config |= {"REQUIRE_PROOF": True} if proof else {}
    (folder / "config.py").write_text("".join(f"{name} = {value!r}\n" for name, value in config.items()))
    modules = ROOT / "tests/support/micropython_modules"
    path = {"PYTHONPATH": str(modules), "MICROPYPATH": f".:{modules}:.frozen"}
    return Prepared([interpreter, "main.py"], folder, path)


def emulator(kind: str, scenario: str, name: str, place: str, folder: Path, proof: bool) -> Prepared:
    """``heron-mqtt device KIND``."""
    where = ["--agent", "MG1", "--name", name, "--broker", f"mqtt://{place}", "--env-id", ENV]
    more = ["--require-proof"] if proof else []
    return Prepared([HERON, "device", kind, *where, "--scenario", scenario, *more])


def sunspec(modbus: str, place: str, folder: Path, proof: bool) -> Prepared:
    """``heron-mqtt device sunspec_bridge``, at an inverter that follows its registers."""
    where = ["--agent", "MG1", "--name", "ess", "--broker", f"mqtt://{place}", "--env-id", ENV]
    return Prepared([HERON, "device", "sunspec_bridge", *where, "--modbus", modbus, "--period", "0.2"])


class FollowingInverter(EmulatedInverter):
    """A storage inverter that takes itself back when its connection is lost, as do those that watch their
    controller.
    """

    def _on_connect(self, connected: bool) -> None:
        super()._on_connect(connected)
        if not connected:
            self[124, "StorCtl_Mod"] = 0
            self.follow()


@contextlib.contextmanager
def following_inverter() -> Iterator[str]:
    """Serve one on a loop of its own, for tests that are plain functions; yields host:port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    box = FollowingInverter(BATTERY)

    async def make() -> None:
        await box.start()

    try:
        asyncio.run_coroutine_threadsafe(make(), loop).result(10.0)
        yield f"127.0.0.1:{box.port}"
        asyncio.run_coroutine_threadsafe(box.stop(), loop).result(10.0)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10.0)
        loop.close()


@contextlib.contextmanager
def online(
    prepare: Prepare,
    folder: Path,
    server: Mosquitto | EmbeddedServer,
    *,
    name: str = "ess",
    proof: bool = False,
    dt_s: float | None = None,
    least_mw: float = 0.0,
) -> Iterator[ConformanceBench]:
    """Have a program online at a broker of its own; both are ended."""
    server.start()
    try:
        made = prepare(server.url.removeprefix("mqtt://"), folder, proof)
        with (
            ForkedDeviceProcess(made.command, cwd=made.cwd, environment=made.environment) as program,
            DeviceHarness(
                server.url,
                env_id=ENV,
                name=name,
                within_s=WITHIN_S,
                dt_s=dt_s,
                least_mw=least_mw,
                requires_proof=proof,
            ) as harness,
        ):
            bench = ConformanceBench(harness, program, server)
            bench.give_power()
            yield bench
    finally:
        server.stop()


def examined(
    prepare: Prepare,
    folder: Path,
    server: Mosquitto | EmbeddedServer,
    *,
    name: str = "ess",
    proof: bool = False,
    dt_s: float | None = None,
    least_mw: float = 0.0,
    only: Collection[str] | None = None,
) -> ConformanceResult:
    """Examine a program at a broker of its own."""
    with online(prepare, folder, server, name=name, proof=proof, dt_s=dt_s, least_mw=least_mw) as bench:
        return examine_device(bench, only=only)
