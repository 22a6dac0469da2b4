"""Used from any thread and any event loop, in any order, started or not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.background_loop import background_loop, run_sync
from support.waiting import until


def _until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def _in_thread(function: Callable[[], Any]) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join(10)
    assert result, "the thread did not finish"
    return result[0]


@pytest.fixture
def unstarted(full_kind):  # type: ignore[no-untyped-def]
    """A broker that is never connected; made and used outside of any event loop."""
    broker = full_kind.make()
    yield broker
    run_sync(broker.close())


@pytest.fixture
def unstarted_retaining(retaining_kind):  # type: ignore[no-untyped-def]
    """The same, of those that keep retained messages."""
    broker = retaining_kind.make()
    yield broker
    run_sync(broker.close())


def test_synchronous_code_subscribes_and_publishes_without_connecting(unstarted: MessageBroker) -> None:
    got: list[Received] = []
    unstarted.subscribe("control", callback=got.append)
    unstarted.publish("control", {"setpoint": 1.0})
    _until(lambda: got)
    assert got == [{"setpoint": 1.0}]


def test_synchronous_code_may_publish_first(unstarted_retaining: MessageBroker) -> None:
    got: list[Received] = []
    unstarted_retaining.publish("control", {"setpoint": 1.0}, retain=True)
    unstarted_retaining.subscribe("control", callback=got.append)
    _until(lambda: got)
    assert got == [{"setpoint": 1.0}]


def test_synchronous_code_keeps_its_order(unstarted: MessageBroker) -> None:
    got: list[int] = []
    unstarted.subscribe("c", lambda m: got.append(m["i"]))
    for i in range(1_000):
        unstarted.publish("c", {"i": i})
    _until(lambda: len(got) == 1_000)
    assert got == list(range(1_000))


def test_an_async_callback_of_synchronous_code_runs(unstarted: MessageBroker) -> None:
    got: list[Received] = []

    async def callback(message: Received) -> None:
        await asyncio.sleep(0)
        got.append(message)

    unstarted.subscribe("c", callback)
    unstarted.publish("c", {"i": 1})
    _until(lambda: got)


@pytest.mark.parametrize("first", ["subscribe", "publish", "consume", "await publish"])
def test_asynchronous_code_works_without_connecting(unstarted: MessageBroker, first: str) -> None:
    async def run() -> None:
        got: list[Received] = []
        consumer = None
        if first == "subscribe":
            broker_subscription = unstarted.subscribe("control", got.append)
            await broker_subscription
        elif first == "publish":
            unstarted.publish("other", {})
        elif first == "await publish":
            await unstarted.publish("other", {})
        consumer = asyncio.ensure_future(unstarted.consume("control"))
        await unstarted.subscribe("control", got.append)
        await unstarted.publish("control", {"setpoint": 1.0})
        assert await asyncio.wait_for(consumer, 5) == {"setpoint": 1.0}
        await until(lambda: got)

    asyncio.run(run())


def test_one_broker_serves_one_event_loop_after_another(unstarted: MessageBroker) -> None:
    async def run(i: int) -> None:
        got: list[Received] = []
        subscription = await unstarted.subscribe("c", got.append)
        await unstarted.publish("c", {"i": i})
        await until(lambda: got)
        assert got == [{"i": i}]
        subscription()

    for i in range(3):
        asyncio.run(run(i))


async def test_callbacks_run_in_the_loop_that_subscribed(full_broker: MessageBroker) -> None:
    here: list[threading.Thread] = []
    there: list[threading.Thread] = []

    async def elsewhere() -> None:
        await full_broker.subscribe("c", lambda _: there.append(threading.current_thread()))

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(elsewhere(), background_loop()))
    await full_broker.subscribe("c", lambda _: here.append(threading.current_thread()))
    await full_broker.publish("c", {})
    await until(lambda: here and there)
    assert here == [threading.current_thread()]
    assert there[0].name == "heron-background-loop"


async def test_a_thread_publishes_in_order(full_broker: MessageBroker) -> None:
    got: list[int] = []
    await full_broker.subscribe("c", lambda m: got.append(m["i"]))

    def publish() -> bool:
        for i in range(500):
            full_broker.publish("c", {"i": i})
        return True

    assert await asyncio.to_thread(publish)
    await until(lambda: len(got) == 500)
    assert got == list(range(500))


async def test_another_loop_awaits_delivery_and_consumes(full_broker: MessageBroker) -> None:
    async def elsewhere() -> dict[str, Any]:
        consumer = asyncio.ensure_future(full_broker.consume("c"))
        await full_broker.subscribe("c", lambda _: None)
        await full_broker.publish("c", {"i": 1})
        return await asyncio.wait_for(consumer, 5)

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == {"i": 1}


async def test_another_loop_announces_and_withdraws(full_broker: MessageBroker) -> None:
    got: list[str] = []
    await full_broker.subscribe("agents/MG1/status", lambda m: got.append(m["state"]))

    async def elsewhere() -> None:
        announcement = await full_broker.announce(
            "agents/MG1/status", {"state": "online"}, {"state": "offline"}
        )
        await announcement.withdraw()

    await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    await until(lambda: got == ["online", "offline"])


async def test_a_subscriber_whose_loop_has_ended_is_reported_and_dropped(full_broker: MessageBroker) -> None:
    got: list[Received] = []

    async def elsewhere() -> None:
        await full_broker.subscribe("c", lambda _: None)

    await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    await full_broker.subscribe("c", got.append)
    for _ in range(2):
        await full_broker.publish("c", {})
    await until(lambda: len(got) == 2)
    assert [r.kind for r in full_broker.stats.reports] == ["callback"]


async def test_another_thread_may_close(full_broker: MessageBroker) -> None:
    await full_broker.subscribe("c", lambda _: None)
    await asyncio.to_thread(lambda: asyncio.run(full_broker.close()))
    await full_broker.close()


def test_a_thread_may_unsubscribe(unstarted: MessageBroker) -> None:
    got: list[Received] = []
    kept: list[Received] = []
    subscription = unstarted.subscribe("c", got.append)
    unstarted.subscribe("c", kept.append)
    assert _in_thread(lambda: subscription() is None)
    unstarted.publish("c", {})
    _until(lambda: kept)
    assert got == []
