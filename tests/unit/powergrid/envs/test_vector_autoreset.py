"""``MicrogridVectorEnv`` resets copies as gymnasium's vector of single environments does, in each mode."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import FlattenObservation, NormalizeObservation, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from powergrid.agents.policy import AgentPolicy, PolicyContext, PolicyView
from powergrid.envs import BatchedMicrogrids, MicrogridVectorEnv, MultiAgentMicrogrids
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")

HERE = f"{Path(__file__).resolve()}"
N = 3
# With this generator's power the grid has no solution: a copy ends before the others.
MIGHTY = {"microgrids.MG3.devices.gen": {"kind": "generator", "max_p_mw": 100.0}}
RANDOM = {"randomisation": {"start": "random", "load_noise": 0.1, "response_delay_s": [0.0, 600.0]}}
REMEMBERING = {
    "microgrids.MG1.policy": f"{HERE}:Counting",
    "microgrids.MG2.policy": f"{HERE}:CountingCopies",
}
# Changes of the scenario, and the rest of the configuration.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flat": ({}, {}),
    "by name, NaN": ({"reward.on_divergence": "nan"}, {"observation_form": "dict", "observation": "local"}),
    "with losses": ({}, {"networks": ["lte_poor", "partition"]}),
    "remembering": (REMEMBERING, {}),
    "remembering, with losses": (REMEMBERING, {"networks": ["lte_poor"]}),
}
CHECKED = {**REMEMBERING, "envelope.grid_check": True}  # no plan without solution passes


class Counting(AgentPolicy):
    """Discharges by how often it was asked in the episode, and by the episode's number."""

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._count = 0.0

    def reset(self, episode: int, seed: int | None) -> None:
        self._count = 10.0 * episode + (seed or 0) % 7

    def get_state(self) -> Any:
        return self._count

    def set_state(self, state: Any) -> None:
        self._count = state

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        self._count += 1.0
        return {"p_ess": 0.01 * np.sin(self._count)}


class CountingCopies(Counting):
    """The same, for all copies at once."""

    decides_for_copies: ClassVar[bool] = True

    def reset_copies(self, copies: Any, episodes: Sequence[int], seeds: Sequence[int]) -> None:
        self._count = np.broadcast_to(self._count, self.context.n or 0).copy()
        self._count[copies] = [10.0 * one + seed % 7 for one, seed in zip(episodes, seeds, strict=True)]

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        self._count = self._count + (1.0 if view.asked is None else view.asked)
        return {"p_ess": 0.01 * np.sin(self._count)}


class Single(gymnasium.Env[Any, Any]):
    """One agent of a single environment, or all of them as one, with infos by AGENT/quantity."""

    def __init__(self, config: Mapping[str, Any], agent: str | None) -> None:
        self._env = MultiAgentMicrogrids(dict(config))
        self._driven = self._env.possible_agents if agent is None else [agent]
        self._sizes = [self._env.action_space(name).shape[0] for name in self._driven]
        self.observation_space = self._env.observation_space(self._driven[0])
        self.action_space = Box(-1.0, 1.0, (sum(self._sizes),), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        seen = self._env.reset(seed=seed, options=options)[0]
        return seen[self._driven[0]], {"start_row": np.int64(self._env.get_state().position["start_row"])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        parts = np.split(action, np.cumsum(self._sizes)[:-1])
        seen, rewards, terminated, truncated, infos = self._env.step(
            dict(zip(self._driven, parts, strict=True))
        )
        told: dict[str, Any] = {}
        for name in self._driven:
            info = infos[name]
            told |= {
                f"{name}/{key}": info[key] for key in ("price", "p_load_mw", "net_mwh", "loading_max_percent")
            }
            for kind in ("p_mw", "soc", "reward_terms"):
                told |= {f"{name}/{kind}/{part}": value for part, value in info[kind].items()}
            if self._env.config.networks:
                told[f"{name}/fallback"] = info["fallback"] is not None
                told[f"{name}/missed"] = info["missed"]
            if info.get("diverged"):
                told["diverged"] = True
        first = self._driven[0]
        total = sum(rewards[name] for name in self._driven)
        return seen[first], total, terminated[first], truncated[first], told


def both(
    kind: str, agent: str | None, mode: AutoresetMode, n_steps: int = 3
) -> tuple[MicrogridVectorEnv, SyncVectorEnv]:
    changes, more = (CHECKED, {"networks": ["lte_poor"]}) if kind == "checked" else KINDS[kind]
    config = {"scenario": small({**RANDOM, **MIGHTY, **changes}), "max_episode_steps": n_steps, **more}
    mine = MicrogridVectorEnv({**config, "num_envs": N}, agent, autoreset_mode=mode)
    return mine, SyncVectorEnv([lambda: Single(config, agent)] * N, autoreset_mode=mode)


def assert_same(mine: Any, theirs: Any, where: str = "") -> None:
    """Compare what the two return, through dicts and arrays of objects, to 1e-9; float32 to its last bits."""
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for key, part in theirs.items():
            assert_same(mine[key], part, f"{where}/{key}")
    elif isinstance(theirs, tuple) or (isinstance(theirs, np.ndarray) and theirs.dtype == object):
        for i, (part, other) in enumerate(zip(mine, theirs, strict=True)):
            assert_same(part, other, f"{where}/{i}")
    elif theirs is None:
        assert mine is None, where
    else:
        is_short = getattr(theirs, "dtype", None) == np.float32
        # Of a loading, %, also what two power flows leave that stop within their tolerance.
        near = (3e-7, 1e-7) if is_short else (1e-9, 1e-6 if "percent" in where else 1e-9)
        np.testing.assert_allclose(
            np.asarray(mine, np.float64), np.asarray(theirs, np.float64), *near, err_msg=where
        )


def walk(mine: Any, theirs: Any, mode: AutoresetMode, draws: Sequence[Sequence[bool]], seed: int) -> set[int]:
    """Take steps in both, and compare; return how many copies ended at a time.

    ``draws`` says, for each step and each copy, whether the mighty generator starts.
    """
    assert_same(mine.reset(seed=seed), theirs.reset(seed=seed), "reset")
    rng, ends = np.random.default_rng(seed), set()
    gen = -len(mine.batch.action_names("MG3"))  # MG3 is the last agent
    for step, starts in enumerate(draws):
        actions = rng.uniform(-1.0, 1.0, mine.action_space.shape).astype(np.float32)
        actions[:, gen] = np.where(starts, 1.0, -1.0)
        found, expected = mine.step(actions), theirs.step(actions)
        for name, *pair in zip(
            ("observations", "rewards", "terminated", "truncated", "infos"), found, expected, strict=True
        ):
            assert_same(*pair, f"{name} of step {step}")
        assert found[0] in mine.observation_space or mine.batch.scenario.reward.on_divergence == "nan"
        ended = found[2] | found[3]
        ends.add(int(ended.sum()))
        if mode is AutoresetMode.DISABLED and ended.any():
            # options of their own: gymnasium takes the mask out of them
            assert_same(
                mine.reset(options={"reset_mask": ended}),
                theirs.reset(options={"reset_mask": ended.copy()}),
                f"reset after step {step}",
            )
    return ends


@pytest.mark.slow_but(
    *("flat-MG3-AutoresetMode.NEXT_STEP", "flat-None-AutoresetMode.DISABLED"),
    "remembering, with losses-MG3-AutoresetMode.SAME_STEP",
)
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("kind", "agent"), [(kind, "MG3") for kind in KINDS] + [("flat", None)])
def test_each_mode_is_gymnasiums(mode: AutoresetMode, kind: str, agent: str | None) -> None:
    mine, theirs = both(kind, agent, mode)
    assert mine.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is mode

    @settings(deadline=None, max_examples=max(1, settings.default.max_examples // 10))
    @given(st.lists(st.tuples(*[st.sampled_from([False, False, True])] * N), min_size=8, max_size=8))
    def property_(draws: list[tuple[bool, ...]]) -> None:
        walk(mine, theirs, mode, draws, seed=len(str(draws)))

    property_()
    uneven = [(step == 0, step in {1, 5}, False) for step in range(9)]
    assert walk(mine, theirs, mode, uneven, seed=5) >= {0, 1}


@pytest.mark.slow_but("checked-AutoresetMode.SAME_STEP", "with losses-AutoresetMode.DISABLED")
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("kind", ["with losses", "checked"])
def test_a_mask_begins_copies_in_every_mode(mode: AutoresetMode, kind: str) -> None:
    mine, theirs = both(kind, "MG3", mode, n_steps=4)
    for env in (mine, theirs):
        env.reset(seed=2)
    quiet = np.full(mine.action_space.shape, -1.0, dtype=np.float32)
    masks = [[False, True, False], None, None, [True, False, True], [True, True, True], None]
    for step, mask in enumerate(masks):  # copy 1 ends after step 4, the others after step 3
        assert_same(mine.step(quiet), theirs.step(quiet), f"step {step}")
        if mask is not None:
            begun, expected = (env.reset(options={"reset_mask": np.array(mask)}) for env in (mine, theirs))
            assert_same(begun, expected, f"reset after step {step}")
    assert_same(mine.reset(), theirs.reset(), "reset of all, without a seed")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_begins_in_the_next_step_as_the_original_does(duplicate: Any) -> None:
    mine, _ = both("flat", "MG3", AutoresetMode.NEXT_STEP)
    mine.reset(seed=1)
    actions = np.full(mine.action_space.shape, -1.0, dtype=np.float32)
    actions[1, 0] = 1.0
    mine.step(actions)
    other = duplicate(mine)
    actions[1, 0] = -1.0
    for _ in range(4):
        assert_same(other.step(actions), mine.step(actions))


def test_wrappers_of_observations_work_where_copies_begin_in_the_next_step() -> None:
    config = {"scenario": small(RANDOM), "num_envs": N, "max_episode_steps": 2}
    by_name = MicrogridVectorEnv({**config, "observation_form": "dict"}, "MG1", autoreset_mode="NextStep")
    flat = MicrogridVectorEnv(config, "MG1", autoreset_mode=AutoresetMode.NEXT_STEP)
    for wrapped in (FlattenObservation(by_name), NormalizeObservation(flat)):
        counted = RecordEpisodeStatistics(wrapped)
        counted.reset(seed=1)
        for step in range(6):
            seen, _, _, truncated, infos = counted.step(np.zeros(counted.action_space.shape, np.float32))
            assert seen.shape == counted.observation_space.shape
            assert truncated.all() == (step % 3 == 1)
            assert ("episode" in infos) == truncated.all()


def test_a_step_that_is_refused_begins_nothing() -> None:
    mine, _ = both("flat", "MG3", AutoresetMode.NEXT_STEP)
    mine.reset(seed=1)
    actions = np.full(mine.action_space.shape, -1.0, dtype=np.float32)
    actions[1, 0] = 1.0
    assert mine.step(actions)[2].tolist() == [False, True, False]
    actions[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"index 0 \(p_gen\) is nan"):
        mine.step(actions)
    actions[0, 0], actions[1, 0] = -1.0, np.nan  # of a copy that begins it is not looked at
    assert mine.step(actions)[4]["_start_row"].tolist() == [False, True, False]


def test_a_batch_refuses_a_mask_that_is_none_and_a_step_of_what_has_ended() -> None:
    batch = BatchedMicrogrids({"scenario": small(RANDOM), "num_envs": N, "max_episode_steps": 1})
    batch.reset(seed=1)
    batch.step(autoreset=False)
    assert batch.ended.all()
    state = batch.get_state()
    for wrong in (np.zeros(2, dtype=bool), [0, 1, 0]):
        with pytest.raises(ValueError, match="reset_mask: expected 3 of True and False"):
            batch.step(reset_mask=wrong)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"episode has ended \(\[1, 2\]\)"):
        batch.step(reset_mask=np.array([True, False, False]))
    batch.step(reset_mask=np.ones(N, dtype=bool))
    assert not batch.ended.any()
    batch.set_state(state)
    assert batch.ended.all()
