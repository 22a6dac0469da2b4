"""SIGHUP and SIGTERM end every program as Ctrl-C does, also one that a script has started with ``&``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers
from heron_mqtt.field.sunspec.inverter import Inverter, Settings
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.testing.device_harness import DeviceHarness
from support.heron_command import HERON, Program, descendants, heron, script, until
from support.mosquitto_clients import Watcher
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario
from support.sunspec_gateway import Gateway
from support.sunspec_server import BATTERY, EmulatedInverter
from support.waiting import until as soon

ROOT = Path(__file__).parents[2]
END_S = 8.0  # 2 s are promised; the rest is for a machine that is busy
DEVICE = ["device", "battery", "--agent", "MG1", "--name", "ess"]


def end(program: Program, number: int, code: int) -> str:
    started = program.descendants()
    os.kill(program.pid, number)
    done = program.wait(END_S)
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert [process for process in started if process.is_alive] == []
    return done.out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario file with an agent that runs elsewhere."""
    folder = tmp_path_factory.mktemp("scenario")
    return write_scenario(folder, {"microgrids.MG3.remote": True, "deadlines.ready_s": 60.0})


def test_a_run_in_the_background_ends_at_sigterm_and_releases_its_devices(
    tmp_path: Path, mosquitto: Mosquitto, env_id: str
) -> None:
    path = write_scenario(tmp_path, {"env_id": env_id})
    with (
        Watcher(mosquitto.url, f"heron/{env_id}/#") as watcher,
        heron(
            "run", str(path), "--steps", "100000", "--broker", mosquitto.url, ignored=[signal.SIGINT]
        ) as program,
    ):
        program.wait_for("step 8/")
        os.kill(program.pid, signal.SIGINT)  # ignored, as in every background job
        program.wait_for("step 16/")
        assert "interrupted after" in end(program, signal.SIGTERM, 130)
        battery = f"heron/{env_id}/devices/MG1/ess"
        watcher.wait_seen(f"{battery}/setpoint", lambda m: m.get("release") and m["p_mw"] == 0.0)
        watcher.wait_seen(f"{battery}/status", lambda m: m["state"] == "offline")
        watcher.wait_seen(f"heron/{env_id}/run/state", lambda m: m["state"] == "finished")


@pytest.mark.slow
def test_a_service_manager_that_signals_every_process_at_once_changes_nothing(tmp_path: Path) -> None:
    """The broker of the run lives on for as long as the run needs it to say goodbye."""
    path = write_scenario(tmp_path, {"env_id": "signalled"})
    with heron("run", str(path), "--steps", "100000", ignored=[signal.SIGINT]) as program:
        program.wait_for("step 8/")
        started = program.descendants()
        for process in [program, *started]:
            os.kill(process.pid, signal.SIGTERM)
        done = program.wait(END_S)
        assert done.code == 130, done.err
        assert "ended unexpectedly" not in done.err
        until(lambda: not any(process.is_alive for process in started), "the end of all", END_S)


@pytest.mark.slow
def test_a_run_whose_terminal_is_gone_ends_and_releases_its_devices(
    tmp_path: Path, mosquitto: Mosquitto, env_id: str
) -> None:
    """As when an ssh session ends: SIGHUP, and a terminal on which nothing can be written."""
    path = write_scenario(tmp_path, {"env_id": env_id})
    with Watcher(mosquitto.url, f"heron/{env_id}/#") as watcher:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(HERON, [HERON, "run", str(path), "--steps", "100000", "--broker", mosquitto.url])
        battery = f"heron/{env_id}/devices/MG1/ess"
        watcher.wait_seen(f"{battery}/setpoint", within_s=60.0)
        started = descendants(pid)
        os.close(terminal)
        ended: list[int] = []

        def has_ended() -> bool:
            done, status = os.waitpid(pid, os.WNOHANG)
            ended.extend([os.waitstatus_to_exitcode(status)] if done else [])
            return bool(done)

        until(has_ended, "its end", END_S)
        assert ended == [130]
        watcher.wait_seen(f"{battery}/setpoint", lambda m: m.get("release") and m["p_mw"] == 0.0)
        watcher.wait_seen(f"heron/{env_id}/run/state", lambda m: m["state"] == "finished")
        assert not any(process.is_alive for process in started)


def test_a_proxy_ends_at_sighup(small: Path, mosquitto: Mosquitto) -> None:
    with heron(
        "proxy", str(small), "--agent", "MG3", "--broker", mosquitto.url, ignored=[signal.SIGINT]
    ) as program:
        program.wait_for("agent MG3 online")
        end(program, signal.SIGHUP, 130)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_broker_ends_as_asked(number: int) -> None:
    with heron("broker", "--port", "0", ignored=[signal.SIGINT]) as program:
        program.wait_for("listening mqtt://127.0.0.1:")
        end(program, number, 0)


@pytest.mark.slow_but("15")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 130), (signal.SIGTERM, 0)])
def test_a_device_in_the_background_goes_to_its_safe_state_and_says_that_it_is_gone(
    number: int, code: int, mosquitto: Mosquitto, env_id: str
) -> None:
    arguments = [*DEVICE[2:], "--broker", mosquitto.url, "--env-id", env_id]
    with (
        DeviceHarness(mosquitto.url, env_id=env_id) as harness,
        script(ROOT / "devices/battery.py", *arguments, ignored=[signal.SIGINT]) as program,
    ):
        harness.birth()
        harness.sender().do(0.02)
        end(program, number, code)
        harness.wait_for(harness.topic("status"), lambda m: m.get("state") == "offline", "its goodbye")


def test_nohup_is_obeyed(mosquitto: Mosquitto, env_id: str) -> None:
    arguments = [*DEVICE, "--broker", mosquitto.url, "--env-id", env_id]
    with heron(*arguments, "--duration", "60", ignored=[signal.SIGHUP]) as program:
        program.wait_for("online at")
        os.kill(program.pid, signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(0.5)
        end(program, signal.SIGTERM, 0)


# -- the bridge to an inverter -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bridge(box: EmulatedInverter, url: str, env_id: str) -> AsyncIterator[Program]:
    """Start it in the background of a script, and have it told a setpoint."""
    arguments = [
        *("--agent", "MG1", "--name", "ess", "--broker", url, "--env-id", env_id),
        *("--modbus", f"127.0.0.1:{box.port}", "--period", "0.1"),
    ]
    with script(ROOT / "devices/sunspec_bridge.py", *arguments, ignored=[signal.SIGINT]) as program:
        async with MqttBroker(url, env_id=env_id) as broker:
            gateway = Gateway(broker, env_id)
            await soon(lambda: gateway.states() == ["online"], "the birth", within_s=60.0)
            await gateway.ask(-0.002, 30.0)
        yield program


@pytest.mark.slow_but("15")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 130), (signal.SIGTERM, 0)])
async def test_the_bridge_hands_the_inverter_back(
    number: int, code: int, mosquitto: Mosquitto, env_id: str
) -> None:
    box = await EmulatedInverter(BATTERY).start()
    try:
        async with bridge(box, mosquitto.url, env_id) as program:
            assert [box[124, n] for n in ("InWRte", "StorCtl_Mod")] == [2500, 3]
            os.kill(program.pid, number)
            assert (await asyncio.to_thread(program.wait, END_S)).code == code
            assert box[124, "StorCtl_Mod"] == 0
    finally:
        await box.stop()


async def test_a_cancel_that_comes_with_the_inverters_answer_is_not_lost() -> None:
    """Forced, 20 of 20: the answer is there, and the cancel comes before the task has read it."""
    box = await EmulatedInverter(BATTERY).start()
    try:
        outcomes = [await _cancelled_with_the_answer(box) for _ in range(20)]
    finally:
        await box.stop()
    assert outcomes == ["cancelled"] * 20


async def _cancelled_with_the_answer(box: EmulatedInverter) -> str:
    registers = Registers(ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=2.0), 1)
    inverter = await Inverter.connect(registers, Settings())
    loop = asyncio.get_running_loop()

    async def measure_for_ever() -> None:
        while True:
            await inverter.measure()

    def on_pdu(sending: bool, pdu: Any) -> Any:
        if not sending and not task.cancelling():
            loop.call_soon(task.cancel)
        return pdu

    task = asyncio.create_task(measure_for_ever())
    registers._connection._client.ctx.trace_pdu = on_pdu
    done, _ = await asyncio.wait([task], timeout=1.0)
    outcome = "cancelled" if done and task.cancelled() else "went on"
    registers.close()
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    return outcome
