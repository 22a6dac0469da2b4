"""Several hosts in one URL: are they one broker, so that programs at different ones hear each other?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from heron_mqtt.app.broker_probe import arrives
from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.stamping import new_boot

CHANNEL = "run/probe"
ACKNOWLEDGED_S = 5.0
CHANGE = (
    "make them one broker (a cluster that keeps retained messages on every node: config/nats), or name one "
    "host in the URL"
)


def host_of(place: MqttOptions) -> str:
    """Return host and port of one of several, for people."""
    return f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"


async def examine_hosts(connects: Sequence[Callable[[], MqttBroker]]) -> list[BrokerFinding]:
    """Publish at each host, retained, and see that every other host has it: live, by name, by wildcard.

    A program that loses its host goes to the next one and stays there. Where a stop that is pressed at one
    host is not known at another, those who are there do not hear it.

    Args:
        connects: Make a connection to each host, as one who may publish and read everything.
    """
    findings: list[BrokerFinding] = []
    async with AsyncExitStack() as stack:
        there: list[MqttBroker] = []
        for connect in connects:
            broker = connect()
            try:
                there.append(await stack.enter_async_context(broker))
            except BrokerError as exc:
                why = f"cannot replace the others: {exc}"
                findings.append(BrokerFinding(f"host {host_of(broker.options)}", "note", why))
        for one in there:
            others = [other for other in there if other is not one]
            if others:
                findings.append(await _seen_from(one, others))
    return findings


async def _seen_from(one: MqttBroker, others: Sequence[MqttBroker]) -> BrokerFinding:
    """Return whether what is published at one host is heard, and found later, at the others."""
    check = f"host {host_of(one.options)}"
    missing: list[str] = []
    for other in others:
        boot, where = new_boot(), host_of(other.options)

        async def publish(boot: str = boot) -> None:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                await one.publish(CHANNEL, {"type": "probe", "boot": boot}, retain=True)

        try:
            if not await arrives(other, CHANNEL, CHANNEL, boot, retained=False, cause=publish):
                missing.append(f"{where} does not receive what is published here")
            elif not await arrives(other, CHANNEL, CHANNEL, boot, retained=True):
                missing.append(f"{where} has no retained message of it by its name")
            elif not await arrives(other, "run/+", CHANNEL, boot, retained=True):
                missing.append(f"{where} has no retained message of it by a wildcard")
        finally:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                await one.publish(CHANNEL, {}, retain=True)
    if missing:
        what = f"{'; '.join(missing)}: a stop that is pressed here is not known there"
        return BrokerFinding(check, "no-go", what, CHANGE)
    return BrokerFinding(
        check, "go", "what is published here is received, and found later, at every other host"
    )
