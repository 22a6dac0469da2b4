"""The child's side of a broker in a process of its own; see `supervisor`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from heron_mqtt.cancellation import end_tasks
from heron_mqtt.end_signals import END_SIGNALS
from heron_mqtt.errors import ConfigError, HeronError
from heron_mqtt.forked_program import name_process
from heron_mqtt.importing import importing
from heron_mqtt.messaging.embedded.event_log import LOGGER_NAME
from heron_mqtt.messaging.embedded.options import BrokerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from heron_mqtt.messaging.embedded.server.server import BrokerServer

_PARENT_CHECK_S = 0.5
_PARENT_ENDS_S = 3.0  # it needs 2 s at most


def main() -> int:
    """Serve until standard input ends, or the parent is gone, or for a while longer after SIGTERM.

    Returns:
        The exit code.
    """
    parent = os.getppid()
    name_process("embedded-broker")
    for number in END_SIGNALS:  # the parent decides when this process ends
        signal.signal(number, signal.SIG_IGN)
    with importing():  # while the parent continues
        import heron_mqtt.messaging.embedded.server.server  # noqa: F401
    # Unbuffered: what comes after the first line is for the event loop.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as requests:
        line = requests.readline()
    if not line.endswith(b"\n"):
        return 2  # the parent is already gone, or this module was started by hand
    for stream in (sys.stdout, sys.stderr):
        # A parent that does not read for a while must not stop the broker: what does not fit is left out.
        os.set_blocking(stream.fileno(), False)
    _log_to_parent()
    raise_descriptor_limit()
    try:
        run_event_loop(lambda: _serve(BrokerOptions.from_json(line.decode()), parent))
    except HeronError as exc:
        lines = exc.problems if isinstance(exc, ConfigError) else (str(exc),)
        _say("error " + json.dumps({"kind": type(exc).__name__, "lines": lines}))
        return 2
    return 0


def run_event_loop(main_task: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a coroutine in an event loop, uvloop's if it is installed."""
    try:
        from uvloop import new_event_loop as new_loop  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop  # type: ignore[no-redef]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main_task())


def raise_descriptor_limit() -> None:
    """Allow as many connections as the system lets this process have; the default is often 1,024."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(options: BrokerOptions, parent: int) -> None:
    from heron_mqtt.messaging.embedded.server.server import BrokerServer

    broker = BrokerServer(options)
    await broker.open()
    gc.freeze()  # what is loaded stays: the collector need not look at it again
    urls = [broker.listeners.url, broker.listeners.websocket_url]
    _say("listening " + " ".join(url for url in urls if url))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # A service manager signals the parent and us at once, and the parent still has its goodbyes to send.
    loop.add_signal_handler(signal.SIGTERM, lambda: loop.call_later(_PARENT_ENDS_S, stop.set))
    tasks = [
        asyncio.create_task(_obey_parent(broker, stop), name="parent's requests"),
        asyncio.create_task(_watch_parent(parent, stop), name="parent's life"),
    ]
    await stop.wait()
    await end_tasks(tasks)
    await broker.shutdown()
    _say_stats(broker)


async def _obey_parent(broker: BrokerServer, stop: asyncio.Event) -> None:
    """Answer requests for the counts; the end of standard input is the order to stop."""
    requests = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
        while line := await requests.readline():
            if line == b"stats\n":
                _say_stats(broker)
    finally:
        stop.set()


async def _watch_parent(parent: int, stop: asyncio.Event) -> None:
    """Stop if the parent is gone although a process it forked still holds our standard input open."""
    while os.getppid() == parent:  # noqa: ASYNC110  nothing tells us, so we have to look
        await asyncio.sleep(_PARENT_CHECK_S)
    stop.set()


def _say_stats(broker: BrokerServer) -> None:
    _say("stats " + json.dumps(broker.refresh_stats().as_dict()))


def _say(line: str) -> None:
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(sys.stdout.fileno(), line.encode() + b"\n")


class _ParentLog(logging.Handler):
    """Writes ``LEVEL text`` lines to standard error; lines that do not fit the pipe are left out."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = self.format(record).splitlines()
        text = "".join(f"{record.levelname} {line}\n" for line in lines)
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))


def _log_to_parent() -> None:
    handler = _ParentLog()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
