"""A broker that delays small packets (mosquitto as it comes): our end gives it no reason to."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt import socket_stream as stream
from support.mosquitto_server import Mosquitto, executable

ROUNDS = 50  # the first dozen packets of a connection are never delayed
DELAYED_S = 0.038  # Linux delays an acknowledgement by 40 ms and more

pytestmark = [
    pytest.mark.skipif(executable() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(stream.QUICKACK is None, reason="only Linux can acknowledge at once"),
]


async def median_round_trip_s(folder: Path) -> float:
    """Return how long a message and its answer take, one at a time."""
    server = Mosquitto(folder, "allow_anonymous true", "set_tcp_nodelay false").start()
    try:
        async with MqttBroker(server.url) as asking, MqttBroker(server.url) as answering:
            arrived: asyncio.Queue[int] = asyncio.Queue()
            await asking.subscribe("back", lambda message: arrived.put_nowait(message["i"]))
            await answering.subscribe("there", lambda message: answering.publish("back", dict(message)))
            took_s = []
            for i in range(ROUNDS):
                began_s = time.monotonic()
                asking.publish("there", {"i": i})
                assert await arrived.get() == i
                took_s.append(time.monotonic() - began_s)
            return statistics.median(took_s)
    finally:
        server.stop()


async def test_no_message_waits_for_a_delayed_acknowledgement(tmp_path: Path) -> None:
    assert await median_round_trip_s(tmp_path) < DELAYED_S


async def test_without_acknowledging_at_once_they_do_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "QUICKACK", None)
    assert await median_round_trip_s(tmp_path) >= DELAYED_S
