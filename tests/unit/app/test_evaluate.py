"""What ``heron-mqtt evaluate`` counts in an episode."""

from __future__ import annotations

import pytest

from heron_mqtt.app.evaluate import evaluate
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
