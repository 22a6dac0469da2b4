"""What each shipped network does to the default scenario's day; the tables of docs/impaired-networks.md.

    python benchmarks/impaired.py [--networks perfect lte_poor ...]

Runs in virtual time: waiting takes none, computing counts for none, and every figure but the last table's
repeats exactly.
"""

from __future__ import annotations

import asyncio
import logging
import time

from heron_mqtt.app.run_summary import AgentTotals, Summary
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment, shipped_networks
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.virtual_time import VirtualTimeLoop
from heron_mqtt.program_arguments import ProgramArguments
from powergrid.envs import MultiAgentMicrogrids

SEED = 1
MESSAGES = 20_000
COLUMNS = (
    *("network", "MG1", "MG2", "MG3", "together", "trades / void", "missed", "fallbacks"),
    *("lost", "mean ms", "max ms", "s a step"),
)


async def day(table: ImpairmentTable) -> str:
    """Run the default scenario and return its line of the table."""
    async with ImpairedBroker(InMemoryBroker(), table, seed=SEED) as broker:
        env = MultiAgentMicrogrids({"centralized": False, "message_broker": broker})
        await env.reset_async(seed=SEED)
        agents = {agent: AgentTotals() for agent in env.agents}
        summary = Summary(env.scenario.name, "distributed", "memory", SEED, env.scenario.step_s, agents)
        begin_s = asyncio.get_running_loop().time()
        while env.agents:
            _, rewards, _, _, infos = await env.step_async({})
            summary.add_step(rewards, infos, 0.0)
        step_s = (asyncio.get_running_loop().time() - begin_s) / summary.steps
        await env.close_async()
        counts = broker.record.totals()
    total = sum(totals.reward for totals in agents.values())
    cells = [
        f"`{table.name}`" if table.name else "(perfect)",
        *(f"{totals.reward:.2f}" for totals in agents.values()),
        f"{total:.2f}",
        f"{summary.trades} / {summary.void_trades}",
        f"{summary.deadline_misses}",
        f"{summary.fallbacks}",
        f"{counts.lost + counts.partitioned}",
        f"{1e3 * counts.delay_sum_s / max(counts.delayed, 1):.1f}",
        f"{1e3 * counts.delay_max_s:.0f}",
        f"{step_s:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


async def messages_per_s(broker: MessageBroker) -> float:
    """Return how many messages a second pass from a publisher to a callback."""
    async with broker:
        done = asyncio.Event()

        def on_message(message: Received) -> None:
            if message["seq"] == MESSAGES - 1:
                done.set()

        await broker.subscribe("c", on_message)
        begin = time.perf_counter()
        for seq in range(MESSAGES):
            broker.publish("c", {"sender": "MG1", "boot": "b", "seq": seq, "p_mw": 1.5})
        await done.wait()
        return MESSAGES / (time.perf_counter() - begin)


def main() -> None:
    """Print both tables."""
    shipped = {"perfect": ImpairmentTable(), **{name: load_impairment(name) for name in shipped_networks()}}
    parser = ProgramArguments(description="What an impaired network costs.")
    parser.add_argument("--networks", nargs="+", choices=shipped, default=list(shipped), metavar="NAME")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in options.networks:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            print(runner.run(day(shipped[name])))
    slow = ImpairmentTable.model_validate({"max_in_flight": MESSAGES, "rules": [{"delay_s": 0.001}]})
    print("\n| broker | messages a second |\n|---|---|")
    for name, broker in {
        "InMemoryBroker": InMemoryBroker(),
        "perfect network": ImpairedBroker(InMemoryBroker(), ImpairmentTable()),
        "1 ms up, 1 ms down": ImpairedBroker(InMemoryBroker(), slow),
    }.items():
        print(f"| {name} | {asyncio.run(messages_per_s(broker)):,.0f} |")


if __name__ == "__main__":
    main()
