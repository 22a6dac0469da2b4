"""BatchedMicrogrids: every copy does what a single environment does, with its own days and its own end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError, PowerFlowDiverged
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.powerflow.fixed_point import FixedPointSolver
from powergrid.powerflow.newton import NewtonSolver
from support.small_grid import scenario as small

MGS = ["MG1", "MG2", "MG3"]
ROWS = [28, 300, 40, 671]  # one of them goes on past the end of the week
CLOSE: dict[str, Any] = {"rel": 1e-9, "abs": 1e-9}

# A generator of 20 MW behind a transformer of 160 kVA: its own action ends a copy's episode.
MIGHTY = {"microgrids.MG3.devices.gen": {"kind": "generator", "max_p_mw": 20.0}}


pytestmark = pytest.mark.usefixtures("built_once")


def make(changes: Mapping[str, Any] | None = None, num_envs: int = 4, **config: Any) -> BatchedMicrogrids:
    return BatchedMicrogrids({"scenario": small(changes), "num_envs": num_envs, **config})


def random_actions(batch: BatchedMicrogrids, seed: int, agents: list[str]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {agent: rng.uniform(-1.2, 1.2, batch.action_space(agent).shape) for agent in agents}


def assert_copy_is(batch_step: Any, single_step: Any, copy: int) -> None:
    """Compare one copy of a batched step with a single environment's step, to 1e-9."""
    observations, rewards, terminations, truncations, infos = batch_step
    for agent in MGS:
        alone, info = single_step[4][agent], infos[agent]
        assert rewards[agent][copy] == pytest.approx(single_step[1][agent], nan_ok=True, **CLOSE)
        assert terminations[agent][copy] == single_step[2][agent]
        assert truncations[agent][copy] == single_step[3][agent]
        for quantity in ("p_mw", "q_mvar", "soc", "vm_pu", "reward_terms"):
            mine = {name: values[copy] for name, values in info[quantity].items()}
            assert mine == pytest.approx(alone[quantity], nan_ok=True, **CLOSE), (agent, quantity)
        for quantity in ("price", "p_load_mw", "net_mwh"):
            assert info[quantity][copy] == pytest.approx(alone[quantity], nan_ok=True, **CLOSE), quantity
        loading, expected = info["loading_max_percent"][copy], alone["loading_max_percent"]
        assert loading / 100.0 == pytest.approx(expected / 100.0, nan_ok=True, **CLOSE)
        sold = dict.fromkeys(info["traded_mwh"], 0.0)
        for trade in alone["trades"]:
            peer, sign = (trade.buyer, 1.0) if trade.seller == agent else (trade.seller, -1.0)
            sold[peer] += sign * trade.mwh
        assert {peer: mwh[copy] for peer, mwh in info["traded_mwh"].items()} == pytest.approx(sold, **CLOSE)
        seen = info.get("final_obs", observations[agent])
        np.testing.assert_allclose(seen[copy], single_step[0][agent], rtol=3e-7, atol=1e-7)


# -- the same as single environments -------------------------------------------------------------------


LIMITS = {"grid_check": True, "vm_min_pu": 0.985, "vm_max_pu": 1.01, "loading_max_percent": 12.0}


def test_setpoints_are_checked_by_power_flow_as_in_a_single_environment() -> None:
    changes = {"envelope": LIMITS}
    batch, single = make(changes), MultiAgentMicrogrids({"scenario": small(changes)})
    actions = [random_actions(batch, step, MGS if step % 2 else ["MG2"]) for step in range(8)]
    batch.reset(options={"start_rows": ROWS})
    steps, reduced, whole = [batch.step(given) for given in actions], 0, 0
    for copy, row in enumerate(ROWS):
        single.reset(options={"start_row": row})
        for given, step in zip(actions, steps, strict=True):
            alone = single.step({agent: a[copy] for agent, a in given.items()})
            assert_copy_is(step, alone, copy)
            bound = any(
                "pu" in told or "percent" in told for i in alone[4].values() for told in i["bounds"].values()
            )
            reduced, whole = reduced + bound, whole + (not bound)
    assert reduced > 3
    assert whole > 3, "else this compares one way only"


def test_devices_are_as_slow_as_those_of_a_single_environment() -> None:
    changes = {"randomisation": {"response_delay_s": [100.0, 1200.0], "initial_soc": [0.3, 0.7]}}
    batch, single = make(changes), MultiAgentMicrogrids({"scenario": small(changes)})
    actions = [random_actions(batch, step, MGS) for step in range(8)]
    batch.reset(seed=3, options={"start_rows": ROWS})
    steps = [batch.step(given) for given in actions]
    for copy, row in enumerate(ROWS):
        single.reset(seed=3 + copy, options={"start_row": row})
        for given, step in zip(actions, steps, strict=True):
            assert_copy_is(step, single.step({agent: a[copy] for agent, a in given.items()}), copy)
    quick = MultiAgentMicrogrids({"scenario": small({"randomisation": {"initial_soc": [0.3, 0.7]}})})
    quick.reset(seed=3, options={"start_row": ROWS[0]})
    p_mw = quick.step({agent: a[0] for agent, a in actions[0].items()})[4]["MG1"]["p_mw"]["ess"]
    assert abs(steps[0][4]["MG1"]["p_mw"]["ess"][0]) < abs(p_mw)


@pytest.mark.slow_but("p2p-full", "order_book-local")
@pytest.mark.parametrize("observation", ["full", "local"])
@pytest.mark.parametrize("horizontal", ["p2p", "order_book", "consensus", "none"])
def test_every_copy_takes_the_way_of_a_single_environment(horizontal: str, observation: str) -> None:
    changes = {
        "protocol.horizontal": horizontal,
        "reward": {"vm_min_pu": 0.99, "vm_max_pu": 1.0, "loading_max_percent": 5.0, "soc_min": 0.45},
    }
    batch = make(changes, observation=observation)
    single = MultiAgentMicrogrids({"scenario": small(changes), "observation": observation})
    traded = 0.0
    for acting in ([], MGS, ["MG2"]):  # own policies, random actions, both
        actions = [random_actions(batch, step, acting) for step in range(6)]
        begun, _ = batch.reset(options={"start_rows": ROWS})
        steps = [batch.step(given) for given in actions]
        for copy, row in enumerate(ROWS):
            first, _ = single.reset(options={"start_row": row})
            for agent in MGS:
                np.testing.assert_allclose(begun[agent][copy], first[agent], rtol=3e-7, atol=1e-7)
            for together, given in zip(steps, actions, strict=True):
                alone = single.step({agent: action[copy] for agent, action in given.items()})
                assert_copy_is(together, alone, copy)
        traded += sum(
            float(np.abs(mwh).sum()) for step in steps for mwh in step[4]["MG1"]["traded_mwh"].values()
        )
    assert (traded > 0.0) == (horizontal in {"p2p", "order_book"}), "else this compares nothing"


@pytest.mark.slow  # of a few steps: test_every_copy_takes_the_way_of_a_single_environment
@pytest.mark.parametrize("name", ["three_microgrids", "mw_microgrids"])
def test_a_day_of_a_shipped_scenario_is_the_same(name: str) -> None:
    config = {"scenario": name, "observation": "local"}
    batch, single = BatchedMicrogrids({**config, "num_envs": 2}), MultiAgentMicrogrids(config)
    batch.reset(options={"start_rows": [0, 130]})
    single.reset(options={"start_row": 130})
    started = False
    while single.agents:
        together, alone = batch.step(), single.step({})
        assert_copy_is(together, alone, 1)
        started |= alone[4]["MG1"]["p_mw"]["gen"] > 0.0
    assert started, "no generator ever ran: this compares too little"


@pytest.mark.slow_but("few")
@pytest.mark.parametrize(
    ("source", "buses", "together"),
    [
        pytest.param("case14", (8, 10, 12), True, id="few"),
        pytest.param("case118", (10, 50, 105), False, id="many"),
    ],
)
def test_a_network_with_voltage_controlling_generators_is_stepped_too(
    source: str, buses: tuple[int, ...], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixed point holds the voltages of 4 generators; with 53, copies are solved one after another."""
    devices = {
        "ess": {"kind": "battery", "max_e_mwh": 4.0, "max_p_charge_mw": 2.0, "max_p_discharge_mw": 2.0}
    }
    scenario = {
        "name": "ieee14",
        "steps": 3,
        "network": {"source": source},
        "microgrids": {
            name: {"buses": [bus], "devices": devices} for name, bus in zip(MGS, buses, strict=True)
        },
    }
    batch, single = (
        BatchedMicrogrids({"scenario": scenario, "num_envs": 2}),
        MultiAgentMicrogrids({"scenario": scenario}),
    )
    batch.reset(options={"start_rows": [0, 60]})
    single.reset(options={"start_row": 60})
    solver: Any = FixedPointSolver if together else NewtonSolver
    solved: list[int] = []
    real = solver.solve_batch

    def noted(self: Any, power: Any, start: Any) -> Any:
        solved.append(len(power))
        return real(self, power, start)

    monkeypatch.setattr(solver, "solve_batch", noted)
    while single.agents:
        assert_copy_is(batch.step(), single.step({}), 1)
    assert solved == [2, 2, 2, 2], "three steps, and the beginning of the next episode"


# -- episodes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["penalty", "nan"])
def test_a_copy_that_diverges_ends_alone_and_begins_again(rule: str) -> None:
    batch = make({**MIGHTY, "reward": {"on_divergence": rule, "divergence_penalty": 7.0}})
    begun, _ = batch.reset(options={"start_rows": ROWS})
    calm = batch.step({"MG3": np.tile([-1.0, 0.0, 0.0, 0.0], (4, 1))})
    assert not calm[2]["MG1"].any()
    blow_up = np.tile([-1.0, 0.0, 0.0, 0.0], (4, 1))
    blow_up[2, 0] = 1.0
    observations, rewards, terminations, truncations, infos = batch.step({"MG3": blow_up})
    for agent in MGS:
        assert terminations[agent].tolist() == [False, False, True, False]
        assert not truncations[agent].any()
        assert infos[agent]["diverged"].tolist() == [False, False, True, False]
        expected = -7.0 if rule == "penalty" else math.nan
        assert rewards[agent][2] == pytest.approx(expected, nan_ok=True)
        assert np.isfinite(rewards[agent][[0, 1, 3]]).all()
        assert np.isnan(infos[agent]["vm_pu"]["min"]).tolist() == [False, False, True, False]
        assert all(math.isnan(term[2]) for term in infos[agent]["reward_terms"].values())
        last = infos[agent]["final_obs"][2]
        seen = dict(zip(batch.observation_names(agent), last.tolist(), strict=True))
        unknown = {name for name, value in seen.items() if math.isnan(value)}
        results = {name for name in seen if "vm_" in name or "loading" in name}
        assert unknown == (results if rule == "nan" else set())
        before = dict(zip(batch.observation_names(agent), calm[0][agent][2].tolist(), strict=True))
        if rule == "penalty":
            assert {name: seen[name] for name in results} == {name: before[name] for name in results}
        assert np.isfinite(observations[agent]).all()
        assert observations[agent][2].tolist() == begun[agent][2].tolist(), "its next episode"
    assert infos["MG3"]["p_mw"]["gen"][2] == pytest.approx(20.0), "what was done is known all the same"
    again = batch.step({"MG3": np.tile([-1.0, 0.0, 0.0, 0.0], (4, 1))})
    assert again[1]["MG1"][2] == calm[1]["MG1"][2], "the copy begins anew as it began first"


HEAVY = {"microgrids.MG3.loads.scale": 20.0, "randomisation": {"load_scale": [100.0, 100.0]}}


def test_an_episode_whose_beginning_has_no_solution_is_refused_with_its_seed() -> None:
    told = r"the episode of seed 5 cannot begin: no power-flow solution with the loads of row 28 .*load_scale"
    single, batch = MultiAgentMicrogrids({"scenario": small(HEAVY)}), make(HEAVY, 2, start_rows="scenario")
    for env in (single, batch):
        with pytest.raises(PowerFlowDiverged, match=told):
            env.reset(seed=5)
        with pytest.raises(RuntimeError, match="call reset"):
            env.step({})


def test_the_others_do_not_notice_that_a_copy_diverges() -> None:
    calm, troubled = make(MIGHTY), make(MIGHTY)
    quiet = {"MG3": np.tile([-1.0, 0.0, 0.0, 0.0], (4, 1))}
    for batch in (calm, troubled):
        batch.reset(options={"start_rows": ROWS})
        batch.step(quiet)
    blow_up = np.tile([-1.0, 0.0, 0.0, 0.0], (4, 1))
    blow_up[1, 0] = 1.0
    calm.step(quiet)
    troubled.step({"MG3": blow_up})
    expected, found = calm.step(quiet), troubled.step(quiet)
    for agent in MGS:
        for copy in (0, 2, 3):
            assert found[1][agent][copy] == expected[1][agent][copy]
            assert found[0][agent][copy].tolist() == expected[0][agent][copy].tolist()


def test_at_the_time_limit_every_copy_is_truncated_and_begins_again_in_the_same_step() -> None:
    batch = make(max_episode_steps=3)
    begun, _ = batch.reset(options={"start_rows": ROWS})
    for _ in range(2):
        step = batch.step()
        assert not step[3]["MG1"].any()
        assert "final_obs" not in step[4]["MG1"]
    observations, _, terminations, truncations, infos = batch.step()
    assert truncations["MG1"].all()
    assert not terminations["MG1"].any()
    for agent in MGS:
        assert observations[agent].tolist() == begun[agent].tolist()
        assert infos[agent]["final_obs"].tolist() != begun[agent].tolist()
    assert batch.step()[3]["MG1"].tolist() == [False] * 4


def test_copies_see_different_days_and_the_same_seed_brings_the_same_days() -> None:
    batch = make(num_envs=16, max_episode_steps=2)
    rows = []
    for _ in range(2):
        _, infos = batch.reset(seed=7)
        rows.append(infos["MG1"]["start_row"].tolist())
    assert rows[0] == rows[1]
    assert len(set(rows[0])) > 8
    _, infos = batch.reset()
    assert infos["MG1"]["start_row"].tolist() != rows[0], "without a seed the days go on changing"


def test_a_new_episode_is_a_new_day() -> None:
    batch = make(num_envs=8, max_episode_steps=1)
    begun, _ = batch.reset(seed=3)
    observations = batch.step()[0]
    assert not np.array_equal(observations["MG1"], begun["MG1"])


def test_seeded_batches_repeat_exactly() -> None:
    days = []
    for _ in range(2):
        batch = make(max_episode_steps=4)
        observations, _ = batch.reset(seed=11)
        day: list[NDArray[Any]] = [observations["MG1"]]
        for step in range(9):
            result = batch.step(random_actions(batch, step, ["MG1", "MG3"]))
            day += [result[0]["MG2"], result[1]["MG2"]]
        days.append([array.tolist() for array in day])
    assert days[0] == days[1]


def test_start_rows_of_the_scenario_are_all_the_same() -> None:
    _, infos = make(start_rows="scenario").reset(seed=1)
    assert infos["MG1"]["start_row"].tolist() == [28] * 4


def test_series_that_do_not_repeat_are_never_left() -> None:
    batch = make({"profiles.repeat": False}, num_envs=64, max_episode_steps=600)
    _, infos = batch.reset(seed=0)
    assert infos["MG1"]["start_row"].max() <= 672 - 600
    assert len(set(infos["MG1"]["start_row"].tolist())) > 20


def test_the_last_step_of_series_that_do_not_repeat_is_as_in_a_single_environment() -> None:
    changes = {"profiles.repeat": False}
    batch, single = make(changes), MultiAgentMicrogrids({"scenario": small(changes)})
    batch.reset(options={"start_rows": [0, 10, 28, 660]})
    single.reset(options={"start_row": 660})
    while single.agents:
        assert_copy_is(batch.step(), single.step({}), 3)


# -- interface -----------------------------------------------------------------------------------------


def test_what_is_handed_out_is_the_callers() -> None:
    batch = make()
    observations, _ = batch.reset(seed=1)
    kept = observations["MG1"].copy()
    result = batch.step()
    assert observations["MG1"].tolist() == kept.tolist()
    reward, soc = result[1]["MG1"].copy(), result[4]["MG1"]["soc"]["ess"].copy()
    result[0]["MG1"][:] = np.nan
    batch.step()
    assert result[1]["MG1"].tolist() == reward.tolist()
    assert result[4]["MG1"]["soc"]["ess"].tolist() == soc.tolist()
    assert np.isfinite(batch.step()[0]["MG1"]).all()


def test_spaces_and_names_fit_what_is_handed_out() -> None:
    batch = make()
    observations, _ = batch.reset(seed=1)
    for agent in MGS:
        n_names = len(batch.observation_names(agent))
        assert observations[agent].shape == (4, n_names)
        assert observations[agent].dtype == np.float32
        assert batch.single_observation_space(agent).shape == (n_names,)
        assert batch.single_action_space(agent).shape == (len(batch.action_names(agent)),)
        assert batch.action_space(agent).shape == (4, len(batch.action_names(agent)))
        assert batch.action_space(agent) is batch.action_space(agent)
        assert batch.action_space(agent).contains(batch.action_space(agent).sample())


def test_wrong_actions_are_refused_before_anything_happens() -> None:
    batch = make()
    batch.reset(seed=1)
    untouched = make()
    untouched.reset(seed=1)
    with pytest.raises(ValueError, match="unknown agent 'MG9'"):
        batch.step({"MG9": np.zeros((4, 4))})
    with pytest.raises(ValueError, match=r"action of MG1: shape \(3, 4\), expected \(4, 4\)"):
        batch.step({"MG1": np.zeros((3, 4))})
    bad = np.zeros((4, 4))
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"action of MG2: copy 2, index 1 \(p_ess\) is nan"):
        batch.step({"MG2": bad})
    assert batch.step()[1]["MG1"].tolist() == untouched.step()[1]["MG1"].tolist()


def test_step_before_reset_says_so() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        make().step()


@pytest.mark.parametrize(
    "rows", [[0, 1, 2], [0, 1, 2, 672], [0, -1, 2, 3], [0.0, 1.0, 2.0, 3.0], np.zeros((4, 1), dtype=int)]
)
def test_wrong_start_rows_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="start_rows"):
        make().reset(options={"start_rows": rows})


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"centralized": False}, "centralized"),
        ({"start_rows": "today"}, "start_rows"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_a_wrong_configuration_is_named(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        BatchedMicrogrids({"scenario": small(), "num_envs": 2, **config})
