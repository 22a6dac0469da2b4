"""CityLearn's scores of what all microgrids draw from the grid, and their ratios to batteries at rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from heron_mqtt.app.evaluate import EpisodeScore, Evaluation, MeanEstimate, evaluate
from powergrid.envs import MultiAgentMicrogrids
from powergrid.policies.district_scores import DistrictScores, district_scores
from powergrid.policies.scoring import with_policy
from powergrid.scenario import LoadedScenario, load_scenario

HOUR_S = 3600.0


def short() -> LoadedScenario:
    loaded = load_scenario("training_days")
    return loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"steps": 6})})


def evaluation(*values: float | None) -> Evaluation:
    episodes = [
        EpisodeScore(seed, 0.0, 0.0, district=DistrictScores(1.0, 1.0, 1.0, 1.0, value))
        for seed, value in enumerate(values)
    ]
    return Evaluation("any", "", tuple(episodes))


def test_they_are_what_was_worked_out_by_hand() -> None:
    found = district_scores([2.0, -1.0, 3.0, 4.0], [10.0, 99.0, 20.0, 5.0], HOUR_S)
    assert found.cost_usd == 2.0 * 10.0 + 3.0 * 20.0 + 4.0 * 5.0  # what is fed in earns nothing
    assert found.consumption_mwh == 9.0
    assert found.ramping_mw == 4.0 + 1.0  # rises only
    assert found.daily_peak_mw == 4.0
    assert found.one_minus_load_factor == 1.0 - 2.0 / 4.0


def test_they_are_citylearns_own() -> None:
    """The expected values are those of CityLearn 3.0.2 for the same series, a window of 24 steps."""
    rng = np.random.default_rng(0)
    drawn, price = rng.normal(1.0, 1.5, 72).tolist(), rng.uniform(10.0, 90.0, 72).tolist()
    found = district_scores(drawn, price, HOUR_S)
    assert found.cost_usd == pytest.approx(4877.419417534686, rel=1e-12)
    assert found.consumption_mwh == pytest.approx(93.51271814250981, rel=1e-12)
    assert found.ramping_mw == pytest.approx(51.697456437897074, rel=1e-12)
    assert found.daily_peak_mw == pytest.approx(3.564178328432888, rel=1e-12)
    assert found.one_minus_load_factor == pytest.approx(0.6853421944730616, rel=1e-12)


def test_peaks_are_of_days_and_powers_do_not_depend_on_the_step() -> None:
    hourly = [1.0] * 23 + [2.0] + [1.0] * 20 + [5.0] + [1.0] * 3
    quarters = [0.25 * value for value in hourly for _ in range(4)]
    one, other = (
        district_scores(drawn, [1.0] * len(drawn), step_s)
        for drawn, step_s in ((hourly, HOUR_S), (quarters, 900.0))
    )
    assert one.daily_peak_mw == 0.5 * (2.0 + 5.0)
    for quantity in DistrictScores.__dataclass_fields__:
        assert getattr(other, quantity) == pytest.approx(getattr(one, quantity), rel=1e-12)


def test_a_day_without_any_demand_has_no_load_factor() -> None:
    assert district_scores([-1.0, -2.0], [1.0, 1.0], HOUR_S).one_minus_load_factor is None


def test_an_evaluation_adds_up_what_its_steps_draw() -> None:
    loaded = short()
    env = MultiAgentMicrogrids({"scenario": with_policy(loaded, "random"), "observation": "local"})
    env.reset(seed=3)
    drawn, price = [], []
    while env.agents:
        infos = env.step({})[4]
        # The power balance of each microgrid, from its devices and loads.
        drawn.append(-0.25 * sum(sum(i["p_mw"].values()) + i["p_load_mw"] for i in infos.values()))
        price.append(infos["MG1"]["price"] + loaded.scenario.market.import_adder_per_mwh)
    expected = district_scores(drawn, price, loaded.scenario.step_s)
    found: Any = evaluate(loaded, ["random"], seeds=[3])[0].episodes[0].district
    for quantity in DistrictScores.__dataclass_fields__:
        assert getattr(found, quantity) == pytest.approx(getattr(expected, quantity), rel=1e-9)
    assert found.consumption_mwh > 0.0


def test_batteries_at_rest_are_exactly_1_and_others_are_not() -> None:
    idle, random = evaluate(short(), ["idle", "random"], seeds=[0, 1])
    assert idle.district_ratio("ramping_mw", idle) == MeanEstimate(1.0, 0.0)
    ratio = random.district_ratio("ramping_mw", idle)
    assert ratio is not None
    assert ratio.mean > 1.0
    assert random.as_dict(idle)["to_idle"]["ramping_mw"]["mean"] == ratio.mean


def test_a_ratio_is_one_of_sums_with_the_interval_of_paired_episodes() -> None:
    quantity = "one_minus_load_factor"
    found = evaluation(1.0, 5.0).district_ratio(quantity, evaluation(2.0, 4.0))
    assert found is not None
    assert found.mean == 1.0  # (1 + 5) / (2 + 4), not the mean of 1/2 and 5/4
    # Residuals -1 and 1 over the mean 3: deviation sqrt(2) / 3, t = 12.706 with one degree of freedom.
    assert found.half == pytest.approx(12.7062 / 3.0, rel=1e-4)
    assert evaluation(1.0).district_ratio(quantity, evaluation(2.0)).half is None  # type: ignore[union-attr]


@pytest.mark.parametrize(("mine", "theirs"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_there_is_no_ratio_of_what_is_not_known(mine: float | None, theirs: float | None) -> None:
    assert evaluation(mine).district_ratio("one_minus_load_factor", evaluation(theirs)) is None
