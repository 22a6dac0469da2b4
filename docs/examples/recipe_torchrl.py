"""TorchRL: PPO on a batch of copies, one actor for all agents and for each a critic that sees all."""

from tensordict.nn import TensorDictModule as Module
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn, no_grad, optim
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal
from torchrl.objectives import ClipPPOLoss

from powergrid.envs.torchrl_env import TorchMicrogrids

env = TorchMicrogrids({"num_envs": 16, "scenario": "training_days"}, reward_scale=0.1)
env.set_seed(1)
((group, agents),) = env.group_map.items()  # all are alike, hence one group
seen, act, value = ((group, name) for name in ("observation", "action", "state_value"))
n_seen, n_act = env.observation_spec[seen].shape[-1], env.action_spec[act].shape[-1]
size = {"n_agents": len(agents), "depth": 2, "num_cells": 64}
one = MultiAgentMLP(n_seen, 2 * n_act, centralized=False, share_params=True, **size)
net = nn.Sequential(one, NormalParamExtractor())
normal = {"distribution_class": TanhNormal, "return_log_prob": True}
head = Module(net, [seen], ["loc", "scale"])
actor = ProbabilisticActor(head, in_keys=["loc", "scale"], out_keys=[act], spec=env.action_spec, **normal)
each = MultiAgentMLP(n_seen, 1, centralized=True, share_params=False, **size)  # rewards are their own
critic = Module(each, [seen], [value])
loss = ClipPPOLoss(actor, critic, normalize_advantage=True)
loss.set_keys(action=act, value=value, **{key: (group, key) for key in ("reward", "done", "terminated")})
optimiser = optim.Adam(loss.parameters(), 3e-4)
for iteration in range(3):
    with no_grad():
        data = env.rollout(96, actor)
    earned = data["next", group, "reward"]
    for key in ("done", "terminated"):  # all agents of a copy end together; the loss wants it by agent
        data["next", group, key] = data["next", key].unsqueeze(-2).expand(earned.shape)
    loss.value_estimator(data)
    for part in data.reshape(-1).split(400) * 4:
        optimiser.zero_grad()
        losses = loss(part)
        (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
        optimiser.step()
    print(iteration, f"return of a day: {10 * earned.sum((1, 2)).mean().item():.2f} $")
