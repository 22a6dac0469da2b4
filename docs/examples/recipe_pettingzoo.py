"""PettingZoo: all agents at once, and turn by turn."""

from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.utils.conversions import parallel_to_aec

from powergrid.envs import MultiAgentMicrogrids

config = {"scenario": "training_days", "observation": "local", "observation_scale": "unit"}

parallel = MultiAgentMicrogrids({**config, "max_episode_steps": 24})
parallel_api_test(parallel, num_cycles=30)
observations, infos = parallel.reset(seed=1)
while parallel.agents:
    actions = {agent: parallel.action_space(agent).sample() for agent in parallel.agents}
    observations, rewards, terminations, truncations, infos = parallel.step(actions)
print("parallel", parallel.state().shape, {agent: round(reward, 2) for agent, reward in rewards.items()})

aec = parallel_to_aec(MultiAgentMicrogrids({**config, "max_episode_steps": 24}))
api_test(aec, num_cycles=30)
aec.reset(seed=1)
for agent in aec.agent_iter():
    observation, reward, terminated, truncated, info = aec.last()
    aec.step(None if terminated or truncated else aec.action_space(agent).sample())
print("turn by turn, done")
