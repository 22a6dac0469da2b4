"""Whole steps of the default scenario, trading included, and one message's way through a broker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from heron_mqtt.bench.agent_exchange import CLOCK, OBSERVATION
from heron_mqtt.bench.rounds import Step
from heron_mqtt.messages import Observation
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.envs import MultiAgentMicrogrids

SEED = 42
ENV_ID = "bench-env"
HOP = "bench/hop"


def make_env(broker: MessageBroker | None) -> MultiAgentMicrogrids:
    """Return the default scenario's environment; takes a second in which the event loop stands still.

    Args:
        broker: Need not be connected yet; None = centralized.
    """
    return MultiAgentMicrogrids(
        {} if broker is None else {"centralized": False, "message_broker": broker, "env_id": ENV_ID}
    )


@contextlib.asynccontextmanager
async def whole_step(env: MultiAgentMicrogrids) -> AsyncIterator[Step]:
    """Yield what takes one step of an environment, every agent on its own policy."""
    try:
        await env.reset_async(seed=SEED)

        async def step() -> float:
            if not env.agents:
                await env.reset_async(seed=SEED)
            if env.centralized:
                began_s = time.perf_counter()
                env.step({})
            else:
                began_s = time.perf_counter()
                await env.step_async({})
            return time.perf_counter() - began_s

        yield step
    finally:
        await env.close_async()


@contextlib.asynccontextmanager
async def one_way(broker: MessageBroker) -> AsyncIterator[Step]:
    """Yield what publishes one observation and waits until it is there."""
    arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_message(_message: object) -> None:
        if not arrived.done():
            arrived.set_result(None)

    subscription = broker.subscribe(HOP, on_message)
    await subscription
    stamper = MessageStamper("bench", "bench")
    observation = Observation.model_validate(OBSERVATION)

    async def step() -> float:
        nonlocal arrived
        arrived = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        broker.publish(HOP, stamper.stamp(HOP, observation, episode=1, step=CLOCK.day))
        await arrived
        return time.perf_counter() - began_s

    try:
        yield step
    finally:
        subscription()
