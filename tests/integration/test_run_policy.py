"""``heron-mqtt run --policy``: a controller of one's own decides; a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from heron_mqtt.record.reader import RecordFile
from support.heron_command import run_heron

CONTROLLER = """
class Idle:
    def __init__(self, env):
        self.env = env

    def act(self, agent, observation):
        if agent != "MG1":
            return None
        return [{"p_gen": -1.0, "p_pv": 1.0}.get(name, 0.0) for name in self.env.action_names(agent)]

class Mute:
    def __init__(self, env): ...

nothing = 5
"""
RUN = ("run", "--steps", "4", "--broker", "memory", "--json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CONTROLLER, encoding="utf-8")
    return tmp_path


def test_the_policy_decides_for_its_agents_and_the_others_do_as_ever(folder: Path) -> None:
    record = folder / "a.heron"
    done = run_heron(*RUN, "--policy", "mine:Idle", "--record", str(record), cwd=folder)
    assert done.code == 0, done.err
    with RecordFile(record) as read:
        powers = {row["agent"]: row["p"] for row in read.query(
            "SELECT agent, max(abs(p_mw)) AS p FROM devices WHERE device IN ('gen', 'ess') GROUP BY agent"
        )}  # fmt: skip
    assert powers["MG1"] == 0.0
    assert powers["MG2"] > 0.0


@pytest.mark.slow
def test_beside_a_disturbed_run_the_policy_sees_the_same_things(folder: Path) -> None:
    looks = "def act(self, agent, observation):\n        assert 'price' in self.env.observation_names(agent)"
    text = CONTROLLER.replace("def act(self, agent, observation):", looks)  # local: without agents' names
    (folder / "mine.py").write_text(text, encoding="utf-8")
    done = run_heron(*RUN, "--policy", "mine:Idle", "--network", "lan", cwd=folder)
    assert done.code == 0, done.err
    assert done.result["undisturbed"]["rewards"].keys() == done.result["rewards"].keys()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("mine", "--policy mine: expected module:Class"),
        ("nowhere:X", "--policy nowhere:X: cannot be imported"),
        ("mine:X", "--policy mine:X: mine has no X"),
        ("mine:nothing", "expected a class"),
        ("os:system", "expected a class that is made with the environment: Class(env)"),
        ("os:getpid", "expected a class that is made with the environment: Class(env)"),
        ("builtins:dict", "it has no method act(agent, observation)"),
        ("mine:Mute", "it has no method act(agent, observation)"),
    ],
)
def test_a_policy_that_is_none_is_refused_in_one_line(name: str, complaint: str, folder: Path) -> None:
    done = run_heron(*RUN, "--policy", name, cwd=folder)
    assert done.code == 2
    assert complaint in done.err
    assert "Traceback" not in done.err
