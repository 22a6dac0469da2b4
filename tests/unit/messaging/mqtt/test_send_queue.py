"""SendQueue, by a connection that does what a test says."""

from __future__ import annotations

import pytest

from heron_mqtt.errors import BrokerRefused
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.send_queue import WINDOW, SendQueue


class ScriptedConnection:
    """Takes messages, and answers nothing by itself."""

    receive_maximum = 1_000
    has_limits = False

    def __init__(self) -> None:
        self.ready = True
        self.sent: list[str] = []

    def publish(
        self, topic: str, _payload: bytes, _qos: int, _retain: bool, _not_after: float | None = None
    ) -> int:
        self.sent.append(topic)
        return len(self.sent)

    def refusal(self, _topic: str, _payload: bytes, *, retain: bool) -> str | None:
        return "it keeps nothing" if retain else None

    def give_up(self, why: str) -> None:
        raise AssertionError(why)


def opened(connection: ScriptedConnection, topic_prefix: str = "") -> SendQueue:
    queue = SendQueue("mqtt://b", MessageStats(), 10, topic_prefix=topic_prefix)
    queue.open(connection)
    return queue


async def test_it_says_whether_a_message_would_wait() -> None:
    connection = ScriptedConnection()
    assert not SendQueue("mqtt://b", MessageStats(), 10).sends_at_once, "there is no connection"
    queue = opened(connection)
    assert queue.sends_at_once
    connection.ready = False
    assert not queue.sends_at_once, "the broker does not read"
    queue.publish("t", b"{}", 0, False)
    connection.ready = True
    assert not queue.sends_at_once, "another one waits"
    queue.pump()
    assert connection.sent == ["t"]
    for _ in range(WINDOW):
        assert queue.sends_at_once
        queue.publish("t", b"{}", 1, False)
    assert not queue.sends_at_once, "the window is full"
    queue.close()
    assert not queue.sends_at_once


async def test_a_message_that_is_refused_is_named_as_it_is_at_the_broker() -> None:
    connection = ScriptedConnection()
    queue = opened(connection, "sites/7/")
    done = queue.publish("heron/site/price", b"{}", 1, False)
    queue.acknowledged(1, "Not authorized")
    with pytest.raises(BrokerRefused, match="refuses 'sites/7/heron/site/price': Not authorized"):
        await done
    connection.has_limits = True
    queue.open(connection)
    with pytest.raises(BrokerRefused, match="'sites/7/heron/site/price' was not sent: it keeps nothing"):
        await queue.publish("heron/site/price", b"{}", 1, True)
