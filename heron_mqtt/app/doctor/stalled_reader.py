"""A reader in a process of its own, to be stopped with SIGSTOP: ``python -m`` with its arguments.

It subscribes, reports this on standard output, and prints the number of received messages when a line comes
on standard input. Its settings and login are in its environment, as those of every child of ours.
"""

from __future__ import annotations

import asyncio
import sys

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker


async def _read(url: str, env_id: str, channel: str, token: str) -> None:
    got: set[int] = set()

    def on_message(message: Received) -> None:
        if message.get("boot") == token:
            got.add(message["n"])

    loop = asyncio.get_running_loop()
    ended, lines = asyncio.Event(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with MqttBroker(url, env_id=env_id) as broker:  # the class: doctor examines MQTT brokers
        await broker.subscribe(channel, on_message)
        _say("ready")
        while not ended.is_set():
            if not await lines.readline():
                return
            _say(f"{len(got)} {broker.stats.reconnects}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_read(*sys.argv[1:5]))
