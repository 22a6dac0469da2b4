"""The other ends of a measurement, each a process of its own that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.errors import BrokerUnavailable
from heron_mqtt.own_program import module_command, module_environment

START_S = 10.0
TUNED = ("set_tcp_nodelay true", "max_queued_messages 0", "max_inflight_messages 0")
"""What mosquitto needs to be fast and to lose nothing; see docs/brokers.md."""


def find_mosquitto() -> str | None:
    """Return where mosquitto is installed, or None."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class Hop:
    """What messages go through: where it listens, and its process; None = not ours, or another host's."""

    url: str
    pid: int | None = None

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return int(self.url.rpartition(":")[2])

    @property
    def pids(self) -> tuple[int, ...]:
        """For ``cpu_s``."""
        return () if self.pid is None else (self.pid,)


@contextlib.asynccontextmanager
async def module(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module of ours; its standard input and output are pipes."""
    child = await asyncio.create_subprocess_exec(
        *module_command(name, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=module_environment(),
    )
    async with _ending(child):
        yield child


async def next_line(child: asyncio.subprocess.Process, timeout_s: float = START_S) -> str:
    """Return the next line that a process prints.

    Raises:
        BrokerUnavailable: It ended, or took too long.
    """
    assert child.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            line = await child.stdout.readline()
    except TimeoutError:
        line = b""
    if not line:
        raise BrokerUnavailable(f"a process of the benchmark did not answer within {timeout_s:g} s")
    return line.decode().strip()


@contextlib.asynccontextmanager
async def relay() -> AsyncIterator[Hop]:
    """Run the raw relay."""
    async with module("heron_mqtt.bench.relay") as child:
        yield Hop(f"tcp://127.0.0.1:{await next_line(child)}", child.pid)


@contextlib.asynccontextmanager
async def mosquitto(*lines: str) -> AsyncIterator[Hop]:
    """Run mosquitto on a free loopback port.

    Args:
        lines: Of its configuration, beside listener and login.

    Raises:
        BrokerUnavailable: It is not installed, or does not start.
    """
    program = find_mosquitto()
    if program is None:
        raise BrokerUnavailable("mosquitto is not installed")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        for _ in range(5):  # another process may take the free port first
            port = _free_port()
            user = f"user {getpass.getuser()}"  # as root it would become another user, who cannot read this
            wanted = (f"listener {port} 127.0.0.1", "allow_anonymous true", "log_dest none", user, *lines)
            config.write_text("\n".join([*wanted, ""]))
            child = await asyncio.create_subprocess_exec(
                program,
                "-c",
                str(config),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            async with _ending(child):
                if await _listens(port, child):
                    yield Hop(f"mqtt://127.0.0.1:{port}", child.pid)
                    return
    raise BrokerUnavailable(f"{program} does not start")


@contextlib.asynccontextmanager
async def _ending(child: asyncio.subprocess.Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def _listens(port: int, child: asyncio.subprocess.Process) -> bool:
    async with asyncio.timeout(START_S):
        while child.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return True
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
