"""What agents of MultiAgentMicrogrids are shown and what it earns them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from heron_mqtt.agents.base import LocalState
from heron_mqtt.messages import Observation, parse
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids
from powergrid.envs.agent_view import RESULTS
from support.env_modes import MGS, make, sampled
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")


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


def test_what_an_agent_is_told_directly_is_what_its_message_says(central: MultiAgentMicrogrids) -> None:
    central.reset(seed=1)
    central.step({})
    for agent, told in central._begin_step({}).observations.items():
        message = parse(Observation, told.to_fields())
        assert message.values("p_available_") == told.values("p_available_") != {}
        for name in ("dt_s", "commanded", "p_load_mw", "q_load_mvar", *RESULTS):
            assert getattr(message, name) == getattr(told, name) is not None, (agent, name)


def test_a_microgrid_without_supply_is_told_no_voltages() -> None:
    fields = LocalState(900.0, False, 0.0, 0.0, {}).to_fields()
    assert not set(RESULTS) & set(fields)
    assert parse(Observation, fields).vm_min_pu is None
