"""A broker of two methods: what it is given to send goes out in time or not at all, and is counted."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from heron_mqtt.errors import BrokerClosed, MessageExpired, UnsupportedFeature
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.core.two_method_adapter import TwoMethodAdapter, adapter_of, awaited_or_ignored
from support.virtual import run_virtual, virtual_now


class Slow:
    """A broker whose sending takes a while, or fails."""

    def __init__(self, takes_s: float = 0.0, failure: Exception | None = None) -> None:
        self.takes_s, self.failure = takes_s, failure
        self.sent: list[str] = []

    async def consume(self, channel: str) -> dict[str, Any]:
        raise AssertionError(channel)

    async def send(self, channel: str) -> None:
        await asyncio.sleep(self.takes_s)
        if self.failure is not None:
            raise self.failure
        self.sent.append(channel)


def counts(stats: MessageStats) -> tuple[int, int, int]:
    return stats.published, stats.expired, stats.undelivered


async def test_what_has_time_is_sent_and_what_has_none_is_not() -> None:
    broker = Slow()
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    now_s = asyncio.get_running_loop().time()
    await adapter.publish("always", broker.send("always"))
    await adapter.publish("in time", broker.send("in time"), now_s + 60.0)
    with pytest.raises(MessageExpired, match="its time had passed"):
        await adapter.publish("late", broker.send("late"), now_s - 1.0)
    assert broker.sent == ["always", "in time"]
    assert counts(adapter.dispatcher.stats) == (3, 1, 0)


async def test_what_takes_too_long_is_given_up() -> None:
    broker = Slow(takes_s=60.0)
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    with pytest.raises(MessageExpired, match="it was not sent in time"):
        await adapter.publish("slow", broker.send("slow"), asyncio.get_running_loop().time() + 0.3)
    assert broker.sent == []
    assert counts(adapter.dispatcher.stats) == (1, 1, 0)


@pytest.mark.parametrize("failure", [ConnectionError("gone"), TimeoutError("its own")])
async def test_a_failure_of_its_own_is_no_expiry(failure: Exception) -> None:
    broker = Slow(failure=failure)
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    with pytest.raises(type(failure)):
        await adapter.publish("x", broker.send("x"), asyncio.get_running_loop().time() + 60.0)
    assert counts(adapter.dispatcher.stats) == (0, 0, 1)


async def test_what_a_thread_without_a_loop_publishes_is_sent_in_the_adapters_and_its_outcome_told() -> None:
    broker = Slow()
    failing = Slow(failure=ConnectionError("gone"))
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    adapter.loop()  # this one

    async def outcome(sending: Any) -> None:
        await adapter.publish("elsewhere", sending)

    def thread() -> None:
        asyncio.run(outcome(broker.send("elsewhere")))
        with pytest.raises(ConnectionError, match="gone"):
            asyncio.run(outcome(failing.send("elsewhere")))

    await asyncio.to_thread(thread)
    assert broker.sent == ["elsewhere"]
    assert counts(adapter.dispatcher.stats) == (1, 0, 1)


async def test_who_ignores_a_delivery_from_another_thread_has_it_sent_all_the_same() -> None:
    broker = Slow()
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    adapter.loop()
    await asyncio.to_thread(lambda: adapter.publish("ignored", broker.send("ignored")))
    async with asyncio.timeout(5.0):
        while not broker.sent:
            await asyncio.sleep(0.001)
    assert broker.sent == ["ignored"]


async def test_closing_waits_for_what_is_being_sent_and_takes_nothing_more() -> None:
    broker = Slow(takes_s=0.02)
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    adapter.publish("on its way", broker.send("on its way"))
    await adapter.close()
    assert broker.sent == ["on its way"]
    late = broker.send("late")
    with pytest.raises(BrokerClosed, match="Slow is closed; nothing more can be published"):
        adapter.publish("late", late)
    assert inspect.getcoroutinestate(late) == inspect.CORO_CLOSED
    assert broker.sent == ["on its way"]


async def test_what_a_thread_begins_may_be_waited_for_in_the_adapters_loop() -> None:
    broker = Slow()
    adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
    adapter.loop()  # this one
    async with asyncio.timeout(5.0):
        await (await asyncio.to_thread(adapter.publish, "elsewhere", broker.send("elsewhere")))
    assert broker.sent == ["elsewhere"]


def test_a_broker_that_is_down_is_asked_again_ten_times_a_second_and_each_failure_is_named() -> None:
    class Down:
        """Fails twice, then has a message."""

        def __init__(self) -> None:
            self.asked_at: list[float] = []

        async def consume(self, channel: str) -> dict[str, Any]:
            self.asked_at.append(virtual_now())
            if len(self.asked_at) < 3:
                raise ConnectionError("gone")
            await asyncio.sleep(0.5)
            return {"i": len(self.asked_at)}

    async def main() -> None:
        broker = Down()
        adapter = TwoMethodAdapter(broker)  # type: ignore[arg-type]
        got: list[Any] = []
        begun_s = virtual_now()
        subscription = adapter.dispatcher.add("c", got.append)
        for _ in range(2):
            adapter.start("c")
        adapter.start("nobody asked for it")
        await asyncio.sleep(0.8)
        assert [at - begun_s for at in broker.asked_at] == pytest.approx([0.0, 0.1, 0.2, 0.7])
        assert got == [{"i": 3}]
        reports = [(report.kind, report.where, report.what) for report in adapter.dispatcher.stats.reports]
        assert reports == [("connection", "c", "consume failed: gone")] * 2
        subscription()
        await asyncio.sleep(5.0)
        assert len(broker.asked_at) == 4, "nobody wants it any more"
        adapter.dispatcher.add("c", got.append)
        adapter.start("c")
        await asyncio.sleep(0.1)
        assert len(broker.asked_at) == 5
        await adapter.close()

    run_virtual(main())


class Plain:
    """A broker whose ``publish`` takes what its signature says."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, ...]] = []

    async def consume(self, channel: str) -> dict[str, Any]:
        raise AssertionError(channel)

    @awaited_or_ignored
    async def publish(self, channel: str, message: Any, *, retain: bool = False) -> None:
        self.got.append((channel, message, retain))

    @awaited_or_ignored
    async def any_options(self, channel: str, message: Any, **options: Any) -> None:
        self.got.append((channel, message, options))

    @awaited_or_ignored
    async def timed(self, channel: str, message: Any, *, not_after: float | None = None) -> None:
        self.got.append((channel, message, not_after))


async def test_what_a_broker_cannot_carry_is_refused_by_its_name_and_the_rest_handed_on() -> None:
    broker = Plain()
    now_s = asyncio.get_running_loop().time()
    await broker.publish("c", {"i": (1, 2)}, retain=True, not_after=now_s + 60.0)
    assert broker.got == [("c", {"i": [1, 2]}, True)], "as JSON has it"
    with pytest.raises(
        UnsupportedFeature, match=r"Plain\.publish takes no 'qos': this broker cannot carry it"
    ):
        broker.publish("c", {}, qos=1)
    with pytest.raises(ValueError, match="#"):
        broker.publish("a/#", {})
    await broker.any_options("c", {}, qos=1, not_after=now_s + 60.0)
    assert broker.got[-1] == ("c", {}, {"qos": 1}), "the limit is kept by the adapter"
    await broker.timed("c", {}, not_after=now_s + 60.0)
    assert broker.got[-1] == ("c", {}, now_s + 60.0), "it knows of limits itself"
    with pytest.raises(MessageExpired):
        await broker.timed("c", {}, not_after=now_s - 1.0)
    shown = [inspect.signature(getattr(Plain, name)).parameters for name in ("publish", "timed")]
    assert all("not_after" in parameters for parameters in shown)
    assert "not_after" not in inspect.signature(Plain.any_options).parameters


async def test_a_broker_has_one_adapter_made_at_first_use() -> None:
    broker = Plain()
    assert adapter_of(broker) is adapter_of(broker)
    assert adapter_of(Plain()) is not adapter_of(broker)
    assert adapter_of(broker).loop() is asyncio.get_running_loop()
