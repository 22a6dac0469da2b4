"""Trajectories of an environment in plain numbers and texts, to compare one mode with another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from powergrid.envs import MultiAgentMicrogrids

TOLERANCE = 1e-9
Actions = Callable[[MultiAgentMicrogrids, np.random.Generator], dict[str, Any]]


def own_policies(env: MultiAgentMicrogrids, rng: np.random.Generator) -> dict[str, Any]:
    return {}


def random_actions(env: MultiAgentMicrogrids, rng: np.random.Generator) -> dict[str, Any]:
    return {a: rng.uniform(-1.0, 1.0, env.action_space(a).shape) for a in env.agents}


def some_random_actions(env: MultiAgentMicrogrids, rng: np.random.Generator) -> dict[str, Any]:
    return {a: action for a, action in random_actions(env, rng).items() if rng.random() < 0.5}


def told(observations: Any, rewards: Any, infos: Any) -> dict[str, Any]:
    """Return what a step says as numbers and texts by path; ``missed`` and the like included."""
    found: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                add(f"{path}/{key}", part)
        elif isinstance(value, list | tuple):
            found[f"{path}/n"] = len(value)
            for i, part in enumerate(value):
                add(f"{path}/{i}", part)
        elif hasattr(value, "__dataclass_fields__"):
            add(path, {name: getattr(value, name) for name in value.__dataclass_fields__})
        else:
            found[path] = value

    add("observation", observations)
    add("reward", rewards)
    add("info", infos)
    return found


def trajectory(env: MultiAgentMicrogrids, act: Actions, seed: int = 11) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    observations, infos = env.reset(seed=seed)
    steps = [told(observations, {}, infos)]
    while env.agents:
        observations, rewards, _, _, infos = env.step(act(env, rng))
        steps.append(told(observations, rewards, infos))
    return steps


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other)
    for step, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        assert list(mine) == list(theirs), f"step {step} says something else"
        for path, value in mine.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(theirs[path], value, rtol=0.0, atol=TOLERANCE, err_msg=path)
            elif isinstance(value, float):
                assert math.isclose(value, theirs[path], rel_tol=0.0, abs_tol=TOLERANCE), (
                    f"step {step}, {path}: {value} and {theirs[path]}"
                )
            else:
                assert value == theirs[path], f"step {step}, {path}: {value!r} and {theirs[path]!r}"
