"""What brokers promise that other processes can connect to, whatever is spoken there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt.session_broker import SessionBroker
from support.waiting import until

Another = Callable[[], Awaitable[SessionBroker]]


async def test_a_message_that_its_reader_refuses_is_counted(external_broker: SessionBroker) -> None:
    await external_broker.subscribe(
        "c", lambda m: external_broker.reject(m, ValueError("p_mw: expected a number"))
    )
    await external_broker.publish("c", {"p_mw": "much"})
    await until(lambda: external_broker.stats.rejected == 1)
    assert external_broker.stats.reports[0].what == "p_mw: expected a number"


async def test_connections_hear_each_other_in_order(external_broker: SessionBroker, another: Another) -> None:
    got: list[int] = []
    peer = await another()
    await peer.subscribe("agents/+/action", lambda m: got.append(m["i"]))
    for i in range(500):
        external_broker.publish("agents/MG1/action", {"i": i})
    await until(lambda: len(got) == 500)
    assert got == list(range(500))


async def test_many_channels_on_one_connection(external_broker: SessionBroker) -> None:
    got: list[str] = []
    for i in range(300):
        external_broker.subscribe(f"agents/MG{i}/observation", lambda m: got.append(m.channel))
    for i in range(300):
        external_broker.publish(f"agents/MG{i}/observation", {})
    await until(lambda: len(got) == 300)


async def test_the_state_of_the_connection_can_be_seen(external_kind: Any) -> None:
    broker = external_kind.make()
    assert not broker.connected
    assert broker.home_loop is None
    assert "not connected" in repr(broker)
    async with broker:
        await broker.wait_connected(5)
        assert broker.connected
        assert broker.home_loop is asyncio.get_running_loop()
        assert broker.options.address in repr(broker)
    assert not broker.connected
    assert "closed" in repr(broker)


@pytest.mark.slow_but("mosquitto", "embedded", "nats")  # over Kafka a busy machine is as slow
async def test_small_messages_are_not_held_back(external_broker: SessionBroker, another: Another) -> None:
    """Nagle's algorithm and delayed acknowledgements together cost 40 ms a hop, nearly every time."""
    peer = await another()
    answered = asyncio.Event()

    async def answer(message: Received) -> None:
        await asyncio.sleep(0.001)  # so that the acknowledgement has left alone, and waits for its own
        peer.publish("answer", {"to": message["i"]})

    await peer.subscribe("question", answer)
    await external_broker.subscribe("answer", lambda _: answered.set())
    loop = asyncio.get_running_loop()
    times_s: list[float] = []
    for i in range(100):
        answered.clear()
        start = loop.time()
        external_broker.publish("question", {"i": i})
        await answered.wait()
        times_s.append(loop.time() - start)
    assert sorted(times_s)[25] < 0.03, "even the faster quarter is slow: it is not the load of the machine"


@pytest.mark.slow_but("embedded")
async def test_thousands_of_subscriptions_come_and_go_in_little_time(external_broker: SessionBroker) -> None:
    start = time.process_time()  # of this process: a machine that does other things is not slow
    channels = [f"agents/MG{i}/{leaf}" for i in range(1_500) for leaf in ("observation", "command")]
    filters = [f"p2p/+/MG{i}" for i in range(30)]
    subscriptions = [external_broker.subscribe(c, lambda _: None) for c in [*channels, *filters]]
    for subscription in subscriptions:
        await subscription
    for subscription in subscriptions:
        subscription()
    await external_broker.publish("end", {})
    assert time.process_time() - start < 4
