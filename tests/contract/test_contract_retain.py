"""Filters with wildcards, and retained messages; a broker that cannot carry them says so."""

from __future__ import annotations

import pytest

from heron_mqtt.errors import UnsupportedFeature
from heron_mqtt.messaging.base import MessageBroker, Received
from support.waiting import until

PRICE = "operators/op/price"


async def test_a_broker_without_a_feature_raises_instead_of_dropping_it(broker: MessageBroker) -> None:
    name = type(broker).__name__
    if broker.features.wildcards:
        await broker.subscribe("agents/+/action", lambda _: None)
    else:
        with pytest.raises(UnsupportedFeature, match=rf"{name}.*agents/\+/action"):
            broker.subscribe("agents/+/action", lambda _: None)
    if broker.features.retain:
        await broker.publish(PRICE, {"value": 1.0}, retain=True)
    else:
        with pytest.raises(UnsupportedFeature, match=rf"{name}.*'retain'"):
            broker.publish(PRICE, {"value": 1.0}, retain=True)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("agents/+/action", {"agents/MG1/action", "agents/MG2/action"}),
        ("agents/#", {"agents", "agents/MG1/action", "agents/MG2/action", "agents/MG1/status"}),
        ("+/MG1/+", {"agents/MG1/action", "agents/MG1/status", "p2p/MG1/MG2"}),
        ("#", {"agents", "agents/MG1/action", "agents/MG2/action", "agents/MG1/status", "p2p/MG1/MG2"}),
        ("agents/MG1/action", {"agents/MG1/action"}),
    ],
)
async def test_a_filter_brings_exactly_what_it_matches(
    full_broker: MessageBroker, pattern: str, expected: set[str]
) -> None:
    got: list[str] = []
    await full_broker.subscribe(pattern, lambda m: got.append(m.channel))
    last: list[Received] = []
    await full_broker.subscribe("end", last.append)
    for channel in ["agents", "agents/MG1/action", "agents/MG2/action", "agents/MG1/status", "p2p/MG1/MG2"]:
        await full_broker.publish(channel, {"on": channel})
    await full_broker.publish("end", {})
    # channels keep no order between them everywhere
    await until(lambda: last and len([c for c in got if c != "end"]) >= len(expected))
    assert sorted(c for c in got if c != "end") == sorted(expected)


async def test_what_is_no_filter_is_refused(full_broker: MessageBroker) -> None:
    for pattern in ("a+", "a/b#", "#/a", "a/#/b", "", "+a/b"):
        with pytest.raises(ValueError, match=r"filter|channel"):  # noqa: PT012 - says what was taken
            full_broker.subscribe(pattern, lambda _: None)
            pytest.fail(f"taken: {pattern}")


@pytest.mark.parametrize("order", [1, -1], ids=["wide-last", "wide-first"])
async def test_overlapping_filters_deliver_once_to_each_subscription(
    full_broker: MessageBroker, order: int
) -> None:
    wide: list[Received] = []
    narrow: list[Received] = []
    exact: list[Received] = []
    last: list[Received] = []
    filters = {"agents/MG1/action": exact, "agents/+/action": narrow, "agents/#": wide}
    for pattern, got in list(filters.items())[::order]:
        await full_broker.subscribe(pattern, got.append)
    await full_broker.subscribe("end", last.append)
    for i in range(3):
        await full_broker.publish("agents/MG1/action", {"i": i})  # nothing in it to recognise a copy by
    await full_broker.publish("end", {})
    await until(lambda: last)
    assert wide == narrow == exact == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert full_broker.stats.duplicated == 0


async def test_narrow_filters_go_on_when_the_wide_one_ends(full_broker: MessageBroker) -> None:
    exact: list[Received] = []
    wide = await full_broker.subscribe("agents/#", lambda _: None)
    await full_broker.subscribe("agents/MG1/action", exact.append)
    await full_broker.subscribe("agents/MG2/action", exact.append)
    wide()
    await full_broker.publish("agents/MG1/action", {"i": 1})
    await full_broker.publish("agents/MG2/action", {"i": 2})
    await until(lambda: len(exact) == 2)


async def test_a_late_subscriber_gets_the_last_retained_message(retaining_broker: MessageBroker) -> None:
    for value in (1.0, 2.0, 3.0):
        await retaining_broker.publish(PRICE, {"value": value}, retain=True)
    await retaining_broker.publish("operators/op/other", {"value": 9.0})
    got: list[Received] = []
    await retaining_broker.subscribe(PRICE, got.append)
    await until(lambda: got)
    assert got == [{"value": 3.0}]
    assert got[0].retained is True


async def test_what_is_heard_of_a_retained_message_may_be_answered_by_another(
    retaining_broker: MessageBroker,
) -> None:
    got: list[Received] = []

    def answer(message: Received) -> None:
        got.append(message)
        if len(got) == 1:
            retaining_broker.publish("operators/op/answer", {"value": 1.0}, retain=True)

    await retaining_broker.publish(PRICE, {"value": 3.0}, retain=True)
    await retaining_broker.publish("operators/op/other", {"value": 9.0}, retain=True)
    await retaining_broker.subscribe(PRICE, answer)
    await until(lambda: got)
    late: list[Received] = []
    await retaining_broker.subscribe("operators/op/answer", late.append)
    await until(lambda: late)
    assert late == [{"value": 1.0}]


async def test_retained_messages_come_through_filters(retaining_broker: MessageBroker) -> None:
    for agent in ("MG1", "MG2"):
        await retaining_broker.publish(
            f"agents/{agent}/status", {"state": "online", "who": agent}, retain=True
        )
    got: list[Received] = []
    await retaining_broker.subscribe("agents/+/status", got.append)
    await until(lambda: len(got) == 2)
    assert {m["who"] for m in got} == {"MG1", "MG2"}


@pytest.mark.parametrize("metadata", [{}, {"sender": "op", "boot": "b", "seq": 4}], ids=["foreign", "ours"])
async def test_a_late_subscriber_does_not_make_earlier_ones_hear_it_again(
    retaining_broker: MessageBroker, metadata: dict[str, object]
) -> None:
    early: list[Received] = []
    late: list[Received] = []
    await retaining_broker.subscribe(PRICE, early.append)
    await retaining_broker.publish(PRICE, {"value": 1.0, **metadata}, retain=True)
    await until(lambda: early)
    await retaining_broker.subscribe(PRICE, late.append)
    latest: list[Received] = []
    await retaining_broker.subscribe("operators/#", latest.append)
    await until(lambda: late and latest)
    assert early == late == latest == [{"value": 1.0, **metadata}]
    assert early[0].retained is False
    assert late[0].retained is True
    await retaining_broker.publish(PRICE, {"value": 2.0})
    await until(lambda: len(early) == 2)
    assert retaining_broker.stats.duplicated == 0


async def test_an_empty_retained_object_deletes_and_is_delivered(retaining_broker: MessageBroker) -> None:
    early: list[Received] = []
    late: list[Received] = []
    await retaining_broker.subscribe(PRICE, early.append)
    await retaining_broker.publish(PRICE, {"value": 1.0}, retain=True)
    await retaining_broker.publish(PRICE, {}, retain=True)
    await until(lambda: len(early) == 2)
    assert early == [{"value": 1.0}, {}]
    await retaining_broker.subscribe("operators/+/price", late.append)
    await retaining_broker.publish(PRICE, {"value": 3.0})
    await until(lambda: late)
    assert late == [{"value": 3.0}]


async def test_what_is_not_retained_is_not_replayed(full_broker: MessageBroker) -> None:
    got: list[Received] = []
    await full_broker.publish("agents/MG1/action", {"i": 1})
    await full_broker.subscribe("agents/MG1/action", got.append)
    await full_broker.publish("agents/MG1/action", {"i": 2})
    await until(lambda: got)
    assert got == [{"i": 2}]
