"""The emulated devices of a run: processes that always end with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from heron_mqtt.errors import NotReady
from heron_mqtt.forked_program import ForkedProgram, forked
from heron_mqtt.messaging.settings import inherited
from heron_mqtt.own_program import module_command, module_environment

log = logging.getLogger("heron_mqtt.run")

LINE_BYTES = 1 << 20
END_S = 0.7  # a device disconnects from its broker in a few ms; a run must end within 2 s
LOOK_S = 0.02  # between two looks at devices without a parent
SHARED = "devices"  # the process of all devices that have none of their own


@dataclass(frozen=True, slots=True)
class DeviceProgram:
    """One emulated device to start.

    Attributes:
        name: ``AGENT/DEVICE``, for the log.
        script: One of ``powergrid.emulators.scripts()``.
        arguments: Its command line.
        process: Those with the same one share a process and its event loop, each with its own connection.
    """

    name: str
    script: str
    arguments: Sequence[str]
    process: str = SHARED


class DeviceProcesses:
    """Emulated devices, in one process or several, all from one program, ``powergrid.emulators``.

    That program gets a pipe as its standard input, which the devices inherit: when this process ends,
    however it ends, the pipe closes and so do they. They are a session of their own, so that Ctrl-C in
    a terminal reaches this process alone and the order of ending is ours.

    Args:
        forked: The program, waiting for its devices; None = it is started, and imports what devices need.
    """

    def __init__(self, forked: ForkedProgram | None = None) -> None:
        self._forked = forked
        self._process: asyncio.subprocess.Process | ForkedProgram | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[str] | None = None
        self._started = False
        self._ending = False

    async def open(self) -> None:
        """Start the program; it imports what devices need while we continue."""
        self._lost = asyncio.get_running_loop().create_future()
        if self._forked is None:
            self._process = await self._started_program()
        else:
            await self._forked.open(LINE_BYTES)
            self._process = self._forked
        self._watcher = asyncio.create_task(self._watch(self._process), name="emulated devices")
        if (said := self._process.stderr) is not None:
            self._listener = asyncio.create_task(_pass_on(said), name="log of the emulated devices")

    async def _started_program(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *module_command("powergrid.emulators"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if _passes_on() else None,
            limit=LINE_BYTES,
            start_new_session=True,
            env=module_environment(inherited(os.environ)),
        )

    @property
    def group(self) -> int:
        """Id of the process group of the program and of its devices, once it is open."""
        assert self._process is not None, "open() comes first"
        return self._process.pid

    def start(self, devices: Sequence[DeviceProgram], environment: Mapping[str, str]) -> None:
        """Start the devices; once, after ``open``.

        Args:
            devices: Their log goes to our standard error.
            environment: Added to ours; the place for credentials, as command lines are public.
        """
        assert self._process is not None, "open() comes first"
        assert self._process.stdin is not None
        request = {"environment": dict(environment), "devices": [asdict(device) for device in devices]}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._started = True

    async def until_lost(self) -> None:
        """Return never, unless a device ends by itself.

        Raises:
            NotReady: Names the first that did.
        """
        assert self._lost is not None, "open() comes first"
        raise NotReady(await asyncio.shield(self._lost))

    def expect_end(self) -> None:
        """Take no device that ends from here on for one that ended by itself."""
        self._ending = True

    async def close(self) -> None:
        """End every device: politely, then by force. Idempotent."""
        self.expect_end()
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        for force in (False, True) if self._started else (True,):  # still importing: no device to wait for
            if force:
                _signal_group(process, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await _until_all_have_ended(process)
                    break
        if self._watcher is not None:
            self._watcher.cancel()
        if self._listener is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await self._listener  # what they said last

    async def _watch(self, process: asyncio.subprocess.Process | ForkedProgram) -> None:
        """Hear what became of the devices."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            event = json.loads(line)
            if "pid" in event:
                log.info("device %s is process %d", event["name"], event["pid"])
            else:
                self._ended(f"device {event['name']}", event["exit_code"], event.get("why", ""))
        self._ended("the program of the emulated devices", await process.wait())

    def _ended(self, what: str, code: int, why: str = "") -> None:
        if self._ending:
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        line = f"{what} ended by itself with {how}" + (f": {why}" if why else "")
        log.error("%s", line)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(line)


async def _until_all_have_ended(process: asyncio.subprocess.Process | ForkedProgram) -> None:
    """Wait for the program, and for the devices that it did not wait for itself, as it was killed."""
    await process.wait()
    while _signal_group(process, 0):  # noqa: ASYNC110  nothing tells us, so we have to look
        await asyncio.sleep(LOOK_S)


def _signal_group(process: asyncio.subprocess.Process | ForkedProgram, number: int) -> bool:
    """Signal the program and its devices, which are of its group; return whether one of them is there."""
    if process.returncode == 0:  # it has waited for all of them
        return False
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def forked_emulators() -> AbstractContextManager[ForkedProgram | None]:
    """Fork the program of the emulated devices from this one; None = not possible here.

    For the beginning of a program: see ``fork_program``. What devices need is imported here already, which
    is most of their start.
    """
    from powergrid.emulators.__main__ import main

    return forked(main, inherited(os.environ), own_stderr=_passes_on())


def _passes_on() -> bool:
    """Whether what devices say goes through us: on a terminal it must not be written across a live table."""
    return sys.stderr.isatty()


async def _pass_on(said: asyncio.StreamReader) -> None:
    """Write what the devices say to our standard error, line by line: it may stand above a live table."""
    while True:
        try:
            line = await said.readline()
        except ValueError:  # longer than the limit: what is there of it is left out
            continue
        if not line:
            return
        sys.stderr.write(line.decode("utf-8", "backslashreplace"))
        sys.stderr.flush()
