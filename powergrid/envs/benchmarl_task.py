"""A scenario as a task of BenchMARL. Extra ``torchrl``, and benchmarl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarl.environments.common import TaskClass

from powergrid.envs.torchrl_env import TorchMicrogrids

__all__ = ["MicrogridTask"]


class MicrogridTask(TaskClass):
    """``TorchMicrogrids`` as BenchMARL wants it: batched by itself, continuous actions, a state for critics.

    Args:
        name: Of the task, in BenchMARL's logs.
        config: As ``BatchedMicrogrids`` without ``num_envs``, which the experiment decides, and optionally
            ``reward_scale``.
    """

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any
    ) -> Callable[[], TorchMicrogrids]:
        """Return what makes an environment of so many copies."""
        config = {**self.config, "num_envs": num_envs}
        scale = config.pop("reward_scale", 1.0)

        def make() -> TorchMicrogrids:
            env = TorchMicrogrids(config, reward_scale=scale)
            if seed is not None:
                env.set_seed(seed)
            return env

        return make

    def supports_continuous_actions(self) -> bool:
        """Yes."""
        return True

    def supports_discrete_actions(self) -> bool:
        """No: powers are continuous."""
        return False

    def max_steps(self, env: Any) -> int:
        """Return the length of an episode."""
        return int(env.batch.max_episode_steps)

    def has_render(self, env: Any) -> bool:
        """No."""
        return False

    def group_map(self, env: Any) -> dict[str, list[str]]:
        """Return the agents by group."""
        return dict(env.group_map)

    def observation_spec(self, env: Any) -> Any:
        """Return the spec of the groups' observations."""
        spec = env.full_observation_spec_unbatched.clone()
        del spec["state"]
        return spec

    def state_spec(self, env: Any) -> Any:
        """Return the spec of ``state``."""
        spec = env.full_observation_spec_unbatched.clone()
        for group in env.group_map:
            del spec[group]
        return spec

    def action_spec(self, env: Any) -> Any:
        """Return the spec of the groups' actions."""
        return env.full_action_spec_unbatched

    def info_spec(self, env: Any) -> None:
        """Return None: there is no info."""

    def action_mask_spec(self, env: Any) -> None:
        """Return None: every action may be taken."""

    @staticmethod
    def env_name() -> str:
        """Return the name under which BenchMARL logs."""
        return "microgrids"
