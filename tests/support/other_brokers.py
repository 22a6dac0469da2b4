"""The brokers that ours is compared with: mosquitto, and amqtt as it comes. Each in its own process."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Target:
    """A broker under test."""

    name: str
    port: int


MOSQUITTO_CONF = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
allow_duplicate_messages false
max_queued_messages 0
sys_interval 1
log_dest none
"""

# With amqtt's own AnonymousAuthPlugin sessions keep no offline queue, hence the plugin here. Its default
# plugins only log and count. Closing standard input asks it to shut down.
STOCK_AMQTT = """
import asyncio, json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
class LetIn(BaseAuthPlugin):
    async def authenticate(self, *, session):
        return True
async def main():
    listener = {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1], **json.loads(sys.argv[3])}
    config = {"listeners": {"default": listener}, "plugins": json.loads(sys.argv[2])}
    broker = Broker(config)
    await broker.start()
    await asyncio.to_thread(sys.stdin.read)
    await broker.shutdown()
asyncio.run(main())
"""
LET_IN: dict[str, Any] = {"__main__.LetIn": {}}


@contextlib.contextmanager
def mosquitto(folder: Path, extra: str = "") -> Iterator[int]:
    """Run mosquitto; yield its port."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"

    def command(port: int) -> list[str]:
        config = folder / f"mosquitto-{port}.conf"
        config.write_text(MOSQUITTO_CONF.format(port=port) + extra)
        return [program, "-c", str(config)]

    with _process(command) as (port, _):
        yield port


@contextlib.contextmanager
def stock_amqtt(plugins: dict[str, Any] = LET_IN, listener: dict[str, Any] | None = None) -> Iterator[int]:
    """Run amqtt as it comes; yield its port."""
    with stock_amqtt_process(plugins, listener) as (port, _):
        yield port


@contextlib.contextmanager
def stock_amqtt_process(
    plugins: dict[str, Any] = LET_IN, listener: dict[str, Any] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run amqtt as it comes; yield its port and its process."""
    options = [json.dumps(plugins), json.dumps(listener or {})]
    with _process(lambda port: [sys.executable, "-P", "-c", STOCK_AMQTT, str(port), *options]) as running:
        yield running


@contextlib.contextmanager
def _process(command: Callable[[int], list[str]]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    for _ in range(5):  # another process may take the free port first
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            command(port), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if _listens(process, port):
            break
        _end(process)
    else:
        raise AssertionError("the broker to compare with did not start")
    try:
        yield port, process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
