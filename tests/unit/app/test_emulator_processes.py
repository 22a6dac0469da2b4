"""The emulated devices beside a run: all of them are gone after the end, whatever became of their program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from heron_mqtt.app.emulator_processes import END_S, DeviceProcesses, DeviceProgram
from heron_mqtt.errors import NotReady
from heron_mqtt.testing.faults.programs import Process, descendants
from heron_mqtt.testing.loopback_server import free_port
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _programs() -> list[DeviceProgram]:
    """Return two devices that wait for a broker; nobody answers there."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    return [
        DeviceProgram(
            f"MG1/{name}", script, ["--agent=MG1", f"--name={name}", f"--broker={url}", "--supervised"]
        )
        for name, script in (("ess", "battery"), ("pv", "pv_inverter"))
    ]


async def _started(processes: DeviceProcesses) -> tuple[Process, list[Process]]:
    """Start devices; return their program and them."""
    await processes.open()
    assert processes._process is not None
    pid = processes._process.pid  # this process may have other programs, of other tests, below it
    (mother,) = [process for process in descendants(os.getpid()) if process.pid == pid]
    processes.start(_programs(), {})
    await until(lambda: len(descendants(pid)) == 2, "the two devices")
    devices = descendants(pid)
    # Or one that is stopped at once still holds what its program tells us through, as if that lived.
    told = _standard_output(mother)
    await until(lambda: told not in map(_standard_output, devices), "devices with an output of their own")
    return mother, devices


def _standard_output(process: Process) -> Path:
    return Path(f"/proc/{process.pid}/fd/1").readlink()


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped"])
async def test_devices_are_gone_though_their_program_was_killed_before(stopped: bool) -> None:
    """Each ends when its input does; one that does not, as it stands still, is killed."""
    processes = DeviceProcesses()
    mother, devices = await _started(processes)
    try:
        if stopped:
            os.kill(devices[0].pid, signal.SIGSTOP)
        mother.kill()
        told = "the program of the emulated devices ended by itself with signal 9"
        with pytest.raises(NotReady, match=told):
            await asyncio.wait_for(processes.until_lost(), 10.0)
        assert any(device.is_alive for device in devices)
        begin = time.monotonic()
        await processes.close()
        assert time.monotonic() - begin < 3 * END_S
        await until(lambda: not any(device.is_alive for device in devices), "the end of the devices", 1.0)
    finally:
        for device in devices:
            if device.is_alive:
                device.kill()


@pytest.mark.slow_but("15")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_devices_and_not_their_program_which_tells_how_they_ended(number: int) -> None:
    processes = DeviceProcesses()
    mother, devices = await _started(processes)
    os.kill(mother.pid, number)
    for device in devices:
        os.kill(device.pid, number)
    with pytest.raises(NotReady, match=r"device MG1/(ess|pv) ended by itself with"):
        await asyncio.wait_for(processes.until_lost(), 10.0)
    await processes.close()
    assert not mother.is_alive
    assert not any(device.is_alive for device in devices)
