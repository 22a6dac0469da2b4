"""Subscriptions that begin and end together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.errors import UnsupportedFeature
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.subscription_group import SubscriptionGroup
from support.waiting import until


async def test_when_it_is_open_every_channel_is_heard(broker: MessageBroker) -> None:
    got: list[tuple[str, int]] = []
    group = await SubscriptionGroup(broker).open(
        [(f"c{i}", lambda m: got.append((m.channel, m["i"]))) for i in range(5)]
    )
    assert len(group) == 5
    for i in range(5):
        await broker.publish(f"c{i}", {"i": i})
    await until(lambda: len(got) == 5)
    assert sorted(got) == [(f"c{i}", i) for i in range(5)]


async def test_after_closing_nothing_is_heard_and_it_can_be_opened_again(broker: MessageBroker) -> None:
    got: list[Received] = []
    others: list[Received] = []
    await broker.subscribe("c", others.append)
    group = SubscriptionGroup(broker)
    for n in range(2):
        await group.open([("c", got.append), ("d", got.append)])
        await broker.publish("c", {"i": 1})
        await until(lambda n=n: len(got) == len(others) == 2 * n + 1)  # type: ignore[misc]
        group.close()
        group.close()
        assert len(group) == 0
        await broker.publish("c", {"i": 2})
        await until(lambda n=n: len(others) == 2 * n + 2)  # type: ignore[misc]
        got.append(others[-1])  # it was not heard: counted here, so that both are as long
    assert [m["i"] for m in got] == [1, 2, 1, 2]


async def test_leaving_its_block_closes_it(broker: MessageBroker) -> None:
    with await SubscriptionGroup(broker).open([("c", lambda _: None)]) as group:
        assert len(group) == 1
    assert len(group) == 0


class Refusing(MessageBroker):
    """Grants no filters: the base class says so."""

    async def publish(self, channel: str, message: Any) -> None:  # type: ignore[override]
        """Nothing is sent."""

    async def consume(self, channel: str) -> dict[str, Any]:
        await asyncio.sleep(60.0)
        return {}


async def test_if_one_fails_none_is_left() -> None:
    async with Refusing() as broker:
        group = SubscriptionGroup(broker)
        with pytest.raises(UnsupportedFeature):
            await group.open([("c", lambda _: None), ("d/#", lambda _: None)])
        assert len(group) == 0
