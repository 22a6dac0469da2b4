"""What is published arrives: once, whole, in order, at everyone who wants it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.subscription import MAX_QUEUE
from support.waiting import until

STRANGE = ["a/b", "a+b", "#", "+", "50%", "%2F", "MG 1", "Süd/Netz", "$SYS", "a\tb", "x" * 200]


async def test_messages_of_a_publisher_arrive_in_order(broker: MessageBroker) -> None:
    got: list[int] = []
    n = 1_500
    await broker.subscribe("agents/MG1/action", lambda m: got.append(m["seq"]))
    for i in range(n):
        delivery = broker.publish("agents/MG1/action", {"sender": "MG1", "boot": "b", "seq": i})
        if i % 500 == 499:
            await delivery
    await until(lambda: len(got) >= n, "all messages")
    assert got == list(range(n))
    assert broker.stats.lost == broker.stats.duplicated == broker.stats.overflowed == 0


async def test_a_burst_without_waiting_arrives_whole_and_in_order(full_broker: MessageBroker) -> None:
    got: list[int] = []
    await full_broker.subscribe("burst", lambda m: got.append(m["i"]))
    n = 2 * MAX_QUEUE
    for i in range(n):
        full_broker.publish("burst", {"i": i})
    await until(lambda: len(got) >= n, "all messages")
    assert got == list(range(n))


async def test_publish_may_be_awaited_or_ignored(broker: MessageBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("control", got.append)
    broker.publish("control", {"setpoint": 1.0})
    assert await broker.publish("control", {"setpoint": 2.0}) is None
    await until(lambda: len(got) == 2)
    assert got == [{"setpoint": 1.0}, {"setpoint": 2.0}]


async def test_a_message_is_a_plain_dict_that_knows_its_channel(broker: MessageBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("p2p/MG1/MG2", got.append)
    await broker.publish("p2p/MG1/MG2", {"type": "offer", "quantity": 0.5, "nested": {"a": [1, None, "ü"]}})
    await until(lambda: got)
    assert got[0] == {"type": "offer", "quantity": 0.5, "nested": {"a": [1, None, "ü"]}}
    assert isinstance(got[0], dict)
    assert got[0].channel == "p2p/MG1/MG2"
    assert got[0].retained is False


async def test_every_subscriber_gets_a_broadcast_and_one_consumer_beside_them(broker: MessageBroker) -> None:
    first: list[Received] = []
    second: list[Received] = []
    await broker.subscribe("price", first.append)
    await broker.subscribe("price", second.append)
    await broker.publish("price", {"value": 55.0})
    assert await asyncio.wait_for(broker.consume("price"), 5) == {"value": 55.0}
    await until(lambda: first and second)
    assert first == second == [{"value": 55.0}]


async def test_the_documented_order_of_calls_works(broker: MessageBroker) -> None:
    got: list[Received] = []
    broker.subscribe("control", callback=got.append)
    broker.publish("control", {"setpoint": 1.0})
    await broker.publish("control", {"setpoint": 1.0})
    message = await asyncio.wait_for(broker.consume("control"), 5)
    assert message == {"setpoint": 1.0}
    await until(lambda: len(got) == 2)


async def test_consumers_take_turns_and_each_message_goes_to_one(broker: MessageBroker) -> None:
    waiting = [asyncio.ensure_future(broker.consume("work")) for _ in range(3)]
    await asyncio.sleep(0)
    await broker.subscribe("work", lambda _: None)  # so that a distant broker knows of the consumers
    for i in range(3):
        await broker.publish("work", {"i": i})
    done = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert sorted(m["i"] for m in done) == [0, 1, 2]


async def test_consume_returns_the_oldest_first(broker: MessageBroker) -> None:
    await broker.subscribe("work", lambda _: None)
    for i in range(5):
        await broker.publish("work", {"i": i})
    assert [(await asyncio.wait_for(broker.consume("work"), 5))["i"] for _ in range(5)] == list(range(5))


async def test_a_consumer_that_gives_up_loses_no_message(broker: MessageBroker) -> None:
    await broker.subscribe("work", lambda _: None)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.consume("work"), 0.001)
    await broker.publish("work", {"i": 1})
    assert await asyncio.wait_for(broker.consume("work"), 5) == {"i": 1}


async def test_nothing_arrives_after_unsubscribing(broker: MessageBroker) -> None:
    kept: list[Received] = []
    ended: list[Received] = []
    subscription = await broker.subscribe("price", ended.append)
    await broker.subscribe("price", kept.append)
    await broker.publish("price", {"i": 1})
    await until(lambda: kept and ended)
    subscription()
    subscription()
    await broker.publish("price", {"i": 2})
    await until(lambda: len(kept) == 2)
    assert ended == [{"i": 1}]


async def test_subscribing_again_after_unsubscribing_works(broker: MessageBroker) -> None:
    got: list[Received] = []
    for _ in range(3):
        (await broker.subscribe("price", lambda _: None))()
    await broker.subscribe("price", got.append)
    await broker.publish("price", {"i": 1})
    await until(lambda: got)
    assert got == [{"i": 1}]


async def test_any_identifier_comes_back_unchanged(broker: MessageBroker) -> None:
    for identifier in STRANGE:
        got: list[Received] = []
        channel = topics.agent(identifier, "action")
        await broker.subscribe(channel, got.append)
        await broker.publish(channel, {"sender": identifier})
        await until(lambda got=got: got)
        assert topics.levels(got[0].channel) == ["agents", identifier, "action"]
        assert got[0]["sender"] == identifier


async def test_what_arrives_is_a_copy(broker: MessageBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("copy", got.append)
    message: dict[str, Any] = {"list": [1, 2], "tuple": (3, 4)}
    delivery = broker.publish("copy", message)
    message["list"].append(99)
    await delivery
    await until(lambda: got)
    assert got[0] == {"list": [1, 2], "tuple": [3, 4]}


async def test_what_is_no_json_object_is_refused_at_the_door(broker: MessageBroker) -> None:
    wrong: list[Any] = [{"p_mw": float("nan")}, {"p_mw": [float("inf")]}, {"x": object()}]
    wrong += [{"x": {1, 2}.__iter__}, [1], "text", None]
    for message in wrong:
        with pytest.raises(MessageError):  # noqa: PT012 - says what was taken
            await broker.publish("bad", message)
            pytest.fail(f"taken: {message!r}")


async def test_what_is_no_channel_is_refused_at_the_door(broker: MessageBroker) -> None:
    for channel in ("", "agents/+/action", "agents/#", "a\0b", "a\nb", "\ud800", "x" * 66_000):
        with pytest.raises(ValueError, match=r"channel|Unicode"):  # noqa: PT012 - says what was taken
            broker.publish(channel, {})
            pytest.fail(f"taken: {channel[:20]!r}")


async def test_counts_add_up(broker: MessageBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("count", got.append)
    for i in range(10):
        await broker.publish("count", {"i": i})
    await until(lambda: len(got) == 10)
    counts = broker.stats.counts()
    assert counts["published"] == counts["received"] == 10
    assert not any(v for k, v in counts.items() if k not in {"published", "received"})
