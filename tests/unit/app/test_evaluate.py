"""What ``heron-mqtt evaluate`` counts in an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.evaluate import evaluate
from heron_mqtt.errors import ConfigError
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")

NARROW = {"reward.vm_min_pu": 0.98, "reward.vm_max_pu": 1.004, "reward.loading_max_percent": 12.0}


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_a_violation_counts_whatever_it_costs(weight: float) -> None:
    priced = {"reward.voltage_weight": weight, "reward.loading_weight": weight}
    loaded = scenario_from_dict(small({**NARROW, **priced}))
    (found,) = evaluate(loaded, ["scenario"], seeds=[0])
    env, expected = MultiAgentMicrogrids({"scenario": small(NARROW)}), 0
    env.reset(seed=0)
    while env.agents:
        terms = [info["reward_terms"] for info in env.step({})[4].values()]
        expected += sum(one["voltage"] < 0.0 or one["loading"] < 0.0 for one in terms)
    assert 0 < expected < 3 * env.max_episode_steps
    assert found.episodes[0].violations == expected


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"policies": ["rule", "mpc"]}, 'MG1: forecast.kind is "none"'),
        ({"policies": ["rule", "powergrid.policies:NetworkPolicy"]}, "argument 'checkpoint' is missing"),
        (
            {"policies": ["rule"], "networks": ["cut.toml"], "over": "calls"},
            "partitions in seconds need messages",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_has_run(
    how: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut = '[[impairment.partitions]]\npattern = ["agents/#"]\nbegin_s = 1.0\nend_s = 2.0\n'
    Path("cut.toml").write_text(cut, "utf-8")
    begun: list[str] = []
    with pytest.raises(ConfigError, match=complaint):
        evaluate(scenario_from_dict(small()), seeds=[0], progress=begun.append, **how)
    assert begun == []
