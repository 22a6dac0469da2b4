"""Delivery: the outcome of a publish, awaited from any loop or ignored."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.errors import BrokerUnavailable
from heron_mqtt.messaging.core.delivery import Delivery


async def test_what_was_taken_at_once_is_done() -> None:
    delivery = Delivery()
    assert delivery.done()
    await delivery


async def test_what_was_not_taken_raises_each_time_it_is_awaited() -> None:
    delivery = Delivery.failed(BrokerUnavailable("nobody there"))
    assert delivery.done()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="nobody there"):
            await delivery


async def test_what_is_on_its_way_is_done_when_it_is_and_who_waits_no_more_does_not_end_it() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    delivery = Delivery(future)
    assert not delivery.done()

    async def wait() -> None:
        await delivery

    waiting, gone = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert not future.cancelled()
    future.set_result(None)
    await waiting
    assert delivery.done()


async def test_it_may_be_awaited_in_another_loop_than_its_own() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    delivery = Delivery(future)

    async def wait() -> str:
        await delivery
        return "delivered"

    waiting = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(wait())))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    future.set_result(None)
    assert await asyncio.wait_for(waiting, 5.0) == "delivered"
