"""The brokers that ours is compared with: mosquitto, and amqtt as it comes. Each in its own process."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_TIMEOUT_S = 15.0

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

# The default plugins of amqtt less the two that only log; anonymous sessions keep an offline queue only
# with an authentication plugin of one's own, so this is the most that amqtt offers as it comes.
STOCK_AMQTT = """
import asyncio, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
class LetIn(BaseAuthPlugin):
    async def authenticate(self, *, session):
        return session.password != "wrong"
async def main():
    config = {"listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1]}},
              "plugins": {"__main__.LetIn": {}}}
    broker = Broker(config)
    await broker.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextlib.contextmanager
def mosquitto(folder: Path, extra: str = "") -> Iterator[int]:
    """Run mosquitto; yield its port."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"

    def command(port: int) -> list[str]:
        config = folder / f"mosquitto-{port}.conf"
        config.write_text(MOSQUITTO_CONF.format(port=port) + extra)
        return [program, "-c", str(config)]

    with _running(command) as port:
        yield port


@contextlib.contextmanager
def stock_amqtt() -> Iterator[int]:
    """Run amqtt as it comes; yield its port."""
    with _running(lambda port: [sys.executable, "-P", "-c", STOCK_AMQTT, str(port)]) as port:
        yield port


@contextlib.contextmanager
def _running(command: object) -> Iterator[int]:
    for _ in range(5):  # somebody else may take the free port first
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            command(port),  # type: ignore[operator]
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if _listens(process, port):
            break
        process.kill()
        process.wait()
    else:
        raise RuntimeError("the broker to compare with did not start")
    try:
        yield port
    finally:
        process.kill()
        process.wait()


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
