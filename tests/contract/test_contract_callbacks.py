"""Callbacks: plain and async, failing, slow, and meddling with the broker that calls them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.subscription import MAX_QUEUE
from support.waiting import until


async def test_a_failing_callback_is_reported_with_its_traceback_and_stops_nothing(
    broker: MessageBroker, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[Received] = []

    def fails(message: Received) -> None:
        raise RuntimeError(f"cannot handle {message['i']}")

    await broker.subscribe("c", fails)
    await broker.subscribe("c", got.append)
    with caplog.at_level(logging.WARNING):
        for i in range(3):
            await broker.publish("c", {"i": i})
        await until(lambda: len(got) == 3)
    assert broker.stats.callback_errors == 3
    assert [r.kind for r in broker.stats.reports] == ["callback"] * 3
    assert "cannot handle 0" in broker.stats.reports[0].what
    traced = [r for r in caplog.records if r.exc_info]
    assert len(traced) == 3
    assert "in fails" in caplog.text


async def test_a_failing_async_callback_is_reported_and_stops_nothing(broker: MessageBroker) -> None:
    got: list[int] = []

    async def fails_at_first(message: Received) -> None:
        await asyncio.sleep(0)
        got.append(message["i"])
        if message["i"] == 0:
            raise RuntimeError("no")

    await broker.subscribe("c", fails_at_first)
    for i in range(3):
        await broker.publish("c", {"i": i})
    await until(lambda: len(got) == 3)
    assert broker.stats.callback_errors == 1


async def test_async_callbacks_run_in_order_and_one_at_a_time(broker: MessageBroker) -> None:
    log: list[tuple[str, int]] = []

    async def slow(message: Received) -> None:
        log.append(("begin", message["i"]))
        await asyncio.sleep(0.001 if message["i"] % 2 else 0)
        log.append(("end", message["i"]))

    await broker.subscribe("c", slow)
    for i in range(50):
        await broker.publish("c", {"i": i})
    await until(lambda: len(log) == 100)
    assert log == [(what, i) for i in range(50) for what in ("begin", "end")]


async def test_an_object_with_an_async_call_is_an_async_callback(broker: MessageBroker) -> None:
    class Handler:
        def __init__(self) -> None:
            self.got: list[Received] = []

        async def __call__(self, message: Received) -> None:
            await asyncio.sleep(0)
            self.got.append(message)

    handler = Handler()
    await broker.subscribe("c", handler)
    await broker.publish("c", {"i": 1})
    await until(lambda: handler.got)


async def test_a_slow_async_callback_drops_the_oldest_and_says_so(broker: MessageBroker) -> None:
    got: list[int] = []
    begun, go = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    async def stuck(message: Received) -> None:
        begun.set()
        await go.wait()
        got.append(message["i"])

    await broker.subscribe("c", stuck)
    await broker.subscribe("c", lambda m: seen.append(m["i"]))
    n = MAX_QUEUE + 10
    await broker.publish("c", {"i": 0})
    await begun.wait()
    for i in range(1, n):
        delivery = broker.publish("c", {"i": i})
        if i % 100 == 99:
            await delivery
    await until(lambda: len(seen) == n)
    go.set()
    await until(lambda: got and got[-1] == n - 1)
    # the first one is in the callback's hands; of the others the newest MAX_QUEUE are kept
    assert got == [0, *range(n - MAX_QUEUE, n)]
    assert broker.stats.overflowed == n - 1 - MAX_QUEUE
    assert {r.kind for r in broker.stats.reports} == {"overflow"}
    assert seen == list(range(n))


async def test_a_callback_may_publish_and_subscribe(broker: MessageBroker) -> None:
    answers: list[Received] = []

    def answer(message: Received) -> None:
        broker.subscribe(f"answer/{message['i']}", answers.append)
        broker.publish(f"answer/{message['i']}", {"to": message["i"]})

    await broker.subscribe("question", answer)
    for i in range(5):
        await broker.publish("question", {"i": i})
    await until(lambda: len(answers) == 5)
    assert sorted(m["to"] for m in answers) == list(range(5))


async def test_a_callback_may_unsubscribe_itself(broker: MessageBroker) -> None:
    got: list[Received] = []
    others: list[Received] = []

    def once(message: Received) -> None:
        got.append(message)
        subscription()

    subscription = broker.subscribe("c", once)
    await subscription
    await broker.subscribe("c", others.append)
    for i in range(3):
        await broker.publish("c", {"i": i})
    await until(lambda: len(others) == 3)
    assert got == [{"i": 0}]
