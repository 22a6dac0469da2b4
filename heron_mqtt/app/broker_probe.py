"""Tries out, on the real broker, what safety depends on: retained messages and the last will.

An emergency stop must reach a device that connects later (retained), and the end of an environment must
reach its gateways (will). A broker may grant both and keep neither: a cluster may keep retained messages
on one node only. So both are tried with messages, over two connections, before anything is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from heron_mqtt.errors import BrokerError, UnsupportedFeature
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker

ANSWER_S = 2.0  # a broker keeps what it is given at once; a cluster may take a moment


class _Gone(Exception):
    """Ends a connection as if its process had died."""


async def probe_broker(
    broker: MqttBroker, another: Callable[..., MqttBroker], parent: str, boot: str
) -> list[str]:
    """Return what the broker does not do although safety depends on it, one line each.

    Args:
        broker: Connected.
        another: Makes another connection, with the same login; takes ``will``.
        parent: Channel below which we may publish: ``run`` or ``agents/<agent>``.
        boot: Marks our own probes.
    """
    channel, will_channel = f"{parent}/probe", f"{parent}/probe_will"
    problems = []
    await broker.publish(channel, {"type": "probe", "boot": boot}, retain=True)
    try:
        for what, wanted in (("by its name", channel), ("by a wildcard", _wildcard(parent))):
            async with another() as second:
                if not await _arrives(second, wanted, channel, boot, retained=True):
                    problems.append(
                        f"a retained message is not found {what} over another connection: an emergency stop "
                        "would not reach a device that connects later"
                    )
        if not await _will_arrives(broker, another, will_channel, boot):
            problems.append(
                "a last will is not published when its connection dies: devices and agents would not be "
                "told that the environment is gone"
            )
    finally:
        await broker.publish(channel, {}, retain=True)
        await broker.publish(will_channel, {}, retain=True)
    return problems


async def require_broker_features(
    broker: MqttBroker,
    another: Callable[..., MqttBroker],
    parent: str,
    boot: str,
    *,
    accept_limits: bool,
    note: Callable[[str], None],
) -> None:
    """Probe a broker, and refuse it for what it does not do.

    Raises:
        UnsupportedFeature: Names what it does not do, unless ``accept_limits``.
        BrokerError: It refuses a connection or a subscription.
    """
    problems = await probe_broker(broker, another, parent, boot)
    if not problems:
        return
    where = broker.options.address
    if not accept_limits:
        raise UnsupportedFeature(
            f"{where}: {'; '.join(problems)}. Use another broker, or accept this with --accept-broker-limits"
        )
    for problem in problems:
        note(f"WARNING {where}: {problem} (accepted)")


def _wildcard(parent: str) -> str:
    """Return a filter with a wildcard that brings our probe, and that its publisher may subscribe to."""
    return f"{parent}/+" if "/" not in parent else f"{parent.split('/', maxsplit=1)[0]}/+/probe"


async def _arrives(broker: MqttBroker, wanted: str, channel: str, boot: str, *, retained: bool) -> bool:
    """Whether our probe comes to a subscription."""
    arrived = asyncio.Event()

    def on_message(message: Received) -> None:
        if message.channel == channel and message.get("boot") == boot and message.retained >= retained:
            arrived.set()

    subscription = broker.subscribe(wanted, on_message)
    try:
        async with asyncio.timeout(ANSWER_S):
            await subscription
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        subscription()
    return True


async def _will_arrives(
    broker: MqttBroker, another: Callable[..., MqttBroker], channel: str, boot: str
) -> bool:
    will: dict[str, Any] = {"type": "probe", "boot": boot}
    waiting = asyncio.create_task(
        _arrives(broker, channel, channel, boot, retained=False), name="probe of the last will"
    )
    await asyncio.sleep(0)  # it subscribes first
    try:
        async with another(will=(channel, will)):
            raise _Gone
    except _Gone:
        pass
    except BrokerError:
        waiting.cancel()
        raise
    return await waiting
