"""Memory of simulated agents: many in one process, over an ``InMemoryBroker``; prints what they take.

    python -m heron_mqtt.bench.memory_use N

Each is an agent of the default scenario with its devices and its proxy, after a few steps. They do not
trade: with N - 1 peers each, that would measure N squared.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc

from heron_mqtt.agents import SystemOperator
from heron_mqtt.bench.agent_exchange import CLOCK, OBSERVATION, READY_S, STEP_S
from heron_mqtt.bench.cpu import rss_bytes
from heron_mqtt.messages import Observation
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.program_arguments import ProgramArguments
from powergrid.agents.proxies import make_proxy
from powergrid.scenario import load_scenario

STEPS = 5


async def rss_of(n: int) -> int:
    """Return the resident memory of this process with ``n`` agents in it, bytes."""
    scenario = load_scenario("three_microgrids").scenario
    table = next(iter(scenario.microgrids.values()))
    agents = [f"MG{i}" for i in range(1, n + 1)]
    async with InMemoryBroker() as broker, contextlib.AsyncExitStack() as stack:
        operator = SystemOperator("system_operator", agents, broker)
        await operator.start()
        for agent in agents:
            alone = scenario.model_copy(update={"microgrids": {agent: table}})
            proxy = make_proxy(alone, agent, broker, env_id="default", devices="simulated")
            await proxy.start()
            stack.callback(asyncio.create_task(proxy.run(), name=agent).cancel)
        await operator.begin_episode(1, 42, CLOCK, READY_S)
        for step in range(STEPS):
            operator.begin_step(1, step, 55.0, CLOCK)
            for agent in agents:
                operator.publish_observation(agent, Observation.model_validate(OBSERVATION))
            await operator.gather(STEP_S)
        gc.collect()
        return rss_bytes()


if __name__ == "__main__":
    parser = ProgramArguments(prog="python -m heron_mqtt.bench.memory_use", description=__doc__)
    parser.add_argument("n", type=int, help="agents in the process")
    agents = parser.parse_args().n
    print(asyncio.run(rss_of(agents)), flush=True)  # noqa: T201 - the process that started this one reads it
