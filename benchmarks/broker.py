"""The embedded broker beside amqtt as it comes and mosquitto, in one interleaved run.

    python benchmarks/broker.py [--rounds 5] [--json]

Each broker is a process of its own; one client process on bare sockets loads them in turn, round after
round, so that whatever else the machine does hits all of them. Trust the ratios, not the times.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.program_arguments import ProgramArguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PAYLOAD = bytes(281)  # an observation of the three-microgrid scenario
WINDOW = 50
STOCK = """
import asyncio, logging, sys, warnings
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
class LetIn(BaseAuthPlugin):
    async def authenticate(self, *, session): return True
async def main():
    listener = {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1]}
    await Broker({"listeners": {"default": listener}, "plugins": {"__main__.LetIn": {}}}).start()
    await asyncio.Event().wait()
asyncio.run(main())
"""
MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
log_dest none
"""


def encode(first: int, body: bytes) -> bytes:
    """Encode a packet of less than 16 KiB."""
    length = len(body)
    return bytes((first, length) if length < 128 else (first, length & 0x7F | 0x80, length >> 7)) + body


def text(value: str) -> bytes:
    """Encode a string."""
    return len(value).to_bytes(2, "big") + value.encode()


class Client(asyncio.Protocol):
    """The leanest client that acknowledges what it gets."""

    def __init__(self) -> None:
        self.received = 0
        self.acknowledged = 0
        self.changed = asyncio.Event()
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        pos, acks = 0, b""
        while len(data) - pos >= 2:
            length, body = data[pos + 1], pos + 2
            if length & 0x80:
                if len(data) - pos < 3:
                    break
                length, body = length & 0x7F | data[pos + 2] << 7, pos + 3
            if body + length > len(data):
                break
            first = data[pos]
            if first >> 4 == 3:
                self.received += 1
                if first & 0x06:
                    topic_end = body + 2 + (data[body] << 8 | data[body + 1])
                    acks += b"\x40\x02" + data[topic_end : topic_end + 2]
            else:
                self.acknowledged += 1
            pos = body + length
        self._rest = data[pos:]
        if acks:
            self.transport.write(acks)
        self.changed.set()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for a condition, checked whenever bytes come."""
        while not done():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 60)

    def publish(self, topic: str, qos: int, number: int = 0) -> None:
        """Send one message."""
        packet_id = (number % 65_535 + 1).to_bytes(2, "big") if qos else b""
        self.transport.write(encode(0x30 | qos << 1, text(topic) + packet_id + PAYLOAD))


@contextlib.asynccontextmanager
async def client(port: int, *filters: tuple[str, int]) -> AsyncIterator[Client]:
    """Connect and subscribe."""
    _, made = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    made.transport.write(encode(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(f"b{os.urandom(6).hex()}")))
    await made.until(lambda: made.acknowledged == 1)
    for topic_filter, qos in filters:
        made.transport.write(encode(0x82, b"\0\1" + text(topic_filter) + bytes((qos,))))
    await made.until(lambda: made.acknowledged == 1 + len(filters))
    made.acknowledged = 0
    try:
        yield made
    finally:
        made.transport.abort()


async def round_trip_ms(port: int, qos: int, count: int = 300) -> tuple[float, float]:
    """Return median and p99 of a message to another client and its answer."""
    times: list[float] = []
    async with client(port, ("there", qos)) as there, client(port, ("back", qos)) as back:
        for number in range(count):
            began_s = time.perf_counter()
            back.publish("there", qos, number)
            await there.until(lambda: there.received == number + 1)  # noqa: B023
            there.publish("back", qos, number)
            await back.until(lambda: back.received == number + 1)  # noqa: B023
            times.append((time.perf_counter() - began_s) * 1e3)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


async def one_way(port: int, pid: int, qos: int, count: int = 6_000) -> tuple[float, float]:
    """Return messages a second, and broker CPU in microseconds a message, at full speed."""
    async with client(port, ("rate", qos)) as reader, client(port) as writer:
        cpu_s, began_s = cpu_time_s(pid), time.perf_counter()
        for number in range(count):
            writer.publish("rate", qos, number)
            if number % WINDOW == WINDOW - 1:
                await reader.until(lambda: reader.received >= number - 2 * WINDOW)  # noqa: B023
        await reader.until(lambda: reader.received >= count)
        took_s = time.perf_counter() - began_s
        if qos:
            await writer.until(lambda: writer.acknowledged >= count)
        return count / took_s, (cpu_time_s(pid) - cpu_s) / count * 1e6


async def fan_out(port: int, pid: int, readers: int = 100, count: int = 30) -> tuple[float, float]:
    """Return deliveries a second, and broker CPU in microseconds a delivery, from one client to a hundred."""
    async with contextlib.AsyncExitStack() as stack:
        everyone = [await stack.enter_async_context(client(port, ("all", 1))) for _ in range(readers)]
        writer = await stack.enter_async_context(client(port))
        cpu_s, began_s = cpu_time_s(pid), time.perf_counter()
        for number in range(count):
            writer.publish("all", 1, number)
            for reader in everyone:
                await reader.until(lambda: reader.received >= number + 1)  # noqa: B023
        took_s = time.perf_counter() - began_s
        return readers * count / took_s, (cpu_time_s(pid) - cpu_s) / (readers * count) * 1e6


def cpu_time_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def process(command: Callable[[int], list[str]]) -> Iterator[tuple[int, int]]:
    """Run a broker on a free port; yield its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    child = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.02)
        yield port, child.pid
    finally:
        child.kill()
        child.wait()


async def measure(port: int, pid: int) -> dict[str, float]:
    """Measure one broker once."""
    found: dict[str, float] = {}
    for qos in (0, 1):
        (
            found[f"round trip QoS {qos}, median ms"],
            found[f"round trip QoS {qos}, p99 ms"],
        ) = await round_trip_ms(port, qos)
        found[f"one way QoS {qos}, messages/s"], found[f"one way QoS {qos}, CPU us"] = await one_way(
            port, pid, qos
        )
    found["fan-out to 100 QoS 1, deliveries/s"], found["fan-out to 100 QoS 1, CPU us"] = await fan_out(
        port, pid
    )
    return found


async def main(rounds: int) -> dict[str, dict[str, float]]:
    """Run all brokers side by side; return the median of each figure."""
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(EmbeddedBroker())
        assert ours.pid is not None
        targets = {"embedded": (ours.port, ours.pid)}
        targets["amqtt"] = stack.enter_context(process(lambda port: [sys.executable, "-c", STOCK, str(port)]))
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is not None:
            config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "mosquitto.conf"

            def command(port: int) -> list[str]:
                config.write_text(MOSQUITTO.format(port=port))
                return [program, "-c", str(config)]

            targets["mosquitto"] = stack.enter_context(process(command))
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
        for _ in range(rounds):
            for name, (port, pid) in targets.items():
                samples[name].append(await measure(port, pid))
        return {
            name: {figure: statistics.median(one[figure] for one in taken) for figure in taken[0]}
            for name, taken in samples.items()
        }


if __name__ == "__main__":
    parser = ProgramArguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    results = asyncio.run(main(arguments.rounds))
    if arguments.json:
        print(json.dumps(results))
    else:
        print(f"{'':36}" + "".join(f"{name:>12}" for name in results) + "   embedded/amqtt")
        for figure in results["embedded"]:
            row = "".join(f"{results[name][figure]:12,.2f}" for name in results)
            print(f"{figure:36}{row}{results['embedded'][figure] / results['amqtt'][figure]:17.2f}")
