"""The environment as a PettingZoo ParallelEnv: first the agents' own policies, then random actions.

python docs/examples/01_pettingzoo_loop.py
python docs/examples/01_pettingzoo_loop.py --distributed
"""

from __future__ import annotations

import argparse

import numpy as np

from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids


def episode(env: MultiAgentMicrogrids, *, random_actions: bool) -> dict[str, float]:
    """Run one episode; return each agent's sum of rewards, $."""
    env.reset(seed=42)
    for number, agent in enumerate(env.agents):
        env.action_space(agent).seed(number)
    total = dict.fromkeys(env.agents, 0.0)
    while env.agents:
        actions: dict[str, np.ndarray] = {}  # an agent that gets no action follows its own policy
        if random_actions:
            actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        _, rewards, _, _, _ = env.step(actions)
        for agent, reward in rewards.items():
            total[agent] += reward
    return total


def main() -> None:
    """Run one episode of each and print what they earned."""
    parser = argparse.ArgumentParser(description="The environment in a PettingZoo loop.")
    parser.add_argument("--distributed", action="store_true", help="messages instead of direct calls")
    parser.add_argument("--steps", type=int, default=96)
    options = parser.parse_args()

    config: dict[str, object] = {"centralized": True, "max_episode_steps": options.steps}
    if options.distributed:
        config |= {"centralized": False, "message_broker": InMemoryBroker()}
    env = MultiAgentMicrogrids(config)
    agent = env.possible_agents[0]
    print(f"{agent} acts on     {', '.join(env.action_names(agent))}")
    print(
        f"{agent} observes    {len(env.observation_names(agent))} numbers: "
        f"{', '.join(env.observation_names(agent)[:6])}, ..."
    )
    for name, random_actions in (("own policies", False), ("random", True)):
        total = episode(env, random_actions=random_actions)
        print(f"{name:15} {'  '.join(f'{agent} {reward:+9.2f} $' for agent, reward in total.items())}")
    env.close()


if __name__ == "__main__":
    main()
