"""What vendors' devices publish: whether it comes to those who serve them.

The topics are the devices' own, so nothing is published on them here: a probe would be taken for a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.app.doctor.logins import Login
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.topic_patterns import TopicPattern
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt

LISTEN_S = 5.0
"""As long as a run takes a device's power for current."""
CHANGE = (
    "check that the device is on and logs in as {device}, that its mapping has the right topics, and that "
    "the broker uses the rights of heron-mqtt acl SCENARIO; a device that publishes only when it is "
    "polled, or "
    "only changes, may be silent here"
)


async def examine_vendor_device(
    connect: Callable[[Login], MqttBroker], serving: Sequence[Login], device: str, mapping: DeviceMapping
) -> list[BrokerFinding]:
    """Listen to the power of a vendor's device as each user who may serve it.

    Args:
        connect: Makes a connection of a user.
        serving: The operator, and the device's agent.
        device: Its name, ``MG1/ess``.
        mapping: What it publishes.
    """
    return list(await asyncio.gather(*(_listen(connect, login, device, mapping) for login in serving)))


async def _listen(
    connect: Callable[[Login], MqttBroker], login: Login, device: str, mapping: DeviceMapping
) -> BrokerFinding:
    check = f"topics of {device}, {login.name}"
    wanted = mapping.topics_of("p_mw")
    came = asyncio.Event()
    broker = connect(login)  # for its settings: not connected itself
    async with RawMqtt(broker.options, broker.stats) as raw:
        for topic in wanted:
            raw.subscribe_raw(TopicPattern(topic).filter, lambda *_: came.set())
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):
                await came.wait()
    where = ", ".join(wanted)
    if came.is_set():
        return BrokerFinding(
            check, "go", f"{where} comes; whether setpoints reach the device is not tested here"
        )
    return BrokerFinding(
        check, "note", f"nothing on {where} for {LISTEN_S:g} s", CHANGE.format(device=device)
    )
