"""MultiAgentMicrogrids as a PettingZoo environment, in both modes, over the in-memory broker."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test
from small_grid import build_once
from small_grid import scenario as small

from heron_mqtt.errors import BrokerClosed, NotReady
from heron_mqtt.messages import Observation
from heron_mqtt.messaging.base import Features
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids

MODES: dict[str, dict[str, Any]] = {
    "centralized": {"centralized": True},
    "distributed": {"centralized": False},
}
MGS = ["MG1", "MG2", "MG3"]
SHORT = {"upstream_s": 0.1, "peer_s": 0.1, "device_s": 0.1, "action_s": 0.3, "ready_s": 0.2}


def make(scenario: dict[str, Any] | None = None, **config: Any) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids({"scenario": small(scenario), **config})


@pytest.fixture(autouse=True)
def _build_each_scenario_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("powergrid.envs.multi_agent_microgrids.build", build_once)


@pytest.fixture(scope="module", params=MODES)
def env(request: pytest.FixtureRequest) -> Iterator[MultiAgentMicrogrids]:
    """One environment a mode, shared by the tests of this file; each test resets it."""
    made = make(**MODES[request.param], render_mode="ansi")
    yield made
    made.close()


@pytest.fixture(scope="module")
def central() -> MultiAgentMicrogrids:
    return make()


def sampled(env: MultiAgentMicrogrids) -> dict[str, Any]:
    return {agent: env.action_space(agent).sample() for agent in env.agents}


def play(
    env: MultiAgentMicrogrids, seed: int, act: Callable[[MultiAgentMicrogrids], dict[str, Any]]
) -> list[Any]:
    """Return everything that an episode says, in a form that compares with ==, NaN included."""
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + i)
    observations, infos = env.reset(seed=seed)
    said: list[Any] = [{a: o.tobytes() for a, o in observations.items()}, infos]
    while env.agents:
        observations, rewards, terminations, truncations, infos = env.step(act(env))
        said.append({a: o.tobytes() for a, o in observations.items()})
        said.append([repr(x) for x in (rewards, terminations, truncations, infos)])
    return said


# -- PettingZoo's contract -----------------------------------------------------------------------------


def test_it_passes_pettingzoos_parallel_api_test(env: MultiAgentMicrogrids) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(env, num_cycles=30)


def test_the_same_space_objects_come_back_at_every_call(env: MultiAgentMicrogrids) -> None:
    for agent in MGS:
        assert env.action_space(agent) is env.action_space(agent)
        assert env.observation_space(agent) is env.observation_space(agent)


def test_dicts_are_keyed_by_the_acting_agents_and_observations_are_in_their_space(
    env: MultiAgentMicrogrids,
) -> None:
    observations, infos = env.reset(seed=1)
    assert list(observations) == list(infos) == env.agents == env.possible_agents == MGS
    for result in env.step(sampled(env)):
        assert list(result) == MGS
    for agent, observation in env.step({})[0].items():
        assert env.observation_space(agent).contains(observation)
        assert observation.dtype == np.float32
        assert np.isfinite(observation).all()


@pytest.mark.parametrize("act", [sampled, lambda env: {}], ids=["random actions", "own policies"])
def test_a_seeded_episode_repeats_to_the_last_bit(
    env: MultiAgentMicrogrids, act: Callable[[MultiAgentMicrogrids], dict[str, Any]]
) -> None:
    first, second = play(env, 7, act), play(env, 7, act)
    assert len(first) == 2 + 2 * 12
    assert first == second
    if act is sampled:
        assert play(env, 8, act) != first, "another seed of the actions must show"


def test_truncated_at_the_time_limit_and_never_terminated() -> None:
    env = make(max_episode_steps=3)
    env.reset(seed=1)
    ends = [env.step({})[2:4] for _ in range(3)]
    assert [set(terminated.values()) for terminated, _ in ends] == [{False}] * 3
    assert [set(truncated.values()) for _, truncated in ends] == [{False}, {False}, {True}]
    assert env.agents == []


def test_without_a_limit_of_its_own_an_episode_has_the_scenarios_steps(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    n = 0
    while env.agents:
        env.step({})
        n += 1
    assert n == env.max_episode_steps == 12


def test_a_step_before_reset_or_after_the_end_is_refused() -> None:
    env = make(max_episode_steps=1)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({})
    env.reset()
    env.step({})
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({})


def test_the_scenarios_seed_holds_where_none_is_given(env: MultiAgentMicrogrids) -> None:
    first, _ = env.reset()
    second, _ = env.reset(seed=0)
    assert all((first[a] == second[a]).all() for a in MGS)


# -- bad actions: an error, and nothing has happened ---------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "action", "expected"),
    [
        ("MG2", [0.0, float("nan"), 0.0, 0.0], r"action of MG2: index 1 \(p_ess\) is nan"),
        ("MG3", [0.0, 0.0, 0.0, float("inf")], r"action of MG3: index 3 \(q_pv\) is inf"),
        ("MG1", [0.0] * 3, r"action of MG1: shape \(3,\), expected \(4,\)"),
        ("MG9", [0.0] * 4, r"unknown agent 'MG9' in step\(\); the agents are MG1, MG2, MG3"),
    ],
)
def test_a_bad_action_names_agent_and_index_and_nothing_has_happened(
    env: MultiAgentMicrogrids, agent: str, action: list[float], expected: str
) -> None:
    good = {"MG1": np.full(4, 0.5, np.float32)}
    env.reset(seed=1)
    env.step(good)
    undisturbed = env.step(good)
    env.reset(seed=1)
    env.step(good)
    with pytest.raises(ValueError, match=expected):
        env.step({**good, agent: np.array(action)})
    assert env.agents == MGS
    after = env.step(good)
    assert all((after[0][a] == undisturbed[0][a]).all() for a in MGS)
    assert after[1:] == undisturbed[1:]


def test_an_action_is_followed_and_others_keep_their_policy(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    own = env.step({})[4]
    env.reset(seed=1)
    infos = env.step({"MG2": np.array([-1.0, -0.5, 0.0, 0.0])})[4]
    assert infos["MG2"]["p_mw"] == pytest.approx({"gen": 0.0, "ess": -0.004, "pv": 0.0})
    assert infos["MG1"]["p_mw"] == own["MG1"]["p_mw"]


# -- observations --------------------------------------------------------------------------------------

LOCAL = [
    *("price", "hour_sin", "hour_cos", "p_load_mw", "q_load_mvar"),
    *("p_gen", "q_gen", "p_ess", "q_ess", "soc_ess", "p_pv", "q_pv", "p_available_pv"),
    *("vm_min_pu", "vm_max_pu", "loading_max_percent"),
]


def test_the_full_observation_is_the_default_of_centralized_and_the_local_one_of_distributed(
    env: MultiAgentMicrogrids,
) -> None:
    own = [*LOCAL, "trade_MG2", "trade_MG3"]
    names = env.observation_names("MG1")
    if env.centralized:
        assert list(names[: len(own)]) == [f"MG1/{name}" for name in own]
        assert "MG2/soc_ess" in names
        assert "vm_pu/main_busbar" in names
        assert sum(name.startswith("vm_pu/") for name in names) == 15
        assert sum(name.startswith("line_loading_percent/") for name in names) == 13
        assert sum(name.startswith("trafo_loading_percent/") for name in names) == 1
        assert len({env.observation_names(a) for a in MGS}) == 1, "everyone sees the same"
    else:
        assert list(names) == own
    for agent in MGS:
        assert env.observation_space(agent).shape == (len(env.observation_names(agent)),)


@pytest.mark.parametrize("centralized", [True, False])
@pytest.mark.parametrize("place", ["scenario", "config"])
def test_the_kind_of_observation_can_be_chosen_in_either_mode(centralized: bool, place: str) -> None:
    kind = "local" if centralized else "full"
    if place == "scenario":
        env = make({"observation": kind}, centralized=centralized)
    else:
        opposite = "full" if kind == "local" else "local"
        env = make({"observation": opposite}, centralized=centralized, observation=kind)
    assert ("soc_ess" in env.observation_names("MG1")) == (kind == "local")


def test_an_observation_holds_what_its_names_say(central: MultiAgentMicrogrids) -> None:
    central.reset(seed=1)
    observations, _, _, _, infos = central.step({})
    seen = dict(zip(central.observation_names("MG1"), observations["MG1"].tolist(), strict=True))
    for agent in MGS:
        info = infos[agent]
        for device in ("gen", "ess", "pv"):
            assert seen[f"{agent}/p_{device}"] == pytest.approx(info["p_mw"][device], rel=1e-6)
            assert seen[f"{agent}/q_{device}"] == pytest.approx(info["q_mvar"][device], rel=1e-6)
        assert seen[f"{agent}/soc_ess"] == pytest.approx(info["soc"]["ess"], rel=1e-6)
        assert seen[f"{agent}/vm_min_pu"] == pytest.approx(info["vm_pu"]["min"], rel=1e-6)
        assert seen[f"{agent}/vm_max_pu"] == pytest.approx(info["vm_pu"]["max"], rel=1e-6)
        assert seen[f"{agent}/loading_max_percent"] == pytest.approx(info["loading_max_percent"], rel=1e-6)
        sold = {t.buyer: t.mwh for t in info["trades"] if t.seller == agent}
        bought = {t.seller: -t.mwh for t in info["trades"] if t.buyer == agent}
        for peer in set(MGS) - {agent}:
            traded = {**sold, **bought}.get(peer, 0.0)
            assert seen[f"{agent}/trade_{peer}"] == pytest.approx(traded, rel=1e-6)
    clock_h = 7.0 + 0.25  # row 28, and one step later
    assert seen["MG1/hour_sin"] == pytest.approx(math.sin(2 * math.pi * clock_h / 24), abs=1e-6)
    assert seen["MG1/hour_cos"] == pytest.approx(math.cos(2 * math.pi * clock_h / 24), abs=1e-6)


@pytest.fixture(scope="module")
def heard() -> dict[str, list[dict[str, Any]]]:
    """What the broker carried to each agent in a few steps of a run."""
    broker = InMemoryBroker()
    messages: dict[str, list[dict[str, Any]]] = {}
    broker.subscribe("#", lambda m: messages.setdefault(m.channel, []).append(dict(m)))
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    for _ in range(3):
        env.step(sampled(env))
    env.close()
    return messages


def test_an_agent_is_told_its_own_part_of_the_grid_and_no_more(
    heard: dict[str, list[dict[str, Any]]],
) -> None:
    allowed = {
        *Observation.model_fields,
        "p_available_pv",
    }
    for agent in MGS:
        told = heard[f"agents/{agent}/observation"]
        assert len(told) == 3
        assert all(set(message) <= allowed for message in told)


def test_what_happens_elsewhere_does_not_show_in_a_local_observation() -> None:
    """Other devices in MG2: at reset, when no power has flowed yet, MG1 cannot tell the difference."""
    other = {
        "microgrids.MG2.devices.ess.initial_soc": 0.9,
        "microgrids.MG2.devices.pv.max_p_mw": 0.001,
        "microgrids.MG2.devices.more": {"kind": "generator", "max_p_mw": 0.01},
        "microgrids.MG2.policy.charge_below": 1.0,
    }
    seen = [make(changes, observation="local").reset(seed=1)[0] for changes in (None, other)]
    assert (seen[0]["MG1"] == seen[1]["MG1"]).all()
    assert seen[0]["MG2"].shape != seen[1]["MG2"].shape


def test_every_message_of_a_step_reads_like_the_wire_contract(heard: dict[str, list[dict[str, Any]]]) -> None:
    assert {channel for channel in heard if channel.startswith(("operators/", "run/"))} == {
        "operators/system_operator/price",
        "run/state",
    }
    assert {c for c in heard if c.startswith("p2p/")} == {f"p2p/{a}/{b}" for a in MGS for b in MGS if a != b}
    for agent in MGS:
        for action in heard[f"agents/{agent}/action"]:
            assert action["type"] == "action"
            assert {"p_gen", "p_ess", "p_pv", "q_pv", "soc_ess", "cost_gen"} <= set(action)
    for channel, messages in heard.items():
        numbered = [m["seq"] for m in messages if "seq" in m and "boot" in m]
        assert numbered == list(range(len(numbered))), channel
        assert all(m.get("env_id") == "small" for m in messages), channel


# -- rewards -------------------------------------------------------------------------------------------


def test_the_reward_is_the_sum_of_the_terms_in_infos(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    while env.agents:
        _, rewards, _, _, infos = env.step({})
        for agent, reward in rewards.items():
            terms = infos[agent]["reward_terms"]
            assert set(terms) == {"generation", "grid", "trades", "voltage", "loading", "soc"}
            assert reward == pytest.approx(sum(terms.values()), abs=1e-12)


def test_every_term_is_what_is_documented() -> None:
    """Worked out from the infos of each step alone."""
    env = make(
        {
            "reward.vm_min_pu": 0.9995,
            "reward.vm_max_pu": 1.0005,
            "reward.loading_max_percent": 5.0,
            "reward.soc_min": 0.45,
            "reward.soc_max": 0.55,
            "reward.voltage_weight": 7.0,
            "reward.loading_weight": 3.0,
            "reward.soc_weight": 2.0,
        },
        observation="full",
    )
    env.reset(seed=1)
    spec = small()["microgrids"]["MG1"]["devices"]["gen"]
    buses = {"MG1": range(2, 6), "MG2": range(6, 10), "MG3": range(10, 15)}
    running = dict.fromkeys(MGS, False)
    traded_at_all = False
    while env.agents:
        observations, _, _, _, infos = env.step({})
        seen = dict(
            zip(env.observation_names("MG1"), observations["MG1"].astype(float).tolist(), strict=True)
        )
        vm = [value for name, value in seen.items() if name.startswith("vm_pu/")]
        lines = [value for name, value in seen.items() if name.startswith("line_loading_percent/")]
        for agent in MGS:
            info, terms = infos[agent], infos[agent]["reward_terms"]
            p = info["p_mw"]["gen"]
            cost = 0.25 * (
                (spec["cost_a_usd_per_h"] if p > 0 else 0.0)
                + spec["cost_b_usd_per_mwh"] * p
                + spec["cost_c_usd_per_mw2h"] * p * p
            )
            cost += spec["start_cost_usd"] if p > 0 and not running[agent] else 0.0
            running[agent] = p > 0
            assert terms["generation"] == pytest.approx(-cost)
            sold = sum(t.mwh for t in info["trades"] if t.seller == agent)
            bought = sum(t.mwh for t in info["trades"] if t.buyer == agent)
            rest = info["net_mwh"] - sold + bought
            price = info["price"] if rest >= 0 else info["price"] + 20.0
            assert terms["grid"] == pytest.approx(rest * price)
            money = sum(t.mwh * t.price * (1 if t.seller == agent else -1) for t in info["trades"])
            traded_at_all |= money != 0.0
            assert terms["trades"] == pytest.approx(money)
            outside = sum(max(0.9995 - vm[i], vm[i] - 1.0005, 0.0) for i in buses[agent])
            assert terms["voltage"] == pytest.approx(-7.0 * outside, abs=1e-5)  # observed as float32
            # line k joins buses k + 1 and k + 2, and belongs to every microgrid that has an end of it
            own_lines = [lines[k] for k in range(13) if {k + 1, k + 2} & set(buses[agent])]
            over = sum(max(loading - 5.0, 0.0) for loading in own_lines) / 100.0
            assert terms["loading"] == pytest.approx(-3.0 * over, abs=1e-5)
            soc = info["soc"]["ess"]
            assert terms["soc"] == pytest.approx(-2.0 * max(0.45 - soc, soc - 0.55, 0.0))
    assert traded_at_all


def test_trading_between_agents_neither_makes_nor_loses_money_or_energy(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    n = 0
    while env.agents:
        infos = env.step({})[4]
        n += sum(len(info["trades"]) for info in infos.values())
        assert math.fsum(info["reward_terms"]["trades"] for info in infos.values()) == pytest.approx(
            0.0, abs=1e-12
        )
        for agent in MGS:
            for trade in infos[agent]["trades"]:
                assert trade in infos[trade.buyer]["trades"]
                assert trade in infos[trade.seller]["trades"]
            assert infos[agent]["void_trades"] == []
    assert n > 0


# -- divergence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_diverged_power_flow_terminates_with_nan_and_the_reason_and_nothing_invented(mode: str) -> None:
    """A generator of 20 MW behind a transformer of 160 kVA: its own action ends the episode."""
    env = make(
        {"microgrids.MG3.devices.gen.max_p_mw": 20.0, "microgrids.MG3.devices.gen.ramp_mw_per_s": ...},
        **MODES[mode],
    )
    env.reset(seed=1)
    calm = env.step({"MG3": np.array([-1.0, 0.0, 0.0, 0.0])})
    assert not any(calm[2].values())
    assert all("diverged" not in info for info in calm[4].values())
    observations, rewards, terminations, truncations, infos = env.step(
        {"MG3": np.array([1.0, 0.0, 0.0, 0.0])}
    )
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}
    assert env.agents == []
    for agent in MGS:
        info = infos[agent]
        assert "no convergence" in info["diverged"] or "diverged" in info["diverged"]
        assert math.isnan(rewards[agent])
        assert all(math.isnan(term) for term in info["reward_terms"].values())
        results = (info["vm_pu"]["min"], info["vm_pu"]["max"], info["loading_max_percent"])
        assert all(math.isnan(value) for value in results)
        seen = dict(zip(env.observation_names(agent), observations[agent].tolist(), strict=True))
        unknown = {name for name, value in seen.items() if math.isnan(value)}
        assert unknown == {name for name in seen if "vm_" in name or "loading" in name}
    assert infos["MG3"]["p_mw"]["gen"] == pytest.approx(20.0), "what was done is known all the same"
    observations, _ = env.reset(seed=1)
    assert all(np.isfinite(observation).all() for observation in observations.values())
    again = env.step({"MG3": np.array([-1.0, 0.0, 0.0, 0.0])})
    assert again[1] == calm[1]
    env.close()


def test_loads_that_grow_beyond_the_grid_end_the_episode_in_the_step_in_which_they_do() -> None:
    """Thirty times the industrial loads: the grid has a solution at seven o'clock and none later on."""
    env = make({"microgrids.MG2.loads.scale": 30.0})
    env.reset(seed=1)
    n = 0
    while env.agents:
        _, rewards, terminations, truncations, infos = env.step({})
        n += 1
    assert 1 < n < 12
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}
    assert all(math.isnan(reward) for reward in rewards.values())
    assert {info["diverged"] for info in infos.values()} == {infos["MG1"]["diverged"]}
    assert infos["MG1"]["diverged"].startswith("no convergence after 20 iterations")


def test_an_episode_that_diverges_at_its_last_step_is_terminated_not_truncated() -> None:
    env = make({"microgrids.MG3.devices.gen": {"kind": "generator", "max_p_mw": 20.0}}, max_episode_steps=1)
    env.reset(seed=1)
    _, _, terminations, truncations, _ = env.step({"MG3": np.array([1.0, 0.0, 0.0, 0.0])})
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}


# -- render --------------------------------------------------------------------------------------------


def test_render_ansi_shows_the_last_step(env: MultiAgentMicrogrids) -> None:
    env.reset(seed=1)
    assert (env.render() or "").startswith("step 0")
    _, rewards, _, _, infos = env.step({})
    text = env.render() or ""
    lines = text.splitlines()
    assert lines[0].startswith("step 1")
    assert len(lines) == 1 + len(MGS)
    for line, agent in zip(lines[1:], MGS, strict=True):
        assert agent in line
        assert f"gen {infos[agent]['p_mw']['gen']:+.4f}" in line
        assert f"{infos[agent]['vm_pu']['min']:.4f}" in line
        assert f"{rewards[agent]:+.3f} $" in line


def test_without_a_render_mode_there_is_nothing_to_see(central: MultiAgentMicrogrids) -> None:
    central.reset(seed=1)
    assert central.render() is None


# -- distributed: loops, brokers, episodes -------------------------------------------------------------


def test_without_a_broker_it_has_one_of_its_own() -> None:
    env = make(centralized=False)
    env.reset(seed=1)
    env.step({})
    env.close()
    env.close()


def test_closing_twice_and_before_reset_is_harmless() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.close()
    env.reset(seed=1)
    env.close()
    env.close()
    make().close()


def test_the_broker_is_usable_after_the_environment_has_left_it() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    first = env.step({})
    env.close()
    got: list[Any] = []
    broker.subscribe("control", got.append)
    broker.publish("control", {"setpoint": 1.0})
    assert got == [{"setpoint": 1.0}]
    again = make(centralized=False, message_broker=broker)
    again.reset(seed=1)
    assert again.step({})[1] == first[1]
    again.close()


def test_it_can_be_reset_after_close() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.reset(seed=1)
    first = env.step({})[1]
    env.close()
    env.reset(seed=1)
    assert env.step({})[1] == first
    env.close()


def test_the_last_words_on_the_broker_are_finished_and_offline() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    env.close()
    retained: dict[str, Any] = {}
    broker.subscribe("#", lambda m: retained.update({m.channel: m}))
    assert retained["run/state"]["state"] == "finished"
    assert {retained[f"agents/{agent}/status"]["state"] for agent in MGS} == {"offline"}


def test_it_can_be_closed_after_its_broker() -> None:
    broker = InMemoryBroker()
    env = make(centralized=False, message_broker=broker)
    env.reset(seed=1)
    asyncio.run(broker.close())
    env.close()
    with pytest.raises(BrokerClosed):
        env.reset(seed=1)


async def test_the_synchronous_calls_work_inside_a_running_event_loop() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.reset(seed=1)
    assert env.step({})[1] == (await asyncio.to_thread(one_central_step))[1]
    env.close()


def one_central_step() -> Any:
    env = make()
    env.reset(seed=1)
    return env.step({})


async def test_the_asynchronous_calls_run_in_the_callers_loop() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    await env.reset_async(seed=1)
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert {f"proxy {agent}_proxy" for agent in MGS} <= names
    result = await env.step_async({})
    await env.close_async()
    assert not {task.get_name() for task in asyncio.all_tasks()} & {f"proxy {agent}_proxy" for agent in MGS}
    assert result[1] == one_central_step()[1]


async def test_a_synchronous_call_that_would_wait_for_its_own_loop_says_so() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    await env.reset_async(seed=1)
    for call in (lambda: env.step({}), env.reset, env.close):
        with pytest.raises(RuntimeError, match=r"would block the event loop.*await"):
            call()
    await env.close_async()


async def test_calls_from_a_second_event_loop_say_so() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    env.reset(seed=1)  # lives in the background loop
    with pytest.raises(RuntimeError, match="lives in another event loop"):
        await env.step_async({})
    with pytest.raises(RuntimeError, match="lives in another event loop"):
        await env.reset_async()
    await env.close_async()
    await env.reset_async(seed=1)
    await env.step_async({})
    await env.close_async()


def test_an_environment_left_open_in_a_loop_that_has_ended_can_be_closed_and_used_again() -> None:
    env = make(centralized=False, message_broker=InMemoryBroker())
    asyncio.run(leave_open(env))
    with pytest.raises(RuntimeError, match="lives in another event loop"):
        env.step({})
    env.close()
    env.reset(seed=1)
    env.step({})
    env.close()


async def leave_open(env: MultiAgentMicrogrids) -> None:
    await env.reset_async(seed=1)
    await env.step_async({})


class Served(InMemoryBroker):
    """Lives in an event loop, as a broker with a connection does."""

    home_loop: asyncio.AbstractEventLoop | None = None


async def test_a_broker_connected_in_the_same_loop_is_refused_before_anything_happens() -> None:
    broker = Served()
    broker.home_loop = asyncio.get_running_loop()
    env = make(centralized=False, message_broker=broker)
    with pytest.raises(RuntimeError, match=r"would block the event loop that serves its broker"):
        env.reset(seed=1)
    await env.reset_async(seed=1)
    await env.step_async({})
    await env.close_async()


def test_two_environments_share_a_broker_without_hearing_each_other() -> None:
    broker = InMemoryBroker()
    envs = [make(centralized=False, message_broker=broker, env_id=name) for name in ("one", "two")]
    expected = one_central_step()[1]
    for env in envs:
        env.reset(seed=1)
    for env in envs:
        assert env.step({})[1] == expected
        assert all(info["missed"] == 0 for info in env.step({})[4].values())
    for env in envs:
        env.close()


def test_an_agent_that_never_comes_is_named_and_the_episode_does_not_begin() -> None:
    env = make({"microgrids.MG2.remote": True, "deadlines": SHORT}, centralized=False)
    with pytest.raises(NotReady, match=r"not ready after 0.2 s: agent MG2 \(not online for this episode\)"):
        env.reset(seed=1)
    assert env.agents == []
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step({})
    env.close()


async def test_with_every_agent_remote_nothing_is_heard_twice() -> None:
    """The operator is alone in this process: it must not subscribe again at each reset."""
    broker = InMemoryBroker()
    changes: dict[str, Any] = {f"microgrids.{mg}.remote": True for mg in MGS}
    env = make({**changes, "deadlines": SHORT}, centralized=False, message_broker=broker)
    for _ in range(3):
        with pytest.raises(NotReady):
            await env.reset_async(seed=1)
    assert env._exchange is not None
    broker.publish("agents/MG1/action", {"type": "action", "env_id": "small", "episode": 99, "step": 0})
    assert env._exchange.operator.dropped == 1
    await env.close_async()


def test_identifiers_that_mqtt_reserves_come_back_unchanged() -> None:
    names = {"MG1": "a/b", "MG2": "+ #", "MG3": "50%"}
    data = small({"name": "Ünï/+#", "operator_id": "#/op%"}, names=names)
    env = MultiAgentMicrogrids({"scenario": data, "centralized": False})
    env.reset(seed=1)
    _, rewards, _, _, infos = env.step({"+ #": np.zeros(4)})
    assert list(rewards) == ["a/b", "+ #", "50%"]
    assert all(info["missed"] == 0 and info["fallback"] is None for info in infos.values())
    env.close()
    central = MultiAgentMicrogrids({"scenario": data})
    central.reset(seed=1)
    assert central.step({"+ #": np.zeros(4)})[1] == rewards


def test_a_broker_without_wildcards_or_retain_is_enough() -> None:
    class Plain(InMemoryBroker):
        features = Features()

        def publish(self, channel: str, message: Any, *, retain: bool = False) -> Any:
            assert not retain
            return super().publish(channel, message)

        def subscribe(self, channel: str, callback: Any) -> Any:
            assert "+" not in channel
            assert "#" not in channel
            return super().subscribe(channel, callback)

    env = make(centralized=False, message_broker=Plain())
    env.reset(seed=1)
    assert env.step({})[1] == one_central_step()[1]
    env.close()
