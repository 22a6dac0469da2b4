"""A program that publishes numbered telemetry until it is asked to end: ``python -m ...publisher URL ENV``.

Prints each number before it is published; at SIGTERM, once everything has left or failed, a JSON object:
numbers whose delivery failed, and the counters of its connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import signal
import sys
from typing import Any

from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.base import Delivery, MessageBroker
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.program_arguments import ProgramArguments

CHANNEL = "devices/MG1/ess/telemetry"
LAST = 3
"""Messages at the end that no impairment touches: what is lost before them leaves a gap."""
LEAVE_S = 10.0
"""How long what is under way may take at the end."""


async def main(arguments: argparse.Namespace) -> None:
    """Publish until SIGTERM."""
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    options: dict[str, Any] = {"outbox": arguments.outbox} if arguments.outbox else {}
    inner = open_broker(arguments.url, env_id=arguments.env, **options)
    broker: MessageBroker = inner
    if arguments.loss:
        rules = [{"pattern": "#", "loss": arguments.loss}]
        table = ImpairmentTable.model_validate({"seed": arguments.seed, "rules": rules})
        broker = ImpairedBroker(inner, table)
    async with broker:
        flow = NumberedFlow(broker, arguments.boot)
        while not told_to_end.is_set():
            flow.publish(broker)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(arguments.period):
                    await told_to_end.wait()
        for _ in range(LAST):
            flow.publish(inner)
        await flow.settle()
        outbox = getattr(inner, "outbox", None)
        waits = 0 if outbox is None else outbox.messages
        result = {"failed": sorted(flow.failed), "stats": inner.stats.counts(), "waits": waits}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


class NumberedFlow:
    """Numbers messages, and keeps which of them failed.

    Args:
        broker: Over which most of them go.
        boot: Names this process on the wire.
    """

    def __init__(self, broker: MessageBroker, boot: str) -> None:
        self.failed: set[int] = set()
        self._outbox = getattr(broker, "outbox", None)
        self._boot = boot
        self._next = 0
        self._under_way: dict[asyncio.Future[None], int] = {}

    def publish(self, broker: MessageBroker) -> None:
        """Say the next number, and publish it."""
        number, self._next = self._next, self._next + 1
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        message = {"type": "telemetry", "p_mw": 0.001, "sender": "MG1/ess", "boot": self._boot, "seq": number}
        try:
            delivery = broker.publish(CHANNEL, message)
        except BrokerError:
            self.failed.add(number)
            return
        assert isinstance(delivery, Delivery)
        task = asyncio.ensure_future(self._watch(delivery))
        self._under_way[task] = number
        task.add_done_callback(self._ended)

    async def settle(self) -> None:
        """Wait until everything has left or failed; what is under way after that has failed."""
        end = asyncio.get_running_loop().time() + LEAVE_S
        while (self._under_way or self._waits) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # two conditions, at the end of a test program
        self.failed |= set(self._under_way.values())

    @property
    def _waits(self) -> int:
        return 0 if self._outbox is None else int(self._outbox.messages)

    async def _watch(self, delivery: Delivery) -> None:
        await delivery

    def _ended(self, task: asyncio.Future[None]) -> None:
        number = self._under_way.pop(task)
        if task.cancelled() or task.exception() is not None:
            self.failed.add(number)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ProgramArguments()
    parser.add_argument("url")
    parser.add_argument("env")
    parser.add_argument("--boot", default="first")
    parser.add_argument("--period", type=float, default=0.005, help="s between messages")
    parser.add_argument("--outbox")
    parser.add_argument("--file-limit", type=int, help="bytes that a file may have: a disk that is full")
    parser.add_argument("--loss", type=float, default=0.0, help="part of the messages")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    wanted = parse(sys.argv[1:])
    if wanted.file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails then, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (wanted.file_limit, wanted.file_limit))
    asyncio.run(main(wanted))
