"""Stable-Baselines3 with SuperSuit: one network for all agents, which then runs without either."""

import numpy as np
import supersuit
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

from powergrid.envs import MultiAgentMicrogrids

config = {"scenario": "training_days", "observation": "local", "observation_scale": "unit"}
single = supersuit.pettingzoo_env_to_vec_env_v1(MultiAgentMicrogrids(config))
envs = supersuit.concat_vec_envs_v1(single, 2, num_cpus=0, base_class="stable_baselines3")
envs.venv.reset(seed=1)  # a seed a copy: without, all copies have the same days
set_random_seed(1)  # not PPO(seed=...): SuperSuit's environments have no seed()
model = PPO("MlpPolicy", envs, n_steps=96, batch_size=192, device="cpu")
model.learn(2_000)

net = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
layers = [part for part in net if hasattr(part, "weight")]
arrays = {f"weight_{i}": part.weight.detach().numpy() for i, part in enumerate(layers)}
arrays |= {f"bias_{i}": part.bias.detach().numpy() for i, part in enumerate(layers)}
np.savez("shared.npz", activation="tanh", **arrays)  # for powergrid.policies:NetworkPolicy

env = MultiAgentMicrogrids(config)
observations, _ = env.reset(seed=1000)
total = 0.0
while env.agents:
    acts = {agent: model.predict(seen, deterministic=True)[0] for agent, seen in observations.items()}
    observations, rewards, *_ = env.step(acts)
    total += sum(rewards.values())
print(f"a day with the trained network: {total:.2f} $")
