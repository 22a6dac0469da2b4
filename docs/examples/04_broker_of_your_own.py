"""A MessageBroker of one's own, shaped like Kafka: an append-only log a topic, an offset a reader.

    python docs/examples/04_broker_of_your_own.py

``LogBroker`` defines only ``publish`` and ``consume``. ``Log`` stands for the log's client library; the
in-process one here lets the example run without a server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

from heron_mqtt.messaging.base import MessageBroker
from powergrid.envs import MultiAgentMicrogrids


class Log(Protocol):
    """What ``LogBroker`` needs of a log."""

    async def append(self, topic: str, record: bytes) -> None:
        """Add a record; return when the log has taken it."""

    async def read(self, topic: str, offset: int) -> bytes:
        """Return the record at an offset, or wait until there is one."""


class InProcessLog:
    """A log in memory, for one event loop."""

    def __init__(self) -> None:
        self.records: defaultdict[str, list[bytes]] = defaultdict(list)
        self._grown: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def append(self, topic: str, record: bytes) -> None:
        """Add a record and wake the readers."""
        self.records[topic].append(record)
        self._grown[topic].set()

    async def read(self, topic: str, offset: int) -> bytes:
        """Return the record at an offset, or wait until there is one."""
        while len(self.records[topic]) <= offset:
            self._grown[topic].clear()
            await self._grown[topic].wait()
        return self.records[topic][offset]


class LogBroker(MessageBroker):
    """Carries messages over a log; reads each topic from its beginning.

    Args:
        log: The client of the log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._offsets: defaultdict[str, int] = defaultdict(int)

    async def publish(self, channel: str, message: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Append the message to its channel's topic."""
        await self._log.append(topic_of(channel), json.dumps(message).encode())

    async def consume(self, channel: str) -> dict[str, Any]:
        """Return the next message of a channel, or wait for it."""
        topic = topic_of(channel)
        record = await self._log.read(topic, self._offsets[topic])
        self._offsets[topic] += 1
        message: dict[str, Any] = json.loads(record)
        return message


def topic_of(channel: str) -> str:
    """Return a channel as a name of letters, digits, '.', '-' and '_', different for each channel."""
    escaped = re.sub(r"[^A-Za-z0-9/-]", lambda m: "".join(f"_{b:02x}" for b in m[0].encode()), channel)
    return escaped.replace("/", ".")


async def run(steps: int) -> None:
    """Run a whole episode over the log."""
    log = InProcessLog()
    async with LogBroker(log) as broker:
        env = MultiAgentMicrogrids(
            {"centralized": False, "message_broker": broker, "max_episode_steps": steps}
        )
        await env.reset_async(seed=42)
        while env.agents:
            _, rewards, _, _, infos = await env.step_async({})
        print(f"last rewards {rewards}, missed {[info['missed'] for info in infos.values()]}")
        await env.close_async()
    for topic, records in sorted(log.records.items()):
        print(f"{len(records):5} records in {topic}")


def main() -> None:
    """Read the arguments and start."""
    parser = argparse.ArgumentParser(description="A broker of one's own.")
    parser.add_argument("--steps", type=int, default=8)
    asyncio.run(run(parser.parse_args().steps))


if __name__ == "__main__":
    main()
