"""The emulated devices beside a run: all of them are gone after the end, whatever became of their program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from heron_mqtt.app.emulator_processes import END_S, SHARED, DeviceProcesses, DeviceProgram
from heron_mqtt.errors import NotReady
from heron_mqtt.testing.faults.programs import Process, descendants
from heron_mqtt.testing.loopback_server import free_port
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _programs(*shared: str, pv: Sequence[str] = ()) -> list[DeviceProgram]:
    """Return two devices that wait for a broker; there is no answer.

    Args:
        shared: The process of both; none = each has its own.
        pv: What the command line of the second says besides.
    """
    url = f"mqtt://127.0.0.1:{free_port()}"
    return [
        DeviceProgram(
            f"MG1/{name}",
            script,
            ["--agent=MG1", f"--name={name}", f"--broker={url}", "--supervised", *more],
            *(shared or (f"MG1/{name}",)),
        )
        for name, script, more in (("ess", "battery", ()), ("pv", "pv_inverter", pv))
    ]


async def _started(
    processes: DeviceProcesses, programs: Sequence[DeviceProgram] | None = None
) -> tuple[Process, list[Process]]:
    """Start devices; return their program and their processes."""
    await processes.open()
    assert processes._process is not None
    pid = processes._process.pid  # this process may have other programs, of other tests, below it
    (mother,) = [process for process in descendants(os.getpid()) if process.pid == pid]
    programs = programs or _programs()
    processes.start(programs, {})
    n = len({program.process for program in programs})
    await until(lambda: len(descendants(pid)) == n, "the processes of the devices")
    devices = descendants(pid)
    # Or one that is stopped at once still holds what its program tells us through, as if that lived.
    told = _standard_output(mother)
    await until(lambda: told not in map(_standard_output, devices), "devices with an output of their own")
    return mother, devices


def _standard_output(process: Process) -> Path:
    return Path(f"/proc/{process.pid}/fd/1").readlink()


@pytest.mark.slow  # of one that fails: test_one_that_fails_in_a_shared_process_leaves_the_other_alone
@pytest.mark.usefixtures("fresh_programs")
async def test_devices_that_share_a_process_are_each_told_of_when_it_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    processes = DeviceProcesses()
    mother, (both,) = await _started(processes, _programs(SHARED))
    both.kill()
    with pytest.raises(NotReady, match="device MG1/ess ended by itself with signal 9"):
        await asyncio.wait_for(processes.until_lost(), 10.0)
    await until(lambda: "device MG1/pv ended by itself with signal 9" in caplog.text, "the other one")
    await processes.close()
    assert not mother.is_alive


async def test_one_that_fails_in_a_shared_process_leaves_the_other_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    processes = DeviceProcesses()
    mother, (both,) = await _started(processes, _programs(SHARED, pv=["--period=-1"]))
    with pytest.raises(NotReady, match="device MG1/pv ended by itself with exit code 2"):
        await asyncio.wait_for(processes.until_lost(), 10.0)
    assert both.is_alive
    begin = time.monotonic()
    await processes.close()
    assert time.monotonic() - begin < END_S, "by the end of its input, not by force"
    assert not both.is_alive
    assert not mother.is_alive
    said = capfd.readouterr().err
    assert said.count("heron-mqtt device pv_inverter: argument --period: '-1': expected seconds") == 1
    assert "Traceback" not in said


async def test_why_one_could_not_go_on_stands_in_the_line_of_its_end() -> None:
    """A run that is refused by it ends with this line: the reason must not stand above it."""
    processes = DeviceProcesses()
    await _started(processes, _programs(SHARED, pv=["--name=nothing"]))
    with pytest.raises(NotReady, match=r"device MG1/pv ended by itself with exit code 2: --name nothing: "):
        await asyncio.wait_for(processes.until_lost(), 10.0)
    await processes.close()


async def test_one_that_is_asked_for_help_leaves_the_other_alone() -> None:
    """``--help`` raises SystemExit(0); no code of a device may end its neighbours."""
    processes = DeviceProcesses()
    mother, (both,) = await _started(processes, _programs(SHARED, pv=["--help"]))
    with pytest.raises(NotReady, match="device MG1/pv ended by itself with exit code 0"):
        await asyncio.wait_for(processes.until_lost(), 10.0)
    assert both.is_alive
    await processes.close()
    assert not mother.is_alive


async def test_a_signal_to_a_shared_process_ends_all_its_devices_as_it_does_one() -> None:
    processes = DeviceProcesses()
    _, (both,) = await _started(processes, _programs(SHARED))
    await asyncio.sleep(0.5)  # until it heeds them
    os.kill(both.pid, signal.SIGINT)
    with pytest.raises(NotReady, match=r"device MG1/(ess|pv) ended by itself with (exit code 130|signal 2)"):
        await asyncio.wait_for(processes.until_lost(), 10.0)
    await processes.close()
    assert not both.is_alive


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
