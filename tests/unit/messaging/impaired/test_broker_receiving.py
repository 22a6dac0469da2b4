"""ImpairedBroker, seen by those who subscribe and consume; in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.impaired import ImpairedBroker
from support.impaired_broker import outbound, run_impaired
from support.virtual import virtual_now


@pytest.mark.parametrize("direction", ["out", "in"])
def test_copies_are_removed_by_their_number_and_losses_show_as_gaps(direction: str) -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[int] = []
        await broker.subscribe("c", lambda m: got.append(m["seq"]))
        for seq in range(1000):
            await broker.publish("c", {"sender": "MG1", "boot": "b", "seq": seq})
        await asyncio.sleep(10.0)
        counts = broker.record.totals()
        assert got == sorted(set(got))
        assert len(got) == 1000 - counts.lost
        assert counts.lost == broker.stats.lost + (999 - got[-1]) > 50
        assert broker.stats.duplicated == counts.duplicated > 50
        assert broker.stats.received == len(got) + counts.duplicated

    rule = {"direction": direction, "delay_s": 0.1, "loss": 0.1, "duplicate": 0.1}
    run_impaired(test, rules=[rule])


def test_a_copy_without_a_number_is_delivered_as_any_foreign_message() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[Received] = []
        await broker.subscribe("vendor", got.append)
        await broker.publish("vendor", {"power": 1.0})
        assert got == [{"power": 1.0}, {"power": 1.0}]

    run_impaired(test, **outbound(duplicate=1.0))


def test_overlapping_filters_share_one_fate_a_message() -> None:
    async def test(broker: ImpairedBroker) -> None:
        exact: list[int] = []
        wide: list[int] = []
        await broker.subscribe("a/b", lambda m: exact.append(m["i"]))
        await broker.subscribe("a/+", lambda m: wide.append(m["i"]))
        for i in range(200):
            await broker.publish("a/b", {"i": i})
        assert exact == wide
        assert len(exact) == 200 - broker.record.of("in", "a/b").lost < 180

    run_impaired(test, rules=[{"direction": "in", "loss": 0.2}])


def test_ending_the_subscription_that_brings_a_message_neither_doubles_nor_loses_it() -> None:
    async def test(broker: ImpairedBroker) -> None:
        once: list[int] = []
        wide: list[int] = []

        def first(message: Received) -> None:
            once.append(message["i"])
            subscription()

        subscription = await broker.subscribe("c", first)
        await broker.subscribe("#", lambda m: wide.append(m["i"]))
        for i in range(3):
            await broker.publish("c", {"i": i})
            await asyncio.sleep(0)
        assert once == [0]
        assert wide == [0, 1, 2]

    run_impaired(test)


def test_a_retained_message_takes_its_time_to_a_late_subscriber_alone() -> None:
    async def test(broker: ImpairedBroker) -> None:
        early: list[Received] = []
        late: list[tuple[float, bool, Received]] = []
        await broker.subscribe("price", early.append)
        await broker.publish("price", {"value": 1.0}, retain=True)
        await asyncio.sleep(9.0)
        await broker.subscribe("price", lambda m: late.append((virtual_now(), m.retained, m)))
        await asyncio.sleep(9.0)
        assert early == [{"value": 1.0}]
        assert late == [(pytest.approx(9.5), True, {"value": 1.0})]

    run_impaired(test, rules=[{"direction": "in", "delay_s": 0.5}])


def test_nothing_arrives_at_a_subscription_that_ended_while_it_was_on_its_way() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[Received] = []
        subscription = await broker.subscribe("c", got.append)
        broker.publish("c", {})
        subscription()
        await asyncio.sleep(5.0)
        assert got == []

    run_impaired(test, rules=[{"delay_s": 0.5}])


def test_a_consumer_waits_for_the_network() -> None:
    async def test(broker: ImpairedBroker) -> None:
        consumer = asyncio.ensure_future(broker.consume("work"))
        await asyncio.sleep(1.0)
        broker.publish("work", {"i": 1})
        assert await consumer == {"i": 1}
        assert virtual_now() == pytest.approx(2.0)

    run_impaired(test, rules=[{"delay_s": 0.5}])
