"""InMemoryBroker: what is read is what was written, and what it keeps has a bound."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

import heron_mqtt.messaging.core.dispatcher as dispatcher_module
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.memory import InMemoryBroker


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"p_mw": 0.1, "ok": True}, {"p_mw": 0.1, "ok": True}),
        ({"vm_pu": [1.0, 1.01]}, {"vm_pu": [1.0, 1.01]}),
        ({"p_mw": np.float64(0.1)}, {"p_mw": 0.1}),
        ({"clock": dt.datetime(2016, 7, 4, tzinfo=dt.UTC)}, {"clock": "2016-07-04T00:00:00Z"}),
    ],
)
def test_every_receiver_has_a_message_of_its_own_as_json_tells_it(
    said: dict[str, Any], told: dict[str, Any]
) -> None:
    broker, got = InMemoryBroker(), list[Received]()

    def spoil(message: Received) -> None:
        message.clear()

    broker.subscribe("c", spoil)
    broker.subscribe("c", got.append)
    broker.publish("c", said)
    said.clear()
    assert got == [told]
    assert [type(value) for value in got[0].values()] == [type(value) for value in told.values()]


async def test_a_number_that_can_be_written_but_not_read_is_counted_and_stops_nothing() -> None:
    broker, got = InMemoryBroker(), list[Received]()
    broker.subscribe("c", got.append)
    broker.publish("c", {"digits": 10**4_400})
    broker.publish("c", {"i": 1})
    assert got == [{"i": 1}]
    assert (broker.stats.published, broker.stats.received, broker.stats.rejected) == (2, 1, 1)
    assert await broker.consume("c") == {"i": 1}


async def test_messages_nobody_asked_for_are_kept_of_so_many_channels_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_CHANNELS", 3)
    broker = InMemoryBroker()
    for n in range(10):
        broker.publish(f"c/{n}", {"n": n})
    assert len(broker._dispatcher._mailboxes) == 3
    assert await broker.consume("c/2") == {"n": 2}
