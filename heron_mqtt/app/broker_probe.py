"""Tries out, on the real broker, what safety depends on: retained messages and the last will.

An emergency stop must reach a device that connects later (retained), and the end of an environment must
reach its gateways (will). A broker may grant both and keep neither: a cluster may keep retained messages
on one node only. So both are tried with messages, over connections of their own, before anything is sent.
A run does this at its start, ``heron-mqtt doctor`` as a part of its examination.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heron_mqtt.errors import BrokerError, BrokerRefused, UnsupportedFeature
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker

ANSWER_S = 2.0  # a broker keeps what it is given at once; a cluster may take a moment
ACKNOWLEDGED_S = 5.0
SUBSCRIBED_S = 10.0  # a cluster that has just lost its leader
DISTURBED_TRIES = 3  # where another one that starts probes the same channel

MakeProbe = Callable[..., MqttBroker]
"""Makes a connection, with one and the same login; takes ``will``."""


class _Gone(Exception):
    """Ends a connection as if its process had died."""


@dataclass(frozen=True, slots=True)
class FeatureProbe:
    """One trial and its result.

    Attributes:
        feature: What was tried.
        problem: The missing function of the broker, and its consequence; None = the function works.
        is_right: It may well do it: this user lacks the right to publish or read there.
    """

    feature: str
    problem: str | None
    is_right: bool = False


async def probe_features(
    broker: MqttBroker, another: MakeProbe, parent: str, boot: str
) -> list[FeatureProbe]:
    """Try retained messages, by name and by wildcard over other connections, and the last will.

    Nothing is left behind at the broker.

    Args:
        broker: Connected.
        another: Makes another connection, with the same login.
        parent: Channel below which we may publish: ``run`` or ``agents/<agent>``.
        boot: Marks our own probes.

    Raises:
        BrokerError: It refuses a connection or a subscription.
    """
    channel, will_channel = f"{parent}/probe", f"{parent}/probe_will"
    probe = {"type": "probe", "boot": boot}
    found = []
    taken, is_disturbed = False, False

    def on_probe(message: Received) -> None:
        nonlocal is_disturbed
        is_disturbed |= message.get("boot") != boot  # another one's, in the place of ours, or its end

    watching = broker.subscribe(channel, on_probe)
    try:
        taken = await _retained(another, channel, probe)
        if taken and (problem := await _rights_problem(another, channel, boot)) is not None:
            features = ("retained by name", "retained by wildcard", "last will")
            return [FeatureProbe(feature, problem, is_right=True) for feature in features]
        for how, wanted in (("by name", channel), ("by wildcard", _wildcard(parent))):
            problem = None
            if not taken:
                problem = (
                    "a retained message is not accepted: the broker ends the connection or does not "
                    "acknowledge "
                    "it, so an emergency stop would not reach a device that connects later"
                )
            else:
                for tries in range(1, DISTURBED_TRIES + 1):
                    async with another() as second:
                        if await arrives(second, wanted, channel, boot, retained=True):
                            break
                    if not is_disturbed or tries == DISTURBED_TRIES:
                        what = "by its name" if how == "by name" else "by a wildcard"
                        problem = (
                            f"a retained message is not found {what} over another connection: an emergency "
                            "stop would not reach a device that connects later"
                        )
                        break
                    is_disturbed = False
                    await _retained(another, channel, probe)
            found.append(FeatureProbe(f"retained {how}", problem))
        found.append(FeatureProbe("last will", await _will_problem(broker, another, will_channel, boot)))
    finally:
        watching()
        if taken:
            await _retained(another, channel, {})
            await _retained(another, will_channel, {})
    return found


async def require_broker_features(
    broker: MqttBroker,
    another: MakeProbe,
    parent: str,
    boot: str,
    *,
    accept_limits: bool,
    note: Callable[[str], None],
) -> None:
    """Probe a broker, and refuse it if a function is missing.

    Raises:
        UnsupportedFeature: Names what it does not do, unless ``accept_limits``.
        BrokerError: It refuses a connection or a subscription, or drops what we publish.
    """
    probes = await probe_features(broker, another, parent, boot)
    problems = list(dict.fromkeys(probe.problem for probe in probes if probe.problem is not None))
    if not problems:
        return
    where = broker.options.address
    if probes[0].is_right:
        raise BrokerRefused(f"{where}: {problems[0]}")
    if not accept_limits:
        raise UnsupportedFeature(
            f"{where}: {'; '.join(problems)}. Use another broker, or accept this with --accept-broker-limits"
        )
    for problem in problems:
        note(f"WARNING {where}: {problem} (accepted)")


async def arrives(
    broker: MqttBroker,
    wanted: str,
    channel: str,
    boot: str,
    *,
    retained: bool,
    cause: Callable[[], Awaitable[None]] | None = None,
) -> bool:
    """Return whether our probe on ``channel`` comes to a subscription to ``wanted``.

    Args:
        broker: Subscribes.
        wanted: Channel or filter.
        channel: Of the probe.
        boot: Marks our own probes.
        retained: Whether it must come as a retained message.
        cause: Has it published, once the subscription is in force; in a cluster that takes a moment.

    Raises:
        BrokerRefused: The subscription is not granted.
    """
    arrived = asyncio.Event()

    def on_message(message: Received) -> None:
        if message.channel == channel and message.get("boot") == boot and message.retained >= retained:
            arrived.set()

    subscription = broker.subscribe(wanted, on_message)
    try:
        async with asyncio.timeout(SUBSCRIBED_S):
            await subscription
        if cause is not None:
            await cause()
        async with asyncio.timeout(ANSWER_S):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        subscription()
    return True


async def _rights_problem(another: MakeProbe, channel: str, boot: str) -> str | None:
    """Return that our messages do not even come live: MQTT 3.1.1 acknowledges what an access list drops."""
    async with another() as sender, another() as reader:

        async def publish() -> None:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                await sender.publish(channel, {"type": "probe", "boot": boot}, retain=True)

        if await arrives(reader, channel, channel, boot, retained=False, cause=publish):
            return None
        user = f"user {sender.options.username!r}" if sender.options.username else "a client without a login"
        topic = sender.topic_of(channel)
    return (
        f"what {user} publishes on {topic} is acknowledged, but does not arrive at subscribers: may this "
        "user publish and read there? heron-mqtt acl names the rights"
    )


def _wildcard(parent: str) -> str:
    """Return a filter with a wildcard that brings our probe, and that its publisher may subscribe to."""
    return f"{parent}/+" if "/" not in parent else f"{parent.split('/', maxsplit=1)[0]}/+/probe"


async def _retained(another: MakeProbe, channel: str, message: Mapping[str, Any]) -> bool:
    """Publish a retained message; return whether it was acknowledged.

    Over a connection of its own: where the broker ends the connection because of it, it would be sent
    again and again, and nothing else would be.
    """
    async with another() as own:
        try:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                await own.publish(channel, message, retain=True)
        except (TimeoutError, BrokerError):
            return False
    return True


async def _will_problem(broker: MqttBroker, another: MakeProbe, channel: str, boot: str) -> str | None:
    try:
        if await _will_arrives(broker, another, channel, boot):
            return None
        why = "is not published when its connection dies"
    except BrokerError as exc:
        why = f"is not taken ({exc})"
    return f"a last will {why}: devices and agents would not notice that the environment has ended"


async def _will_arrives(broker: MqttBroker, another: MakeProbe, channel: str, boot: str) -> bool:
    will: dict[str, Any] = {"type": "probe", "boot": boot}

    async def die() -> None:
        with contextlib.suppress(_Gone):
            async with another(will=(channel, will)):
                raise _Gone

    return await arrives(broker, channel, channel, boot, retained=False, cause=die)
