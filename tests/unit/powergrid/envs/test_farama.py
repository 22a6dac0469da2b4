"""gymnasium and PettingZoo are there as ever, though an environment does not run all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = "import powergrid.envs.multi_agent_microgrids as ours, sys"
WHOLE = """
import gymnasium, pettingzoo, pettingzoo.utils
assert pettingzoo.utils.env.ParallelEnv is pettingzoo.ParallelEnv is ours.MultiAgentMicrogrids.__mro__[2], 1
assert gymnasium.spaces.Box is ours.Box and pettingzoo.utils.wrappers and "CartPole-v1" in gymnasium.registry
assert sys.modules["gymnasium.spaces.box"].gym is gymnasium and gymnasium.logger
for package in (gymnasium, pettingzoo, pettingzoo.utils):
    assert package.__spec__.loader is package.__loader__ and package.__path__
assert not [finder for finder in sys.meta_path if "powergrid" in type(finder).__module__]
try:
    gymnasium.nothing
except AttributeError:
    print("as ever")
"""
USES = {
    "gymnasium": "import gymnasium",
    "a name": "from pettingzoo import ParallelEnv; from gymnasium import make",
    "a module": "import gymnasium.envs.registration, pettingzoo.test",
    "a wrapper": "from pettingzoo.utils.conversions import parallel_to_aec; import gymnasium.wrappers",
    "a module that was imported": "import gymnasium.spaces, pettingzoo.utils.env",
    "vector environments": "import powergrid.envs.vector_env, powergrid.envs.batched",
    "by its own module": "sys.modules['gymnasium.spaces.box'].gym.logger.warn",
    "threads": "import threading as t\nfor n in 'gymnasium', 'pettingzoo', 'pettingzoo.utils': "
    "t.Thread(target=__import__, args=(n,)).start()",
}


def python(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.slow_but("a module")
@pytest.mark.parametrize("use", USES)
def test_they_are_used_as_ever(use: str) -> None:
    assert python(f"{OURS}\n{USES[use]}\n{WHOLE}") == "as ever"


@pytest.mark.slow
def test_what_was_imported_before_is_left_alone() -> None:
    code = (
        f"import gymnasium as theirs, pettingzoo\n{OURS}\nassert theirs is sys.modules['gymnasium']\n{WHOLE}"
    )
    assert python(code) == "as ever"


@pytest.mark.slow
def test_an_import_that_fails_leaves_no_half_of_a_package() -> None:
    code = """
import sys
sys.modules["pettingzoo.utils.env"] = None
try:
    import powergrid.envs.farama
except ImportError:
    print("gymnasium" in sys.modules, "pettingzoo" in sys.modules)
import gymnasium
print(gymnasium.make.__name__)
"""
    assert python(code).split() == ["False", "False", "make"]
