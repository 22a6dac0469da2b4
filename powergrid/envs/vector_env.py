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

_TOLD = ("price", "p_load_mw", "net_mwh", "loading_max_percent", "fallback", "missed")

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


class MicrogridVectorEnv(VectorEnv[Any, Floats, Flags]):
    """Copies of a scenario for learners of one agent.

    A copy whose episode has ended is handled as in ``gymnasium.vector.SyncVectorEnv``:

    - ``AutoresetMode.SAME_STEP``: it is reset within the same step. ``infos["final_obs"]`` has its last
      observation and ``infos["final_info"]`` the infos of its last step. The masks ``_final_obs`` and
      ``_final_info`` show which copies have them.
    - ``AutoresetMode.NEXT_STEP``: its last observation is returned as such. The next step begins its next
      episode and ignores its action: the reward is 0, and it is neither terminated nor truncated.
    - ``AutoresetMode.DISABLED``: its last observation is returned as such, and ``reset`` with ``reset_mask``
      begins these copies before the next step.

    Args:
        config: As ``BatchedMicrogrids``.
        agent: The agent that the actions control; the others follow their own policies. None = all agents:
            an action contains those of all agents, in the order of ``batch.agents``. The reward is their
            sum. The observation is that of the first agent (by default the whole grid).
        autoreset_mode: One of the modes, or its value.

    Attributes:
        batch: The copies.

    Raises:
        ConfigError: As ``BatchedMicrogrids``.
        ValueError: There is no such agent, or the one without action is chosen; or no such autoreset mode.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        agent: str | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        try:
            mode = AutoresetMode(autoreset_mode)
        except ValueError:
            known = " or ".join(repr(one.value) for one in AutoresetMode)
            raise ValueError(f"autoreset_mode: expected {known}, got {autoreset_mode!r}") from None
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
        self._mode = mode
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
            (n, n_observations) float32, or such by name; infos with ``start_row``, (n,), of those that begin.
        """
        observations, infos = self.batch.reset(seed, options)
        begun = self.batch.checked_mask(None if options is None else options.get("reset_mask"))
        return observations[self._seen], _beginnings(infos[self._seen]["start_row"], begun)

    def state(self) -> Floats:
        """Return (n, n_entries) the whole grid of each copy, for critics; ``batch.single_state_space``."""
        return self.batch.state()

    def step(self, actions: Floats) -> tuple[Any, Any, Flags, Flags, dict[str, Any]]:
        """Take a step.

        Args:
            actions: (n, n_actions), [-1, 1].

        Returns:
            Observations (n, n_observations) float32, or such by name; rewards (n,) $; terminations and
            truncations (n,) bool; infos. The infos are numbers of the step as (n,) arrays, named
            AGENT/quantity (with ``networks`` also ``fallback`` and ``missed``). ``diverged`` is there if a
            copy's power flow diverged, ``start_row`` for copies that have begun again. Each has a mask, ``_``
            and its name, of the copies that it is told of; of a copy that has begun again only ``start_row``
            is.

        Raises:
            ValueError: Wrong shape, or an entry that is not a finite number; nothing has happened.
            RuntimeError: Before ``reset``; of copies whose episode has ended, in ``DISABLED`` mode.
        """
        given = np.asarray(actions)
        if given.shape != self.action_space.shape:
            raise ValueError(f"actions: shape {given.shape}, expected {self.action_space.shape}")
        begun, is_same_step = None, self._mode is AutoresetMode.SAME_STEP
        if self._mode is AutoresetMode.NEXT_STEP and (ended := self.batch.ended).any():
            begun = ended
            given = np.where(begun[:, np.newaxis], 0.0, given)  # whatever it is, it is not taken
        parts = np.split(given, self._splits, axis=1)
        observations, rewards, terminated, truncated, told = self.batch.step(
            dict(zip(self._driven, parts, strict=True)), reset_mask=begun, autoreset=is_same_step
        )
        infos: dict[str, Any] = {}
        if is_same_step and (ended := terminated[self._seen] | truncated[self._seen]).any():
            begun, infos = ended, self._final_infos(told, ended)
        if begun is not None:
            infos |= _beginnings(told[self._seen]["start_row"], begun)
        infos |= self._step_infos(told, np.ones(self.num_envs, dtype=bool) if begun is None else ~begun)
        total = sum(rewards[name] for name in self._driven)
        return observations[self._seen], total, terminated[self._seen], truncated[self._seen], infos

    def close_extras(self, **kwargs: Any) -> None:
        """End the episodes."""
        if hasattr(self, "batch"):  # gymnasium also closes an environment that could not be made
            self.batch.close()

    def _final_infos(self, told: Mapping[str, Mapping[str, Any]], ended: Flags) -> dict[str, Any]:
        """Return the last observations of some copies, and what happened in their last step."""
        last = told[self._seen]["final_obs"]
        final_obs = np.full(self.num_envs, None, dtype=object)
        for copy in np.flatnonzero(ended):
            final_obs[copy] = (
                {name: part[copy] for name, part in last.items()} if isinstance(last, dict) else last[copy]
            )
        return {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": self._step_infos(told, ended),
            "_final_info": ended.copy(),
        }

    def _step_infos(self, told: Mapping[str, Mapping[str, Any]], who: Flags) -> dict[str, Any]:
        """Return what happened in some copies, 0 of the others; nothing if there are none."""
        if not who.any():
            return {}
        found: dict[str, Any] = {}
        for name in self._driven:
            info = told[name]
            for quantity in _TOLD:
                if quantity in info:
                    found[f"{name}/{quantity}"] = info[quantity]
            for kind in ("p_mw", "soc", "reward_terms"):
                for part, values in info[kind].items():
                    found[f"{name}/{kind}/{part}"] = values
        masks = {f"_{key}": who for key in found}
        if not who.all():
            found = {key: np.where(who, values, np.zeros_like(values)) for key, values in found.items()}
        diverged = told[self._seen].get("diverged")
        if diverged is not None and (diverged & who).any():
            found["diverged"] = masks["_diverged"] = diverged & who
        return {**found, **masks}


def _beginnings(rows: NDArray[np.int64], begun: Flags) -> dict[str, Any]:
    """Return the infos of (n,) copies that begin: where in the time series; 0 of the others."""
    return {"start_row": np.where(begun, rows, 0), "_start_row": begun.copy()}
