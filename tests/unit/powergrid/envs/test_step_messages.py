"""What one distributed step of the default scenario publishes: each thing once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids

pytestmark = pytest.mark.usefixtures("built_once")

AGENTS = ("MG1", "MG2", "MG3")
OFFERS = 6


class Counting(InMemoryBroker):
    """Notes what is published."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def publish(self, channel: str, message: Mapping[str, Any], *, retain: bool = False) -> Delivery:
        self.seen[channel] += 1
        return super().publish(channel, message, retain=retain)


async def test_a_step_publishes_each_thing_once() -> None:
    broker = Counting()
    env = MultiAgentMicrogrids({"centralized": False, "message_broker": broker})
    try:
        await env.reset_async(seed=1)
        for _ in range(3):
            broker.seen.clear()
            await env.step_async({})
            assert broker.seen == Counter(
                {
                    "run/state": 1,
                    "operators/system_operator/price": 1,
                    **{f"agents/{agent}/{leaf}": 1 for agent in AGENTS for leaf in ("observation", "action")},
                    **{f"p2p/{a}/{b}": 1 for a in AGENTS for b in AGENTS if a != b},
                }
            )
    finally:
        await env.close_async()
        await broker.close()


async def test_a_command_is_one_message_more() -> None:
    broker = Counting()
    env = MultiAgentMicrogrids({"centralized": False, "message_broker": broker})
    try:
        await env.reset_async(seed=1)
        broker.seen.clear()
        await env.step_async({"MG1": env.action_space("MG1").low * 0})
        assert broker.seen["agents/MG1/command"] == 1
        assert sum(broker.seen.values()) == 2 + 2 * len(AGENTS) + OFFERS + 1
    finally:
        await env.close_async()
        await broker.close()
