"""A fault of an emulator."""

from __future__ import annotations

import asyncio

from heron_mqtt.app.operator_client.environments import find_environment
from heron_mqtt.app.operator_client.requests import Person, split_device
from heron_mqtt.errors import NotReady
from heron_mqtt.messages import Fault
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import MessageStamper

PASSED_ON_S = 3.0


async def inject_fault(url: str, env_id: str | None, device: str, fault: Fault, person: Person) -> None:
    """Tell the emulator ``AGENT/DEVICE`` to misbehave, and wait until the broker has passed that on.

    An emulator does not answer, and a broker that denies a message often acknowledges it: it is read back.

    Raises:
        ConfigError: ``device`` is not AGENT/DEVICE.
        NotReady: The broker has not passed it on, or it is not clear which environment is meant.
        BrokerError: The broker is not there or refuses.
    """
    agent, name = split_device(device)
    env_id = await find_environment(url, env_id)
    stamper = MessageStamper(person.sender, env_id)
    channel = topics.device(agent, name, "fault")
    has_come = asyncio.Event()

    async with MqttBroker(url, env_id=env_id) as broker:  # the class: errors name the topic

        def on_fault(message: Received) -> None:
            if message.get("boot") == stamper.boot:
                has_come.set()

        await broker.subscribe(channel, on_fault)
        await broker.publish(channel, stamper.stamp(channel, fault))
        try:
            async with asyncio.timeout(PASSED_ON_S):
                await has_come.wait()
        except TimeoutError:
            topic = broker.topic_of(channel)
            raise NotReady(
                f"the broker has not delivered the fault for {device} within {PASSED_ON_S:g} s: may this "
                f"user publish on {topic} and read it?"
            ) from None
