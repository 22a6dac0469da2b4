"""Who listens goes on only when the broker has taken every subscription: what is said until then is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from heron_mqtt.agents.inbox import Inbox
from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.field.gateway.stop_signals import StopSignals
from heron_mqtt.messaging.core.subscription import Callback, Subscription
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.messaging.subscription_group import SubscriptionGroup
from support.field_rig import Rig


class SlowBroker(InMemoryBroker):
    """Confirms every subscription but one at once."""

    def __init__(self, slow: int) -> None:
        super().__init__()
        self.channels: list[str] = []
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slow = slow

    def subscribe(self, channel: str, callback: Callback) -> Subscription:
        subscription = super().subscribe(channel, callback)
        if len(self.channels) == self._slow:
            subscription.set_ready(self.confirmed)
        self.channels.append(channel)
        return subscription


def watch(broker: InMemoryBroker) -> EnvironmentWatch:
    return EnvironmentWatch("MG1", broker, "test", lease_s=3.0, on_end=lambda why: None)


def operator(broker: InMemoryBroker) -> Awaitable[None]:
    return SystemOperator("system_operator", ["MG1", "MG2"], broker, env_id="test").start()


def inbox(broker: InMemoryBroker) -> Awaitable[None]:
    return Inbox("MG1", "system_operator", ["MG2"], "test", broker, Wakeup(), watch(broker)).open()


def device_link(broker: InMemoryBroker) -> Awaitable[None]:
    return DeviceLink("MG1", "ess", broker, lease_s=3.0, on_change=lambda: None).open()


def stop_signals(broker: InMemoryBroker) -> Awaitable[None]:
    return StopSignals("MG1", broker, MessageStamper("MG1", "test"), "test", lambda: None).open()


def environment_watch(broker: InMemoryBroker) -> Awaitable[None]:
    return watch(broker).open()


def authority_manager(broker: InMemoryBroker) -> Awaitable[None]:
    rig = Rig()
    rig.gateway.authority._subscriptions = SubscriptionGroup(broker)
    return rig.gateway.authority.open()


def gateway(broker: InMemoryBroker) -> Awaitable[None]:
    rig = Rig()
    for part in (rig.gateway.authority, rig.gateway.environment, rig.gateway._stop, rig.link):
        part._subscriptions = SubscriptionGroup(broker)  # type: ignore[attr-defined]
    return rig.gateway.open()


# Who listens, and to how many channels.
LISTENERS: list[tuple[Callable[[InMemoryBroker], Awaitable[None]], int]] = [
    (operator, 6),
    (inbox, 5),
    (device_link, 2),
    (stop_signals, 1),
    (environment_watch, 2),
    (authority_manager, 3),
    (gateway, 8),
]


@pytest.mark.parametrize(
    ("listens", "slow"),
    [
        pytest.param(listens, slow, id=f"{listens.__name__}-{slow}")
        for listens, count in LISTENERS
        for slow in range(count)
    ],
)
async def test_it_waits_for_each_of_its_subscriptions(
    listens: Callable[[InMemoryBroker], Awaitable[None]], slow: int
) -> None:
    broker = SlowBroker(slow)
    opened = asyncio.ensure_future(listens(broker))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not opened.done(), f"{broker.channels[slow]} is not confirmed"
    broker.confirmed.set_result(None)
    await asyncio.wait_for(opened, 5.0)


@pytest.mark.parametrize(("listens", "count"), LISTENERS, ids=lambda value: getattr(value, "__name__", ""))
async def test_these_are_all_of_its_subscriptions(
    listens: Callable[[InMemoryBroker], Awaitable[None]], count: int
) -> None:
    broker = SlowBroker(slow=-1)
    await listens(broker)
    assert len(broker.channels) == count, broker.channels
