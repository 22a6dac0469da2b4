"""RLlib, new API stack: PPO with one module for all agents."""

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env

from powergrid.envs import MultiAgentMicrogrids

config = {"scenario": "training_days", "observation": "local", "observation_scale": "unit"}
register_env("microgrids", lambda given: ParallelPettingZooEnv(MultiAgentMicrogrids(dict(given))))
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
algorithm = (
    PPOConfig()
    .environment("microgrids", env_config=config)
    .env_runners(num_env_runners=0)
    .debugging(seed=1)
    .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, episode, **_: "shared")
    .rl_module(rl_module_spec=RLModuleSpec(model_config={"fcnet_hiddens": [64, 64]}))
    .training(train_batch_size_per_learner=192, minibatch_size=96, num_epochs=4, gamma=0.99)
    .build_algo()
)
for iteration in range(2):
    result = algorithm.train()
    print(iteration, f"return of a day: {result['env_runners']['episode_return_mean']:.2f} $")
algorithm.stop()
ray.shutdown()
