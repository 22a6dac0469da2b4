"""``BatchedMicrogrids`` as a ``gymnasium.vector.VectorEnv``: one agent, or all of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from powergrid.envs.batched import BatchedMicrogrids

__all__ = ["MicrogridVectorEnv"]

_MODES = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
_TOLD = ("price", "p_load_mw", "net_mwh", "loading_max_percent", "fallback", "missed")

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


class MicrogridVectorEnv(VectorEnv[Any, Floats, Flags]):
    """Copies of a scenario for learners of one agent.

    A copy whose episode has ended is reset within the same step (``AutoresetMode.SAME_STEP``): then
    ``infos["final_obs"]`` has its last observation and ``infos["final_info"]`` what happened in its last
    step, with ``_final_obs`` and ``_final_info`` saying which copies have them. With
    ``AutoresetMode.DISABLED`` the last observation is returned as such, and ``reset`` with ``reset_mask``
    begins these copies before the next step: gymnasium's wrappers of observations ask for it.

    Args:
        config: As ``BatchedMicrogrids``.
        agent: Whom the actions drive; the others follow their own policies. None = all of them: actions are
            those of all agents side by side, in the order of ``batch.agents``, the reward is their sum, and
            the observation is the first one's (the whole grid, unless the configuration says otherwise).
        autoreset_mode: ``SAME_STEP`` or ``DISABLED``, or the value of one of them.

    Attributes:
        batch: The copies.

    Raises:
        ConfigError: As ``BatchedMicrogrids``.
        ValueError: There is no such agent, or the one without action is chosen; or another autoreset mode.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        agent: str | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        mode = next((one for one in _MODES if autoreset_mode in (one, one.value)), None)
        if mode is None:
            known = " or ".join(repr(one.value) for one in _MODES)
            raise ValueError(f"autoreset_mode: expected {known}, got {autoreset_mode!r}")
        self.batch = batch = BatchedMicrogrids(config)
        if agent is not None and agent not in batch.agents:
            raise ValueError(f"agent {agent!r}: there are {', '.join(batch.agents)}")
        self._driven = list(batch.agents) if agent is None else [agent]
        self._seen = self._driven[0]
        sizes = [len(batch.action_names(name)) for name in self._driven]
        if not sum(sizes):
            raise ValueError(f"agent {agent!r} has no action")
        self._splits = np.cumsum(sizes)[:-1]
        self.num_envs = batch.num_envs
        self.metadata = {"autoreset_mode": mode, "render_modes": []}
        self._waits = mode is AutoresetMode.DISABLED
        self._ended = np.zeros(self.num_envs, dtype=bool)  # copies whose next episode waits for reset
        self._has_rows = False
        self._now: Any = None  # of the episode that each copy is in; where it waits, of the next one
        self._last: Any = None
        self._last_state = self._rows = np.zeros(0)
        self.render_mode = None
        self.single_observation_space = batch.single_observation_space(self._seen)
        self.single_action_space = Box(-1.0, 1.0, (sum(sizes),), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: See ``BatchedMicrogrids.reset``.
            options: ``start_rows``, (n,) rows of the series; ``reset_mask``, (n,) bool: begin these alone.

        Returns:
            (n, n_observations) float32, or such by name; infos with ``start_row``, (n,).
        """
        given = options if isinstance(options, Mapping) else {}
        waiting = self._ended
        if seed is not None or "start_rows" in given or self._has_rows or given.get("reset_mask") is None:
            waiting = np.zeros_like(self._ended)  # what the batch has begun is not what is asked for
        if not waiting.any():
            observations, infos = self.batch.reset(seed, options)
            begun = self.batch.checked_mask(given.get("reset_mask"))
            self._has_rows = "start_rows" in given
        else:
            begun = self.batch.checked_mask(given["reset_mask"])
            if (begun & ~waiting).any():
                observations, infos = self.batch.reset(None, {**given, "reset_mask": begun & ~waiting})
            else:
                observations, infos = {self._seen: self._now}, {self._seen: {"start_row": self._rows}}
        self._now, self._rows = observations[self._seen], infos[self._seen]["start_row"]
        self._ended = self._ended & ~begun
        return self._shown(), {"start_row": self._rows, "_start_row": begun}

    def state(self) -> Floats:
        """Return (n, n_entries) the whole grid of each copy, for critics; ``batch.single_state_space``."""
        now = self.batch.state()
        return np.where(self._ended[:, np.newaxis], self._last_state, now) if self._ended.any() else now

    def step(self, actions: Floats) -> tuple[Any, Any, Flags, Flags, dict[str, Any]]:
        """Take a step.

        Args:
            actions: (n, n_actions), [-1, 1].

        Returns:
            Observations (n, n_observations) float32, or such by name; rewards (n,) $; terminations and
            truncations (n,) bool; and infos: numbers of the step as (n,) arrays, named AGENT/quantity (with
            ``networks`` also ``fallback`` and ``missed``); ``diverged`` where a copy's power flow did; and
            ``start_row`` of copies that have begun again.

        Raises:
            ValueError: Wrong shape, or an entry that is not a finite number; nothing has happened.
            RuntimeError: Before ``reset``; of copies whose episode has ended, in ``DISABLED`` mode.
        """
        if self._ended.any():
            raise RuntimeError(
                f"step() of copies whose episode has ended ({np.flatnonzero(self._ended).tolist()}): begin "
                'them with reset(options={"reset_mask": terminated | truncated}) first'
            )
        given = np.asarray(actions)
        if given.shape != self.action_space.shape:
            raise ValueError(f"actions: shape {given.shape}, expected {self.action_space.shape}")
        parts = np.split(given, self._splits, axis=1)
        observations, rewards, terminated, truncated, told = self.batch.step(
            dict(zip(self._driven, parts, strict=True))
        )
        total = sum(rewards[name] for name in self._driven)
        infos = self._infos(told)
        ended = terminated[self._seen] | truncated[self._seen]
        self._now = observations[self._seen]
        if ended.any() and self._waits:
            self._ended, self._rows = ended, told[self._seen]["start_row"]
            self._last, self._last_state = told[self._seen]["final_obs"], told[self._seen]["final_state"]
        elif ended.any():
            last = told[self._seen]["final_obs"]
            infos["final_info"] = dict(infos)
            infos["final_obs"] = np.array([None] * self.num_envs, dtype=object)
            for copy in np.flatnonzero(ended):
                infos["final_obs"][copy] = (
                    {name: part[copy] for name, part in last.items()}
                    if isinstance(last, dict)
                    else last[copy]
                )
            infos["_final_obs"], infos["_final_info"] = ended, ended.copy()
            infos["start_row"], infos["_start_row"] = told[self._seen]["start_row"], ended.copy()
        return self._shown(), total, terminated[self._seen], truncated[self._seen], infos

    def close_extras(self, **kwargs: Any) -> None:
        """End the episodes."""
        self.batch.close()

    def _shown(self) -> Any:
        """Return what is seen: of copies that wait, the end of their episode."""
        if not self._ended.any():
            return self._now
        if isinstance(self._now, dict):
            return {name: self._of_each(self._last[name], part) for name, part in self._now.items()}
        return self._of_each(self._last, self._now)

    def _of_each(self, last: Floats, now: Floats) -> Floats:
        return np.where(self._ended.reshape(-1, *[1] * (now.ndim - 1)), last, now)

    def _infos(self, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, dtype=bool)
        found: dict[str, Any] = {}
        for name in self._driven:
            info = told[name]
            for quantity in _TOLD:
                if quantity in info:
                    found[f"{name}/{quantity}"] = info[quantity]
            for kind in ("p_mw", "soc", "reward_terms"):
                for part, values in info[kind].items():
                    found[f"{name}/{kind}/{part}"] = values
        masks = {f"_{key}": everyone for key in found}
        if (diverged := told[self._seen].get("diverged")) is not None:
            found["diverged"] = masks["_diverged"] = diverged
        return {**found, **masks}
