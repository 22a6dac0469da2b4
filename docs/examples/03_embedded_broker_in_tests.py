"""The embedded broker in tests of your own: no server to install, no fixed port, gone with the test.

pytest docs/examples/03_embedded_broker_in_tests.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker


@pytest_asyncio.fixture
async def broker_url() -> AsyncIterator[str]:
    """A broker of the test's own, in the test's event loop."""
    async with EmbeddedBroker(in_process=True) as server:
        yield server.url


async def thermostat(url: str) -> None:
    """What is tested here: something of yours that answers over MQTT."""
    async with MqttBroker(url, env_id="lab") as broker:
        while True:
            measured = await broker.consume("room/temperature")
            await broker.publish("room/heater", {"on": measured["celsius"] < 20.0})


@pytest.mark.asyncio
async def test_the_heater_goes_on_when_it_is_cold(broker_url: str) -> None:
    async with MqttBroker(broker_url, env_id="lab") as broker:
        answers: asyncio.Queue[bool] = asyncio.Queue()
        await broker.subscribe("room/heater", lambda message: answers.put_nowait(message["on"]))
        task = asyncio.create_task(thermostat(broker_url))
        while answers.empty():  # until the thermostat has subscribed
            await broker.publish("room/temperature", {"celsius": 17.5})
            await asyncio.sleep(0.01)
        assert await answers.get() is True
        task.cancel()


@pytest.mark.asyncio
async def test_a_late_subscriber_gets_what_was_retained(broker_url: str) -> None:
    async with MqttBroker(broker_url, env_id="lab") as first:
        await first.publish("room/limits", {"celsius_max": 24.0}, retain=True)
    async with MqttBroker(broker_url, env_id="lab") as second:
        limits = await asyncio.wait_for(second.consume("room/limits"), timeout=5.0)
    assert limits == {"celsius_max": 24.0}
