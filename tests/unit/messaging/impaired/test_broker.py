"""ImpairedBroker: what its users see of the network; in virtual time, so that nothing is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from heron_mqtt.errors import (
    BrokerClosed,
    BrokerOverflow,
    BrokerUnavailable,
    MessageError,
    UnsupportedFeature,
)
from heron_mqtt.messaging.base import Features, MessageBroker, Received
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from support.impaired_broker import impaired, outbound, run_impaired
from support.virtual import run_virtual, virtual_now

STATUS = "agents/MG1/status"


class TwoMethods(MessageBroker):
    """A user's own; ``fails`` lets every publish fail."""

    def __init__(self) -> None:
        self.fails = False
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def publish(self, channel: str, message: Mapping[str, Any]) -> None:  # type: ignore[override]
        if self.fails:
            raise BrokerUnavailable("nobody is there")
        await self.queue.put(dict(message))

    async def consume(self, channel: str) -> dict[str, Any]:
        return await self.queue.get()


# -- what a sender sees --------------------------------------------------------------------------------


def test_a_delayed_publish_is_done_when_the_broker_has_it() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[tuple[float, int]] = []
        await broker.subscribe("c", lambda m: got.append((virtual_now(), m["i"])))
        delivery = broker.publish("c", {"i": 1})
        assert broker.in_flight == 1
        await delivery
        assert virtual_now() == pytest.approx(0.5)
        assert got == [(pytest.approx(0.5), 1)]

    run_impaired(test, **outbound(delay_s=0.5))


def test_a_lost_publish_is_done_too_because_its_sender_cannot_know() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[Received] = []
        await broker.subscribe("c", got.append)
        await broker.publish("c", {"i": 1})
        assert got == []
        assert broker.stats.published == 1
        assert broker.stats.undelivered == 0
        assert broker.record.of("out", "c").lost == 1

    run_impaired(test, **outbound(loss=1.0))


def test_a_message_within_one_process_crosses_the_network_twice() -> None:
    async def test(broker: ImpairedBroker) -> None:
        await broker.subscribe("c", lambda _: times.append(virtual_now()))
        await broker.publish("c", {})
        await asyncio.sleep(5.0)

    times: list[float] = []
    run_impaired(test, rules=[{"delay_s": 0.5}])
    assert times == [pytest.approx(1.0)]


def test_what_is_done_to_a_message_after_publishing_it_does_not_matter() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[Received] = []
        await broker.subscribe("c", got.append)
        message = {"list": [1]}
        delivery = broker.publish("c", message)
        message["list"].append(2)
        await delivery
        assert got == [{"list": [1]}]

    run_impaired(test, **outbound(delay_s=0.5))


@pytest.mark.parametrize("rule", [{"loss": 1.0}, {"delay_s": 1.0}])
def test_what_is_no_message_or_channel_is_refused_even_if_it_would_be_lost(rule: dict[str, Any]) -> None:
    async def test(broker: ImpairedBroker) -> None:
        with pytest.raises(MessageError):
            broker.publish("c", {"p_mw": float("nan")})
        with pytest.raises(ValueError, match="wildcard"):
            broker.publish("c/#", {})

    run_impaired(test, **outbound(**rule))


def test_the_inner_brokers_failure_reaches_the_sender_through_the_delay() -> None:
    async def test(broker: ImpairedBroker) -> None:
        with pytest.raises(BrokerUnavailable, match="nobody is there"):
            await broker.publish("c", {})
        broker.publish("c", {})  # not awaited: counted and reported all the same
        await asyncio.sleep(2.0)
        assert broker.stats.undelivered == 2
        assert [report.kind for report in broker.stats.reports] == ["delivery", "delivery"]

    inner = TwoMethods()
    inner.fails = True
    run_impaired(test, impaired(inner, **outbound(delay_s=0.5)))


def test_an_overflow_is_reported_and_fails_the_oldest_delivery() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[int] = []
        await broker.subscribe("c", lambda m: got.append(m["i"]))
        deliveries = [broker.publish("c", {"i": i}) for i in range(4)]
        with pytest.raises(BrokerOverflow, match="more than 3 messages on their way"):
            await deliveries[0]
        for delivery in deliveries[1:]:
            await delivery
        assert got == [1, 2, 3]
        assert broker.stats.overflowed == 1
        assert [(r.kind, r.where) for r in broker.stats.reports] == [("overflow", "c")]

    run_impaired(test, max_in_flight=3, **outbound(delay_s=1.0))


# -- presence, end, the broker inside --------------------------------------------------------------------


def test_a_presence_is_late_but_never_lost_and_keeps_its_place() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[tuple[float, str]] = []
        await broker.subscribe(STATUS, lambda m: got.append((round(virtual_now(), 6), m["state"])))
        presence = await broker.announce(STATUS, {"state": "online"}, {"state": "offline"})
        broker.publish(STATUS, {"state": "lost"})
        await presence.update({"state": "fault"})
        await presence.withdraw()
        await presence.withdraw()
        assert got == [(0.5, "online"), (1.0, "fault"), (1.5, "offline")]

    run_impaired(
        test,
        **outbound(delay_s=0.5, loss=1.0, duplicate=1.0),
        partitions=[{"direction": "out", "begin_s": 0.0, "end_s": 99.0}],
    )


def test_after_the_end_a_presence_is_as_the_inner_broker_leaves_it() -> None:
    async def test(broker: ImpairedBroker) -> None:
        presence = await broker.announce(STATUS, {"state": "online"}, {"state": "offline"})
        await broker.close()
        with pytest.raises(BrokerClosed):
            await presence.withdraw()

    run_impaired(test)


def test_at_the_end_published_messages_are_handed_over_and_incoming_ones_dropped() -> None:
    async def main() -> None:
        inner = InMemoryBroker()
        outside: list[int] = []
        inside: list[int] = []
        await inner.subscribe("c", lambda m: outside.append(m["i"]))
        broker = impaired(inner, rules=[{"delay_s": 1.0}])
        await broker.connect()
        await broker.subscribe("d", lambda m: inside.append(m["i"]))
        inner.publish("d", {"i": 0})
        deliveries = [broker.publish("c", {"i": i}) for i in range(3)]
        await broker.close()
        for delivery in deliveries:
            await delivery
        assert virtual_now() == 0.0
        assert (outside, inside) == ([0, 1, 2], [])
        assert broker.in_flight == 0
        assert broker.record.totals().abandoned == 1
        await asyncio.sleep(5.0)
        assert inside == []

    run_virtual(main())


def test_left_by_an_exception_it_says_so_to_the_inner_broker() -> None:
    class Remembers(InMemoryBroker):
        left_by: object = None

        async def __aexit__(self, *exc: object) -> None:
            self.left_by = exc[0]
            await super().__aexit__(*exc)

    inner = Remembers()

    async def test(broker: ImpairedBroker) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_impaired(test, impaired(inner))
    assert inner.left_by is RuntimeError


def test_what_waits_for_the_end_of_a_partition_fails_at_the_end() -> None:
    async def test(broker: ImpairedBroker) -> None:
        delivery = broker.publish("c", {})
        await broker.close()
        with pytest.raises(BrokerClosed, match="on c was on its way"):
            await delivery

    run_impaired(test, partitions=[{"begin_s": 0.0, "end_s": 99.0, "hold": True}])


def test_it_offers_what_the_inner_broker_offers_and_refuses_the_rest_by_its_name() -> None:
    assert impaired().features == Features(wildcards=True, retain=True)
    broker = impaired(TwoMethods())
    assert broker.features == Features()
    with pytest.raises(UnsupportedFeature, match="TwoMethods cannot subscribe to the filter 'a/#'"):
        broker.subscribe("a/#", lambda _: None)
    with pytest.raises(UnsupportedFeature, match=r"TwoMethods.publish takes no 'retain'"):
        broker.publish("a", {}, retain=True)
    with pytest.raises(UnsupportedFeature, match=r"InMemoryBroker.publish takes no 'qos'"):
        impaired().publish("a", {}, qos=1)


def test_reports_of_the_inner_broker_appear_outside() -> None:
    async def test(broker: ImpairedBroker) -> None:
        heard: list[str] = []
        broker.stats.listeners.append(lambda report: heard.append(report.kind))
        broker.inner.stats.reject("heron/x/c", "not JSON")
        broker.reject(Received({}, "c"), ValueError("not a price"))
        assert broker.stats.rejected == 2
        assert heard == ["rejected", "rejected"]
        assert broker.inner.stats.rejected == 1

    run_impaired(test)


def test_the_step_may_be_told() -> None:
    async def test(broker: ImpairedBroker) -> None:
        got: list[int] = []
        await broker.subscribe("vendor", lambda m: got.append(m["i"]))
        for step in (1, 2, 3):
            broker.tell_step(step)
            await broker.publish("vendor", {"i": step})
        assert got == [1, 3]

    run_impaired(test, partitions=[{"begin_step": 2, "end_step": 3}])
