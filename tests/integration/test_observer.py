"""What watches a broker gets each message once."""

from __future__ import annotations

import asyncio

from heron_mqtt.app.operator_client.observer import Heard, Observer
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker


async def test_what_the_broker_has_kept_comes_once() -> None:
    heard: list[Heard] = []
    async with EmbeddedBroker(in_process=True) as server, MqttBroker(server.url, env_id="lab") as broker:
        for channel in ("run/state", "agents/MG1/status"):
            await broker.publish(channel, {"type": "status", "state": "online"}, retain=True)
        observer = Observer(server.url, "lab", ("#", "agents/MG1/status"), heard.append)
        async with observer:
            await observer.settle()
            kept = sorted(one.channel for one in heard if one.retained)
            await broker.publish("run/state", {"type": "run"})
            async with asyncio.timeout(5.0):
                while not any(not one.retained for one in heard):
                    await asyncio.sleep(0.01)
    assert kept == ["agents/MG1/status", "run/state"]
    assert [one.channel for one in heard if not one.retained] == ["run/state"]


async def test_a_new_connection_reads_the_same_channels() -> None:
    heard: list[Heard] = []
    first = EmbeddedBroker(in_process=True)
    await first.start()
    async with Observer(first.url, "lab", ("#",), heard.append) as observer:
        await first.close()
        async with EmbeddedBroker(in_process=True, port=first.port) as second:
            async with asyncio.timeout(10.0):
                while not observer.is_connected:
                    await asyncio.sleep(0.02)
            async with MqttBroker(second.url, env_id="lab") as broker:
                async with asyncio.timeout(5.0):
                    while not heard:
                        await broker.publish("run/state", {"type": "run"})
                        await asyncio.sleep(0.02)
    assert heard[0].channel == "run/state"
