"""An agent of one's own, in a process of its own: MG3 keeps its battery full and never runs its generator.

    python docs/examples/05_agent_of_your_own.py
    python docs/examples/05_agent_of_your_own.py --broker mqtt://127.0.0.1:1883

The first starts both sides, as two processes; the second is the agent alone, until Ctrl-C. The
environment's scenario has ``remote = true`` for this agent, so that it waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from heron_mqtt.agents import Proxy
from heron_mqtt.messages import Command
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.agents import GridAgent
from powergrid.scenario import load_scenario

AGENT = "MG3"
SCENARIO = load_scenario().scenario
ENV_ID = SCENARIO.topic_env_id


class Hoarder(GridAgent):
    """Follows no price: what upstream does not command, it decides by a rule of its own."""

    def decide(self, command: Command | None) -> None:
        """Plan the step: charge with full power, generator off, all the sun there is."""
        given = {} if command is None else command.values("p_")
        rule = {"p_ess": -0.04, "p_gen": 0.0, "p_pv": 0.10}
        own = {field: value for field, value in rule.items() if field.removeprefix("p_") not in given}
        super().decide(Command.model_validate({**own, **{f"p_{name}": p for name, p in given.items()}}))


async def serve(url: str) -> None:
    """Run the agent with its proxy until cancelled."""
    async with MqttBroker(url, env_id=ENV_ID) as broker:
        proxy = Proxy(
            agent_id=f"{AGENT}_proxy",
            actual_agent=Hoarder.from_scenario(SCENARIO, AGENT),
            broker=broker,
            upstream_id=SCENARIO.operator_id,
            peers=[agent for agent in SCENARIO.microgrids if agent != AGENT],
            env_id=ENV_ID,
        )
        try:
            await proxy.run()
        finally:
            await proxy.close()


async def demonstrate(steps: int) -> None:
    """Start a broker and, as a process of its own, the agent; run the environment here."""
    from powergrid.envs import MultiAgentMicrogrids  # the agent's process needs no grid

    scenario = SCENARIO.model_dump(exclude_none=True)
    scenario["microgrids"][AGENT]["remote"] = True
    async with EmbeddedBroker() as server:
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--broker", server.url)
        try:
            async with MqttBroker(server.url, env_id=ENV_ID) as broker:
                env = MultiAgentMicrogrids(
                    {
                        "centralized": False,
                        "message_broker": broker,
                        "scenario": scenario,
                        "max_episode_steps": steps,
                    }
                )
                await env.reset_async(seed=0)
                while env.agents:
                    _, _, _, _, infos = await env.step_async({})
                    info = infos[AGENT]
                    print(f"{AGENT}: {info['p_mw']}, state of charge {info['soc']}, missed {info['missed']}")
                await env.close_async()
        finally:
            process.terminate()
            await process.wait()


def main() -> None:
    """Read the arguments and start."""
    parser = argparse.ArgumentParser(description="MG3, with an agent of one's own.")
    parser.add_argument("--broker", metavar="URL", help="mqtt://host:port; left out: demonstrate")
    parser.add_argument("--steps", type=int, default=4, help="of the demonstration")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it: offline is said, the connection closed
        asyncio.run(serve(options.broker) if options.broker else demonstrate(options.steps))


if __name__ == "__main__":
    main()
