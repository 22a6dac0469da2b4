"""BenchMARL: MAPPO on a batch of copies."""

from benchmarl.algorithms import MappoConfig
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig

from powergrid.envs.benchmarl_task import MicrogridTask

config = ExperimentConfig.get_from_yaml()
config.on_policy_n_envs_per_worker, config.on_policy_collected_frames_per_batch = 16, 16 * 96
config.on_policy_n_minibatch_iters, config.on_policy_minibatch_size = 4, 400
config.max_n_iters, config.max_n_frames = 2, None
config.evaluation, config.loggers, config.render = False, [], False
experiment = Experiment(
    task=MicrogridTask("training_days", {"scenario": "training_days", "reward_scale": 0.1}),
    algorithm_config=MappoConfig.get_from_yaml(),
    model_config=MlpConfig.get_from_yaml(),
    critic_model_config=MlpConfig.get_from_yaml(),
    seed=1,
    config=config,
)
experiment.run()
print("return of an episode, scaled:", round(experiment.mean_return, 2))
