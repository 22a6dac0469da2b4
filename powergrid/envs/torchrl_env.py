"""``BatchedMicrogrids`` as a TorchRL environment: batched by itself, agents in groups. Extra ``torchrl``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from powergrid.envs.batched import BatchedMicrogrids

__all__ = ["TorchMicrogrids"]


class TorchMicrogrids(EnvBase):
    """Copies of a scenario for TorchRL and BenchMARL; tensors on the CPU, float32.

    Agents whose observations and actions have equal size and meaning are in one group, (n, n_agents, ...). If
    all are in one group, it is called ``agents``, otherwise each after its first agent. Every group has
    ``observation``, ``action`` in [-1, 1] and ``reward`` ($, times ``reward_scale``). The root has ``state``
    (the whole grid, for critics). It also has ``done``, ``terminated`` and ``truncated``, since all agents of
    a copy end together.

    Args:
        config: As ``BatchedMicrogrids``; observations are ``local`` and in ``unit`` scale unless it says
            otherwise, and flat.
        reward_scale: Factor on rewards.

    Attributes:
        batch: The copies.
        group_map: Name of a group -> its agents.

    Raises:
        ConfigError: As ``BatchedMicrogrids``.
        ValueError: Observations by name are asked for.
    """

    batch_locked = True

    def __init__(self, config: Mapping[str, Any], *, reward_scale: float = 1.0) -> None:
        if config.get("observation_form", "flat") != "flat":
            raise ValueError('observation_form: expected "flat", the tensors of a group are side by side')
        chosen = {"observation": "local", "observation_scale": "unit", **config}
        self.batch = batch = BatchedMicrogrids(chosen)
        n = batch.num_envs
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([n]))
        self.group_map = _groups(batch)
        self._reward_scale = reward_scale
        self._seed: int | None = None
        self._begun = np.zeros(n, dtype=bool)
        self._seen: dict[str, Any] = {}
        seen, acted, earned = {}, {}, {}
        for group, agents in self.group_map.items():
            size, shape = len(agents), batch.single_action_space(agents[0]).shape
            spaces = [batch.single_observation_space(agent) for agent in agents]
            low, high = (
                torch.as_tensor(np.stack([getattr(space, edge) for space in spaces])).expand(n, size, -1)
                for edge in ("low", "high")
            )
            lead = (n, size)
            seen[group] = Composite(observation=Bounded(low, high, dtype=torch.float32), shape=lead)
            acted[group] = Composite(action=Bounded(-1.0, 1.0, (*lead, *shape)), shape=lead)
            earned[group] = Composite(reward=Unbounded((*lead, 1)), shape=lead)
        edges = (torch.as_tensor(edge).expand(n, -1) for edge in _edges(batch.single_state_space))
        state = Bounded(*edges, dtype=torch.float32)
        self.observation_spec = Composite(**seen, state=state, shape=(n,))
        self.action_spec = Composite(**acted, shape=(n,))
        self.reward_spec = Composite(**earned, shape=(n,))
        ends = {
            name: Categorical(2, (n, 1), dtype=torch.bool) for name in ("done", "terminated", "truncated")
        }
        self.done_spec = Composite(**ends, shape=(n,))

    def _reset(self, tensordict: Any = None, **kwargs: Any) -> Any:
        """Begin episodes: those of ``_reset``, or all. What ended in the last step has begun already."""
        wanted = np.ones(self.batch.num_envs, dtype=bool)
        if tensordict is not None and (asked := tensordict.get("_reset", None)) is not None:
            wanted = asked.reshape(-1).numpy().copy()
        seed, self._seed = self._seed, None
        missing = wanted if seed is not None else wanted & ~self._begun
        if missing.any():
            self._seen = self.batch.reset(seed, {"reset_mask": missing})[0]
        self._begun &= ~wanted
        shown = self._shown(self._seen, self.batch.state())
        for name in ("done", "terminated", "truncated"):
            shown[name] = torch.zeros((self.batch.num_envs, 1), dtype=torch.bool)
        return TensorDict(shown, batch_size=self.batch_size)

    def _step(self, tensordict: Any) -> Any:
        """Take a step in every copy."""
        actions = {
            agent: tensordict.get((group, "action"))[:, i].detach().numpy()
            for group, agents in self.group_map.items()
            for i, agent in enumerate(agents)
        }
        self._seen, rewards, terminated, truncated, infos = self.batch.step(actions)
        first = self.batch.agents[0]
        self._begun = terminated[first] | truncated[first]
        last, state = self._seen, self.batch.state()
        if self._begun.any():
            last = {agent: info["final_obs"] for agent, info in infos.items()}
            state = infos[first]["final_state"]
        shown = self._shown(last, state)
        for group, agents in self.group_map.items():
            earned = np.stack([rewards[agent] for agent in agents], axis=1) * self._reward_scale
            shown[group].set("reward", torch.as_tensor(earned, dtype=torch.float32)[..., np.newaxis])
        for name, flags in (
            ("done", self._begun),
            ("terminated", terminated[first]),
            ("truncated", truncated[first]),
        ):
            shown[name] = torch.as_tensor(flags.copy())[:, np.newaxis]
        return TensorDict(shown, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def _shown(self, observations: Mapping[str, Any], state: NDArray[np.float32]) -> dict[str, Any]:
        shown: dict[str, Any] = {"state": torch.as_tensor(state)}
        for group, agents in self.group_map.items():
            seen = np.stack([observations[agent] for agent in agents], axis=1)
            shown[group] = TensorDict({"observation": torch.as_tensor(seen)}, batch_size=seen.shape[:2])
        return shown


def _groups(batch: BatchedMicrogrids) -> dict[str, list[str]]:
    """Return agents by group: alike are those that observe and set the same, other agents' names aside."""
    alike: dict[Any, list[str]] = {}
    for agent in batch.agents:
        seen = tuple(
            "trade" if name.startswith("trade_") else name for name in batch.observation_names(agent)
        )
        alike.setdefault((seen, batch.action_names(agent)), []).append(agent)
    if len(alike) == 1:
        return {"agents": list(batch.agents)}
    return {agents[0]: agents for agents in alike.values()}


def _edges(space: Any) -> tuple[Any, Any]:
    return space.low, space.high
