"""What is foretold: what comes, what was a day before, or what comes with an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from support.small_grid import scenario as small
from support.trajectories import assert_same, own_policies, trajectory

pytestmark = pytest.mark.usefixtures("built_once")

RANDOM = {"start": "random", "load_noise": 0.1, "pv_noise": 0.2, "price_noise_per_mwh": 5.0}
NAMES = ("price", "p_load_mw", "p_available_pv")


def make(kind: str, **config: Any) -> MultiAgentMicrogrids:
    made = small({"forecast": {"kind": kind, "horizon": 8}, "randomisation": dict(RANDOM)})
    return MultiAgentMicrogrids({"scenario": made, "observation": "local", **config})


def seen(env: MultiAgentMicrogrids, observations: Any) -> dict[str, float]:
    return dict(zip(env.observation_names("MG1"), observations["MG1"].tolist(), strict=True))


def test_a_perfect_forecast_is_what_comes() -> None:
    env = make("perfect")
    begun = seen(env, env.reset(seed=2)[0])
    for k in range(1, 9):
        now = seen(env, env.step({})[0])
        for name in NAMES:
            assert begun[f"{name}+{k}"] == pytest.approx(now[name], rel=1e-6), (name, k)


def test_persistence_is_the_day_before() -> None:
    env = make("persistence")
    told = seen(env, env.reset(options={"start_row": 200})[0])
    series = env.simulation.series
    for k in range(1, 9):
        before = series.outlook(200 + k - 96)
        assert told[f"price+{k}"] == pytest.approx(before.price, rel=1e-6)
        assert told[f"p_load_mw+{k}"] == pytest.approx(before.p_load_mw[0], rel=1e-6)


def test_the_error_of_a_noisy_forecast_grows_and_repeats() -> None:
    perfect, noisy = make("perfect"), make("noisy")
    errors = []
    for seed in range(150):
        right, told = seen(perfect, perfect.reset(seed=seed)[0]), seen(noisy, noisy.reset(seed=seed)[0])
        errors.append([told[f"price+{k}"] / right[f"price+{k}"] - 1.0 for k in (1, 8)])
    deviation = np.std(errors, axis=0)
    assert deviation[1] == pytest.approx(0.1, rel=0.2)
    assert deviation[0] == pytest.approx(0.1 / np.sqrt(8.0), rel=0.2)
    assert noisy.reset(seed=3)[0]["MG1"].tobytes() == noisy.reset(seed=3)[0]["MG1"].tobytes()


@pytest.mark.parametrize("kind", ["perfect", "persistence", "noisy"])
def test_every_mode_foretells_the_same(kind: str) -> None:
    central = trajectory(make(kind), own_policies)
    env = make(kind, centralized=False, message_broker=InMemoryBroker())
    assert_same(central, trajectory(env, own_policies))
    env.close()
    made = small({"forecast": {"kind": kind, "horizon": 8}, "randomisation": dict(RANDOM)})
    batch = BatchedMicrogrids({"scenario": made, "num_envs": 2, "observation": "local"})
    single = make(kind)
    told, alone = batch.reset(seed=6)[0], single.reset(seed=7)[0]
    for _ in range(5):
        np.testing.assert_allclose(told["MG2"][1], alone["MG2"], rtol=1e-6, atol=1e-9)
        told, alone = batch.step()[0], single.step({})[0]
    assert batch.observation_names("MG2") == single.observation_names("MG2")


def test_nothing_more_is_observed_where_nothing_is_foretold() -> None:
    env = make("none")
    assert not [name for name in env.observation_names("MG1") if "+" in name]
