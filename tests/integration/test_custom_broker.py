"""A broker of one's own that defines just ``publish`` and ``consume`` carries a whole episode."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import UnsupportedFeature
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import run_sync
from powergrid.envs import MultiAgentMicrogrids
from support.small_grid import scenario as small

SHORT = {"upstream_s": 0.1, "peer_s": 0.1, "device_s": 0.1, "action_s": 0.4, "ready_s": 5.0}


class QueueBroker(MessageBroker):
    """As the documentation shows it: two methods, no ``super().__init__()``, nothing else."""

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)

    async def publish(self, channel: str, message: dict[str, Any]) -> None:  # type: ignore[override]
        await self.queues[channel].put(message)

    async def consume(self, channel: str) -> dict[str, Any]:
        return await self.queues[channel].get()


class SlowBroker(QueueBroker):
    """Takes its time over every message, a different one for each channel."""

    async def publish(self, channel: str, message: dict[str, Any]) -> None:  # type: ignore[override]
        for _ in range(len(channel) % 4):
            await asyncio.sleep(0)
        await self.queues[channel].put(message)


class ForgetfulBroker(QueueBroker):
    """Fails to publish what it is told to fail on."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_on = ""

    async def publish(self, channel: str, message: dict[str, Any]) -> None:  # type: ignore[override]
        if channel == self.fails_on:
            raise ConnectionError("the far end is gone")
        await self.queues[channel].put(message)


pytestmark = pytest.mark.usefixtures("built_once")


def episode(env: MultiAgentMicrogrids, seed: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    said = []
    while env.agents:
        actions = {a: rng.uniform(-1, 1, env.action_space(a).shape) for a in env.agents if rng.random() < 0.5}
        _, rewards, _, _, infos = env.step(actions)
        said.append((rewards, repr(infos)))
    return said


@pytest.mark.slow_but("p2p-QueueBroker", "consensus-SlowBroker")
@pytest.mark.parametrize("kind", [QueueBroker, SlowBroker])
@pytest.mark.parametrize("protocol", ["p2p", "consensus"])
def test_a_whole_episode_over_two_methods_is_that_of_centralized_mode(
    kind: type[QueueBroker], protocol: str
) -> None:
    scenario = small({"protocol": {"horizontal": protocol}})
    broker = kind()
    env = MultiAgentMicrogrids({"scenario": scenario, "centralized": False, "message_broker": broker})
    expected = episode(MultiAgentMicrogrids({"scenario": scenario}))
    assert episode(env) == expected
    assert episode(env) == expected, "and a second one"
    env.close()
    run_sync(broker.close())
    assert broker.stats.lost == broker.stats.rejected == 0


async def test_the_asynchronous_calls_work_over_two_methods() -> None:
    broker = QueueBroker()
    env = MultiAgentMicrogrids({"scenario": small(), "centralized": False, "message_broker": broker})
    await env.reset_async(seed=3)
    _, rewards, _, _, infos = await env.step_async({})
    assert all(info["missed"] == 0 for info in infos.values())
    await env.close_async()
    await broker.close()
    central = MultiAgentMicrogrids({"scenario": small()})
    central.reset(seed=3)
    assert central.step({})[1] == rewards


def test_what_two_methods_cannot_do_is_refused_by_name() -> None:
    broker = QueueBroker()
    with pytest.raises(
        UnsupportedFeature, match=r"QueueBroker defines only publish and consume .*'agents/\+/action'"
    ):
        broker.subscribe("agents/+/action", print)
    with pytest.raises(UnsupportedFeature, match="takes no 'retain'"):
        broker.publish("control", {}, retain=True)  # type: ignore[call-arg, unused-coroutine]


def test_a_publish_that_fails_costs_its_message_and_is_counted() -> None:
    broker = ForgetfulBroker()
    env = MultiAgentMicrogrids(
        {"scenario": small({"deadlines": SHORT}), "centralized": False, "message_broker": broker}
    )
    env.reset(seed=3)
    broker.fails_on = "agents/MG2/action"
    infos = env.step({})[4]
    assert infos["MG2"]["fallback"] is not None
    assert infos["MG1"]["fallback"] is None
    assert broker.stats.undelivered == 1
    (report,) = (r for r in broker.stats.reports if r.kind == "delivery")
    assert report.where == "agents/MG2/action"
    assert "the far end is gone" in report.what
    broker.fails_on = ""
    assert all(info["fallback"] is None for info in env.step({})[4].values())
    env.close()
    run_sync(broker.close())
