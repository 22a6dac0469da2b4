"""The distributed exchange: price and observations out, actions back, and its raw floor.

Both move the same messages: in each step one ``run/state``, one price and N observations go out through
the hop, and N actions come back through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from heron_mqtt.agents import Proxy, StepReport, SystemOperator
from heron_mqtt.bench.relay import HEAD_BYTES, Framed, frame
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import SetpointLimits
from heron_mqtt.messages import Command, Observation, PriceSignal, RunState, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.stamping import MessageStamper

READY_S, STEP_S = 60.0, 30.0
CLOCK = datetime(2016, 6, 13, tzinfo=UTC)
OBSERVATION: dict[str, Any] = {
    "dt_s": 900.0,
    "p_load_mw": -0.0412,
    "q_load_mvar": -0.0135,
    "vm_min_pu": 0.98713,
    "vm_max_pu": 1.00214,
    "loading_max_percent": 41.372,
    "p_available_pv": 0.0217,
}


class ConstantAgent:
    """The agent that costs nothing: it computes nothing, does not trade, and drives no device."""

    peers: tuple[str, ...] = ()

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self._report = StepReport(
            p_mw={"gen": 0.0125, "ess": -0.0031, "pv": 0.0217}, soc={"ess": 0.4987}, cost={"gen": 0.8125}
        )

    def reset(self, episode: int, seed: int | None) -> None:
        """Have no state."""

    def observe(self, observation: Observation | None, price: float | None) -> None:
        """Look away."""

    def decide(self, command: Command | None) -> None:
        """Decide nothing."""

    def negotiate(self) -> None:
        """Do not trade."""

    def conclude(self) -> Collection[str]:
        """Drive nothing."""
        return ()

    def wanted(self) -> Mapping[str, SetpointRequest]:
        """Send nothing."""
        return {}

    def limits(self, device: str) -> SetpointLimits:
        """Have no devices."""
        raise KeyError(device)

    def simulate(
        self, device: str, reason: str | None = None, *, setpoint: SetpointRequest | None = None
    ) -> None:
        """Have no models."""

    def measured(
        self, device: str, telemetry: Telemetry, *, setpoint: SetpointRequest | None = None
    ) -> float:
        """Have no models."""
        return 0.0

    def shadowed(self, device: str, telemetry: Telemetry) -> float:
        """Have no models."""
        return 0.0

    def reseed(self, device: str, telemetry: Telemetry) -> None:
        """Have no models."""

    def report(self) -> StepReport:
        """Say the same in every step."""
        return self._report


class Exchange:
    """An operator and N proxies on one broker; ``step`` returns how long one exchange took."""

    def __init__(self, operator: SystemOperator, agents: Sequence[str]) -> None:
        self._operator = operator
        self._agents = agents
        self._step = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, broker: MessageBroker, n: int, env_id: str) -> AsyncIterator[Exchange]:
        """Start everyone and begin an episode.

        Args:
            broker: Connected; its environment is ``env_id``.
            n: Number of agents.
            env_id: Must not be shared with another exchange on the same broker.
        """
        agents = [f"MG{i}" for i in range(1, n + 1)]
        operator = SystemOperator("system_operator", agents, broker, env_id=env_id)
        proxies = [Proxy(f"{agent}_proxy", ConstantAgent(agent), broker, env_id=env_id) for agent in agents]
        async with contextlib.AsyncExitStack() as stack:
            await operator.start()
            stack.push_async_callback(operator.close)
            for proxy in proxies:
                stack.push_async_callback(proxy.close)
            await asyncio.gather(*(proxy.start() for proxy in proxies))
            running = [asyncio.create_task(proxy.run(), name=proxy.agent_id) for proxy in proxies]
            for task in running:
                stack.callback(task.cancel)
            await operator.begin_episode(1, 42, CLOCK, READY_S)
            yield cls(operator, agents)

    async def step(self) -> float:
        """Take one step; return how long it took, s."""
        step, self._step = self._step, self._step + 1
        began_s = time.perf_counter()
        self._operator.begin_step(1, step, 55.0, CLOCK + timedelta(minutes=15 * step))
        for agent in self._agents:
            self._operator.publish_observation(agent, Observation.model_validate(OBSERVATION))
        reports = await self._operator.gather(STEP_S)
        took_s = time.perf_counter() - began_s
        if len(reports) != len(self._agents):
            raise RuntimeError(f"{len(reports)} of {len(self._agents)} agents answered within {STEP_S:g} s")
        return took_s


class RawExchange:
    """The messages of an exchange through a raw relay: the least that any client takes."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.arrived = 0
        """Actions of the step under way that have come back."""
        self._done: asyncio.Future[None] | None = None
        self._mine: asyncio.Transport
        shared, observation, action = _sizes()
        self._broadcasts = [frame(1, bytes(size)) for size in shared]
        self._observations = [frame(i, bytes(observation)) for i in range(1, n + 1)]
        self._action = frame(0, bytes(action))

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, n: int, *, shared: bool = False) -> AsyncIterator[RawExchange]:
        """Connect.

        Args:
            port: Of a relay that no other program uses at the same time.
            n: Number of agents.
            shared: Everybody uses the environment's connection, instead of one of its own.
        """
        floor = cls(n)
        loop = asyncio.get_running_loop()
        links: list[asyncio.Transport] = []
        own = 0 if shared else n
        try:
            for address in range(own + 1):
                _, made = await loop.create_connection(lambda: Framed(floor._on_frame), "127.0.0.1", port)
                links.append(made.transport)
                floor._done = loop.create_future()
                made.transport.write(frame(address, b""))
                await floor._done
            floor._mine = links[0]
            if own == 0:  # everything comes back to where it was sent from
                floor._observations = [frame(0, whole[HEAD_BYTES:]) for whole in floor._observations]
                floor._broadcasts = [frame(0, whole[HEAD_BYTES:]) for whole in floor._broadcasts]
            yield floor
        finally:
            for link in links:
                link.abort()

    async def step(self) -> float:
        """Take one step; return how long it took, s."""
        self.arrived = 0
        self._done = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        for whole in self._broadcasts:
            self._mine.write(whole)
        for whole in self._observations:
            self._mine.write(whole)
        await self._done
        return time.perf_counter() - began_s

    def _on_frame(self, link: Framed, _address: int, whole: bytes) -> None:
        is_done = len(whole) == HEAD_BYTES  # a name that the relay has taken
        if len(whole) == len(self._observations[0]):
            link.transport.write(self._action)
        elif len(whole) == len(self._action):
            self.arrived += 1
            is_done = self.arrived == self._n
        if is_done and self._done is not None:
            self._done.set_result(None)


def _sizes() -> tuple[list[int], int, int]:
    """Return the bytes of run state and price, of an observation, and of an action, topics included."""
    stamper = MessageStamper("system_operator", "bench")

    def size(channel: str, message: RunState | PriceSignal | Observation) -> int:
        return len(encode(stamper.stamp(channel, message, episode=1, step=10))) + len(
            f"heron/bench/{channel}"
        )

    shared = [
        size(topics.RUN_STATE, RunState(state="running", clock=CLOCK)),
        size(topics.operator_price("system_operator"), PriceSignal(value=55.0)),
    ]
    action = ConstantAgent("MG1").report().to_message()
    stamped = MessageStamper("MG1", "bench").stamp("agents/MG1/action", action, episode=1, step=10)
    return (
        shared,
        size("agents/MG1/observation", Observation.model_validate(OBSERVATION)),
        len(encode(stamped)) + len("heron/bench/agents/MG1/action"),
    )
