"""The parent's side of a broker in a process of its own.

The child lives exactly as long as the pipe to its standard input. Closing the pipe ends the child in good
order. The system closes it when this process dies, for any reason. On its standard output the child says
``listening URL`` once, and answers requests; on its standard error it logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING

from heron_mqtt.cancellation import end_tasks
from heron_mqtt.errors import AddressInUse, BrokerUnavailable, ConfigError, DataError, HeronError
from heron_mqtt.forked_program import ForkedProgram, forked
from heron_mqtt.messaging.embedded.event_log import LOGGER_NAME
from heron_mqtt.messaging.embedded.stats import BrokerStats
from heron_mqtt.own_program import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from heron_mqtt.messaging.embedded.options import BrokerOptions

_logger = logging.getLogger(LOGGER_NAME)
_START_TIMEOUT_S = 20.0  # normally 0.3 s; this is for a machine that is swapping
_CLOSE_TIMEOUT_S = 1.4  # then it is killed, so that `close` keeps within 2 s
_KILL_TIMEOUT_S = 0.5
_STATS_TIMEOUT_S = 2.0
_MAX_LINE_BYTES = 256 * 1024


def forked_child() -> contextlib.AbstractContextManager[ForkedProgram | None]:
    """Fork a broker's child process, for the `Supervisor` to come; None = not possible here.

    For the beginning of a program: see `fork_program`. It imports what it needs while its parent continues.
    """
    from heron_mqtt.messaging.embedded.process.child import main

    return forked(main, os.environ, own_stderr=True)


class Supervisor:
    """Starts the child process, relays its log, notices its end.

    Args:
        options: Already checked.
        on_exit: Called with one line when the child ends although `close` was not called.
        child: The process, if it was forked already: see `forked_child`.
    """

    def __init__(
        self, options: BrokerOptions, on_exit: Callable[[str], None], child: ForkedProgram | None = None
    ) -> None:
        self.stats = BrokerStats()
        self._options = options
        self._on_exit = on_exit
        self._forked = child
        self._process: asyncio.subprocess.Process | ForkedProgram | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stats_waiters: list[asyncio.Future[BrokerStats]] = []
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Process id of the child, once started."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> tuple[str, str | None]:
        """Start the child; return its URL and its WebSocket URL.

        Raises:
            ConfigError, AddressInUse: As the child found.
            BrokerUnavailable: It did not come up.
        """
        process: asyncio.subprocess.Process | ForkedProgram
        if self._forked is None:
            process = await self._started_child()
        else:
            process = self._forked
            await self._forked.open(_MAX_LINE_BYTES)
        self._process = process
        self._tasks.append(asyncio.create_task(self._relay_log(), name="embedded-broker log"))
        try:
            self._tell(self._options.to_json())
            async with asyncio.timeout(_START_TIMEOUT_S):
                first = await self._read_line()
        except TimeoutError:
            await self.close()
            raise BrokerUnavailable(
                f"the embedded broker did not come up within {_START_TIMEOUT_S:g} s; is the machine busy?"
            ) from None
        except BaseException:  # cancelled: it was not used, and may still be importing
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await self.close()
            raise
        keyword, _, rest = first.partition(" ")
        if keyword != "listening":
            status = await process.wait() if not first else None
            await self.close()
            raise _start_error(keyword, rest, status)
        self._tasks.append(asyncio.create_task(self._watch(), name="embedded-broker watch"))
        url, _, websocket_url = rest.partition(" ")
        return url, websocket_url or None

    async def _started_child(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *module_command("heron_mqtt.messaging.embedded"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=module_environment(),
            limit=_MAX_LINE_BYTES,
            # Ctrl-C in a terminal goes to the foreground group; the order of shutdown is ours to decide.
            process_group=0,
        )

    async def close(self) -> None:
        """End the child: in good order if it can, by force if it takes longer than 1.4 s."""
        self._closing = True
        process = self._process
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await process.wait()
        finally:
            if process.returncode is None:
                _logger.warning("the embedded broker (process %d) does not end and is killed", process.pid)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_KILL_TIMEOUT_S)
        await end_tasks(self._tasks)
        self._tasks.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await process.wait()

    async def read_stats(self) -> BrokerStats:
        """Ask the child for its counts; the last known ones if it does not answer within 2 s."""
        waiter: asyncio.Future[BrokerStats] = asyncio.get_running_loop().create_future()
        self._stats_waiters.append(waiter)
        try:
            self._tell("stats")
            async with asyncio.timeout(_STATS_TIMEOUT_S):
                return await waiter
        except TimeoutError:
            return self.stats
        finally:
            if waiter in self._stats_waiters:
                self._stats_waiters.remove(waiter)

    def _tell(self, line: str) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line.encode() + b"\n")

    async def _read_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode(errors="replace").rstrip("\n")

    async def _watch(self) -> None:
        """Take the child's answers until it ends."""
        assert self._process is not None
        while line := await self._read_line():
            keyword, _, rest = line.partition(" ")
            if keyword == "stats":
                self.stats = BrokerStats(**json.loads(rest))
                for waiter in self._stats_waiters:
                    if not waiter.done():
                        waiter.set_result(self.stats)
        status = await self._process.wait()
        if self._closing:
            return
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        line = (
            f"the embedded broker (process {self._process.pid}) ended unexpectedly {how}; its clients are "
            "disconnected, and its sessions and retained messages are lost"
        )
        _logger.error(line)
        self._on_exit(line)

    async def _relay_log(self) -> None:
        """Log here what the child logs: lines of ``LEVEL text``, or whatever Python printed."""
        assert self._process is not None
        stream = self._process.stderr
        assert stream is not None
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # longer than _MAX_LINE_BYTES; the stream has dropped it
                continue
            if not raw:
                return
            level, _, text = raw.decode(errors="replace").rstrip("\n").partition(" ")
            number = logging.getLevelNamesMapping().get(level)
            if number is None:
                _logger.warning("%s %s", level, text)
            else:
                _logger.log(number, "%s", text)


def _start_error(keyword: str, rest: str, status: int | None) -> HeronError:
    if keyword == "error":
        report = json.loads(rest)
        kinds: dict[str, type[HeronError]] = {
            "AddressInUse": AddressInUse,
            "ConfigError": ConfigError,
            "DataError": DataError,
        }
        return kinds.get(report["kind"], BrokerUnavailable)(*report["lines"])
    return BrokerUnavailable(f"the embedded broker ended while starting (status {status}); its log says why")
