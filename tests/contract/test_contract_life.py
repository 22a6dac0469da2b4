"""Connecting, announcing, closing."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.errors import BrokerClosed
from heron_mqtt.messaging.base import MessageBroker, Received
from support.waiting import until

STATUS = "agents/MG1/status"


async def test_close_is_idempotent(broker: MessageBroker) -> None:
    await broker.subscribe("c", lambda _: None)
    await broker.close()
    await broker.close()
    await asyncio.gather(broker.close(), broker.close())


async def test_a_broker_that_was_never_used_closes(kind) -> None:  # type: ignore[no-untyped-def]
    broker = kind.make()
    await broker.close()
    await broker.close()


async def test_connect_is_idempotent(broker: MessageBroker) -> None:
    await broker.connect()
    await broker.connect()


async def test_after_close_everything_says_closed(full_broker: MessageBroker) -> None:
    await full_broker.close()
    with pytest.raises(BrokerClosed, match="closed"):
        full_broker.publish("c", {})
    with pytest.raises(BrokerClosed, match="closed"):
        full_broker.subscribe("c", lambda _: None)
    with pytest.raises(BrokerClosed, match="closed"):
        await full_broker.consume("c")


async def test_publish_after_close_says_closed(broker: MessageBroker) -> None:
    await broker.close()
    with pytest.raises(BrokerClosed):
        await broker.publish("c", {})


async def test_what_was_published_before_close_is_delivered(full_broker: MessageBroker) -> None:
    got: list[Received] = []
    await full_broker.subscribe("c", got.append)
    deliveries = [full_broker.publish("c", {"i": i}) for i in range(200)]
    await full_broker.close()
    for delivery in deliveries:
        await delivery
    assert full_broker.stats.undelivered == 0


async def test_close_ends_waiting_consumers(full_broker: MessageBroker) -> None:
    consumer = asyncio.ensure_future(full_broker.consume("never"))
    await full_broker.subscribe("other", lambda _: None)
    await asyncio.sleep(0)
    await full_broker.close()
    with pytest.raises((asyncio.CancelledError, BrokerClosed)):
        await asyncio.wait_for(consumer, 5)


async def test_nothing_arrives_after_close(full_broker: MessageBroker) -> None:
    got: list[Received] = []
    await full_broker.subscribe("c", got.append)
    await full_broker.close()
    before = len(got)
    await asyncio.sleep(0.01)
    assert len(got) == before


async def test_no_task_is_left_after_close(kind) -> None:  # type: ignore[no-untyped-def]
    before = asyncio.all_tasks()
    async with kind.make() as broker:
        await broker.subscribe("c", lambda _: None)
        announcement = await broker.announce(STATUS, {"state": "online"}, {"state": "offline"})
        await announcement.update({"state": "online", "episode": 2})
        await broker.publish("c", {})
    await until(lambda: asyncio.all_tasks() == before, "the end of the broker's tasks")


async def test_an_announcement_says_online_then_offline(broker: MessageBroker) -> None:
    got: list[str] = []
    await broker.subscribe(STATUS, lambda m: got.append(m["state"]))
    announcement = await broker.announce(STATUS, {"state": "online"}, {"state": "offline"})
    await until(lambda: got == ["online"])
    await announcement.update({"state": "fault"})
    await until(lambda: got == ["online", "fault"])
    await announcement.withdraw()
    await announcement.withdraw()
    await until(lambda: got == ["online", "fault", "offline"])


async def test_an_announcement_may_end_without_a_last_word(broker: MessageBroker) -> None:
    got: list[str] = []
    end: list[Received] = []
    await broker.subscribe(STATUS, lambda m: got.append(m["state"]))
    announcement = await broker.announce(STATUS, {"state": "online"}, {"state": "offline"})
    await until(lambda: got == ["online"])
    await announcement.withdraw(say_offline=False)
    await broker.subscribe("end", end.append)
    await broker.publish("end", {})
    await until(lambda: end)
    assert got == ["online"]


async def test_an_announcement_is_there_for_late_subscribers(retaining_broker: MessageBroker) -> None:
    got: list[str] = []
    await retaining_broker.announce(STATUS, {"state": "online", "sender": "MG1", "boot": "b", "seq": 0}, {})
    await retaining_broker.subscribe("agents/+/status", lambda m: got.append(m["state"]))
    await until(lambda: got == ["online"])
