"""The recipes of docs/training.md run with the libraries that they are for, and stay short."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from powergrid.envs import MultiAgentMicrogrids
from powergrid.policies.scoring import with_policy
from powergrid.scenario import load_scenario
from support.doc_pages import ROOT

EXAMPLES = ROOT / "docs" / "examples"
# Recipe -> the extra that it needs, a module of it, and what the recipe prints last.
RECIPES = {
    "pettingzoo": ("", "pettingzoo", "turn by turn, done"),
    "sb3": ("rl", "stable_baselines3", "a day with the trained network: "),
    "rllib": ("rllib", "ray", "return of a day: "),
    "torchrl": ("torchrl", "torchrl", "return of a day: "),
    "benchmarl": ("torchrl", "benchmarl", "return of an episode, scaled: "),
}


def step_by_network(checkpoint: Path) -> None:
    """Let every agent decide by a network that a recipe wrote: it has to fit what agents see and set."""
    loaded = with_policy(
        load_scenario("training_days"), "powergrid.policies:NetworkPolicy", {"checkpoint": str(checkpoint)}
    )
    env = MultiAgentMicrogrids({"scenario": loaded, "observation_scale": "unit"})
    env.reset(seed=1)
    rewards = env.step({})[1]
    assert all(np.isfinite(reward) for reward in rewards.values())


def file(name: str) -> Path:
    return EXAMPLES / f"recipe_{name}.py"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_at_most_30_lines_and_stands_on_the_page(name: str) -> None:
    text = file(name).read_text(encoding="utf-8")
    lines = [
        line for line in text.splitlines() if line.strip() and not line.startswith(('"""', "import", "from"))
    ]
    assert len(lines) <= 30
    assert text in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_recipe_is_tested() -> None:
    assert {path.stem.removeprefix("recipe_") for path in EXAMPLES.glob("recipe_*.py")} == set(RECIPES)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name: str, tmp_path: Path) -> None:
    extra, module, printed = RECIPES[name]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'heron-mqtt[{extra}]'")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file(name))],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout.splitlines()[-1]
    if name in ("sb3", "torchrl"):
        checkpoint = tmp_path / "shared.npz"
        assert checkpoint.exists()
        step_by_network(checkpoint)
