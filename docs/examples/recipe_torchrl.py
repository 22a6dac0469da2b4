"""TorchRL: PPO on a batch of copies, one actor for all agents and for each a critic that sees all."""

import sys

import numpy as np
from tensordict.nn import AddStateIndependentNormalScale
from tensordict.nn import TensorDictModule as Module
from torch import cat, manual_seed, nn, no_grad, optim, randperm
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, IndependentNormal, MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss

from powergrid.envs.torchrl_env import TorchMicrogrids

manual_seed(1)
env = TorchMicrogrids({"num_envs": 64, "scenario": "training_days"}, reward_scale=0.1)
env.set_seed(1000)  # days of evaluate --seeds 20 have the seeds 0 to 19
((group, agents),) = env.group_map.items()  # all are alike, hence one group
seen, act, value = ((group, name) for name in ("observation", "action", "state_value"))
n_seen, n_act = env.observation_spec[seen].shape[-1], env.action_spec[act].shape[-1]
size = {"depth": 2, "num_cells": 64, "activation_class": nn.Tanh}
one = MLP(n_seen, n_act, **size)  # what it says beyond [-1, 1] counts as the bound, as in NetworkPolicy
net = nn.Sequential(one, AddStateIndependentNormalScale(n_act, init_value=-1.2))
normal = {"distribution_class": IndependentNormal, "return_log_prob": True}
actor = ProbabilisticActor(Module(net, [seen], ["loc", "scale"]), ["loc", "scale"], [act], **normal)
each = MultiAgentMLP(n_seen, 1, len(agents), centralized=True, share_params=False, **size)
loss = ClipPPOLoss(actor, Module(each, [seen], [value]), normalize_advantage=True, entropy_coeff=0.0)
loss.set_keys(action=act, value=value, **{key: (group, key) for key in ("reward", "done", "terminated")})
optimiser = optim.Adam(loss.parameters(), 1e-3)
for iteration in range(int(sys.argv[1]) if sys.argv[1:] else 3):
    with no_grad(), set_exploration_type(ExplorationType.RANDOM):  # without, no action is tried
        data = env.rollout(96, actor)
    earned = data["next", group, "reward"]
    for key in ("done", "terminated"):  # all agents of a copy end together; the loss wants it by agent
        data["next", group, key] = data["next", key].unsqueeze(-2).expand(earned.shape)
    loss.value_estimator(data)
    for part in data.reshape(-1)[cat([randperm(data.numel()) for _ in range(4)])].split(512):
        optimiser.zero_grad()
        sum(term for name, term in loss(part).items() if name.startswith("loss_")).backward()
        optimiser.step()
    print(iteration, f"return of a day: {10 * earned.sum((1, 2)).mean().item():.2f} $")

layers = enumerate(layer for layer in one if isinstance(layer, nn.Linear))
arrays = {f"{name}_{i}": part.detach() for i, layer in layers for name, part in layer.named_parameters()}
np.savez("shared.npz", activation="tanh", **arrays)  # for powergrid.policies:NetworkPolicy
