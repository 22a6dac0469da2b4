"""Duplicates are removed and gaps counted, by (sender, boot, channel, seq)."""

from __future__ import annotations

from collections.abc import Iterable

from heron_mqtt.messaging.base import MessageBroker, Received
from support.waiting import until


async def _send(
    broker: MessageBroker, numbers: Iterable[int], *, boot: str = "b1", channel: str = "c"
) -> None:
    for seq in numbers:
        await broker.publish(channel, {"sender": "MG1", "boot": boot, "seq": seq})


async def _heard(broker: MessageBroker, channel: str = "c") -> list[int]:
    got: list[int] = []
    await broker.subscribe(channel, lambda m: got.append(m["seq"]))
    return got


async def test_a_duplicate_is_delivered_once_and_counted(broker: MessageBroker) -> None:
    got = await _heard(broker)
    await _send(broker, [0, 1, 1, 0, 2, 2, 3])
    await until(lambda: 3 in got)
    assert got == [0, 1, 2, 3]
    assert broker.stats.duplicated == 3
    assert broker.stats.lost == 0


async def test_a_gap_is_counted_and_reported(broker: MessageBroker) -> None:
    got = await _heard(broker)
    await _send(broker, [0, 1, 5])
    await until(lambda: 5 in got)
    assert got == [0, 1, 5]
    assert broker.stats.lost == 3
    assert [(r.kind, r.where) for r in broker.stats.reports] == [("gap", "c")]


async def test_a_late_message_fills_its_gap(broker: MessageBroker) -> None:
    got = await _heard(broker)
    await _send(broker, [0, 3, 1, 2, 1, 4])
    await until(lambda: 4 in got)
    assert got == [0, 3, 1, 2, 4]
    assert broker.stats.lost == 0
    assert broker.stats.duplicated == 1


async def test_a_sender_that_starts_again_leaves_no_gap(broker: MessageBroker) -> None:
    got = await _heard(broker)
    await _send(broker, [7, 8], boot="b1")
    await _send(broker, [0, 1], boot="b2")
    await until(lambda: len(got) == 4)
    assert got == [7, 8, 0, 1]
    assert broker.stats.lost == broker.stats.duplicated == 0


async def test_numbers_are_counted_for_each_channel_by_itself(broker: MessageBroker) -> None:
    one, two = await _heard(broker, "one"), await _heard(broker, "two")
    await _send(broker, [0, 1], channel="one")
    await _send(broker, [0, 1], channel="two")
    await until(lambda: len(one) == len(two) == 2)
    assert broker.stats.lost == broker.stats.duplicated == 0


async def test_messages_without_metadata_are_never_taken_for_duplicates(broker: MessageBroker) -> None:
    got: list[Received] = []
    await broker.subscribe("vendor", got.append)
    for _ in range(3):
        await broker.publish("vendor", {"power": 1.0})
    await until(lambda: len(got) == 3)
    assert broker.stats.duplicated == 0
