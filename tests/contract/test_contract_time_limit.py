"""``publish(..., not_after=...)``: what has a time limit is sent in time, or not at all and said so."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.errors import MessageExpired
from heron_mqtt.messaging.base import MessageBroker, Received
from support.waiting import until


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def test_a_message_within_its_time_arrives_and_is_acknowledged(broker: MessageBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("c", got.append)
    await broker.publish("c", {"i": 1}, not_after=_now_s() + 5.0)
    broker.publish("c", {"i": 2}, not_after=_now_s() + 5.0)
    await until(lambda: len(got) == 2)
    assert got == [{"i": 1}, {"i": 2}]
    assert broker.stats.expired == 0


async def test_a_message_past_its_time_is_dropped_counted_and_told_to_its_publisher(
    broker: MessageBroker,
) -> None:
    got: list[Received] = []
    await broker.subscribe("c", got.append)
    with pytest.raises(MessageExpired, match="c: "):
        await broker.publish("c", {"i": 1}, not_after=_now_s() - 0.001)
    await broker.publish("c", {"i": 2})
    await until(lambda: got)
    assert got == [{"i": 2}]
    assert broker.stats.expired == 1
    assert broker.stats.published == 2
    assert broker.stats.undelivered == 0
    assert [report.kind for report in broker.stats.reports] == ["expired"]


async def test_nobody_has_to_await_a_message_that_expires(broker: MessageBroker) -> None:
    broker.publish("c", {"i": 1}, not_after=_now_s() - 1.0)
    await until(lambda: broker.stats.expired == 1)


async def test_many_that_expire_are_counted_one_by_one_and_reported_in_few_lines(
    mqtt_broker: MessageBroker,
) -> None:
    for i in range(500):
        mqtt_broker.publish("c", {"i": i}, not_after=_now_s() - 1.0)
    await until(lambda: mqtt_broker.stats.expired == 500)
    assert len(mqtt_broker.stats.reports) == 1


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_it_goes_with_every_quality_of_service(mqtt_broker: MessageBroker, qos: int) -> None:
    got: list[Received] = []
    await mqtt_broker.subscribe("c", got.append)
    await mqtt_broker.publish("c", {"i": 1}, qos=qos, not_after=_now_s() + 5.0)  # type: ignore[call-arg]
    with pytest.raises(MessageExpired):
        await mqtt_broker.publish("c", {"i": 2}, qos=qos, not_after=_now_s() - 1.0)  # type: ignore[call-arg]
    await until(lambda: got)
    assert got == [{"i": 1}]
