"""One message lost, repeated or late: its cost is known, bounded by a deadline, and over in the next step.

The faults happen where messages pass, in a broker of the test's own; time is virtual, so that deadlines
take none and every duration is exact.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np
import pytest
from small_grid import build_once
from small_grid import scenario as small
from virtual import run_virtual, virtual_now

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.errors import NotReady
from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids

T = TypeVar("T")
MGS = ["MG1", "MG2", "MG3"]
DEADLINES = {"upstream_s": 1.0, "peer_s": 3.0, "device_s": 1.0, "action_s": 20.0, "ready_s": 5.0}
NO_ACTION = "no action before the deadline; its devices are taken to be in their safe state"
Fate = Callable[[str, Mapping[str, Any]], str | float | None]
"""From channel and message to "lost", "twice", "again" or a delay in s; None: nothing happens to it."""


class FaultyBroker(InMemoryBroker):
    """An in-memory broker to whose messages something may happen on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.fate: Fate = lambda channel, message: None
        self.hit = 0

    def publish(self, channel: str, message: Mapping[str, Any], *, retain: bool = False) -> Delivery:
        fate = self.fate(channel, message)
        self.hit += fate is not None
        if fate == "lost":
            return Delivery()
        if isinstance(fate, float):
            asyncio.get_running_loop().call_later(fate, super().publish, channel, dict(message))
            return Delivery()
        if fate == "twice":  # as a broker may repeat it: receivers can tell
            super().publish(channel, message, retain=retain)
        elif fate == "again":  # as somebody else may repeat it: without numbers
            bare = {key: value for key, value in message.items() if key not in {"seq", "boot"}}
            super().publish(channel, message, retain=retain)
            return super().publish(channel, bare)
        return super().publish(channel, message, retain=retain)


def to(pattern: str, fate: str | float, *, kind: str | None = None, step: int | None = 1) -> Fate:
    """Return what gives ``fate`` to the messages of one step on the channels of a pattern."""

    def decide(channel: str, message: Mapping[str, Any]) -> str | float | None:
        hits = (
            fnmatchcase(channel, pattern)
            and kind in {None, message.get("type")}
            and step in {None, message.get("step")}
        )
        return fate if hits else None

    return decide


class Run:
    """An environment over the faulty broker."""

    def __init__(self, changes: Mapping[str, Any] | None = None) -> None:
        self.broker = FaultyBroker()
        scenario = small({"deadlines": DEADLINES, **(changes or {})})
        self.env = MultiAgentMicrogrids(
            {"scenario": scenario, "centralized": False, "message_broker": self.broker}
        )
        self.rewards: list[dict[str, float]] = []
        self.infos: list[dict[str, dict[str, Any]]] = []
        self.took_s: list[float] = []

    async def step(self, actions: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        begun = virtual_now()
        _, rewards, _, _, infos = await self.env.step_async(actions or {})
        self.took_s.append(virtual_now() - begun)
        self.rewards.append(rewards)
        self.infos.append(infos)
        return infos

    @property
    def operator(self) -> SystemOperator:
        assert self.env._exchange is not None
        return self.env._exchange.operator

    @property
    def proxies(self) -> dict[str, Proxy]:
        assert self.env._exchange is not None
        return {proxy.agent.agent_id: proxy for proxy in self.env._exchange.proxies}

    @property
    def dropped(self) -> dict[str, int]:
        return {name: proxy.dropped for name, proxy in self.proxies.items()} | {
            "operator": self.operator.dropped
        }


def with_fault(
    fate: Fate,
    *,
    changes: Mapping[str, Any] | None = None,
    actions: Mapping[str, Any] | None = None,
    n_steps: int = 4,
) -> Run:
    """Return a run of a few steps to whose messages ``fate`` happens; ``actions`` are those of every step."""

    async def main() -> Run:
        run = Run(changes)
        await run.env.reset_async(seed=1)
        run.broker.fate = fate
        for _ in range(n_steps):
            await run.step(actions)
        await run.env.close_async()
        return run

    return run_virtual(main())


def is_undisturbed(info: Mapping[str, Any]) -> bool:
    return (
        info["missed"] == 0 and info["fallback"] is None and not info["fallbacks"] and not info["void_trades"]
    )


def assert_only_step_1_was_disturbed(run: Run, took_s: float) -> None:
    assert run.broker.hit == 1
    for step in (0, 2, 3):
        assert all(is_undisturbed(info) for info in run.infos[step].values()), f"step {step}"
        assert run.took_s[step] == pytest.approx(0.0)
    assert run.took_s[1] == pytest.approx(took_s)
    assert_books_balance(run)


def assert_books_balance(run: Run) -> None:
    for rewards, infos in zip(run.rewards, run.infos, strict=True):
        assert math.fsum(i["reward_terms"]["trades"] for i in infos.values()) == pytest.approx(0.0, abs=1e-12)
        for agent, info in infos.items():
            assert math.isfinite(rewards[agent])
            for trade in info["trades"]:
                assert trade in infos[trade.seller]["trades"]
                assert trade in infos[trade.buyer]["trades"]


def missed(run: Run, step: int = 1) -> dict[str, int]:
    return {agent: info["missed"] for agent, info in run.infos[step].items()}


@pytest.fixture(autouse=True)
def _build_each_scenario_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("powergrid.envs.multi_agent_microgrids.build", build_once)


@pytest.fixture(scope="module")
def calm() -> Run:
    """The run to which nothing happens."""
    return with_fault(lambda channel, message: None)


# At noon MG1 and MG2 have sun to sell, MG3 has no sun and much load: there are trades in every step.
TRADING = {
    "profiles.start_row": 48,
    "microgrids.MG1.loads.scale": 0.2,
    "microgrids.MG2.loads.scale": 0.2,
    "microgrids.MG3.devices.gen.cost_b_usd_per_mwh": 500.0,
    "microgrids.MG3.devices.pv.max_p_mw": 0.0001,
    "microgrids.MG3.loads.scale": 6.0,
}


def test_the_undisturbed_run_has_trades_in_every_step() -> None:
    run = with_fault(lambda channel, message: None, changes=TRADING)
    for infos in run.infos:
        assert {(t.seller, t.buyer) for t in infos["MG3"]["trades"]} == {("MG1", "MG3"), ("MG2", "MG3")}
    assert max(run.took_s) == pytest.approx(0.0)


# -- lost ----------------------------------------------------------------------------------------------


def test_a_lost_observation_costs_the_agents_step_and_no_more() -> None:
    run = with_fault(to("agents/MG2/observation", "lost"))
    assert_only_step_1_was_disturbed(run, took_s=DEADLINES["action_s"])
    lost, others = run.infos[1]["MG2"], (run.infos[1]["MG1"], run.infos[1]["MG3"])
    assert lost["fallback"] == NO_ACTION
    assert lost["p_mw"]["gen"] == lost["p_mw"]["ess"] == 0.0
    assert lost["soc"] == run.infos[0]["MG2"]["soc"]
    assert lost["reward_terms"]["generation"] == 0.0
    assert all(info["fallback"] is None and info["missed"] == 3 for info in others), "three silent rounds"


def test_the_safe_state_of_pv_is_what_sun_and_inverter_allow() -> None:
    run = with_fault(
        to("agents/MG1/observation", "lost"),
        changes={**TRADING, "microgrids.MG1.devices.pv.s_max_mva": 0.001},
        n_steps=2,
    )
    assert run.infos[0]["MG1"]["p_mw"]["pv"] == pytest.approx(0.001)
    assert run.infos[1]["MG1"]["fallback"] == NO_ACTION
    assert run.infos[1]["MG1"]["p_mw"]["pv"] == pytest.approx(0.001)


def test_with_the_grid_checked_a_silent_agent_does_not_stop_the_others() -> None:
    run = with_fault(
        to("agents/MG2/observation", "lost"), changes={**TRADING, "envelope": {"grid_check": True}}
    )
    assert run.took_s[1] == pytest.approx(DEADLINES["action_s"])
    assert run.infos[1]["MG2"]["fallback"] == NO_ACTION
    for agent in ("MG1", "MG3"):
        assert run.infos[1][agent]["fallback"] is None
        assert run.infos[1][agent]["missed"] == 3, "three silent rounds; the check was in time"
    assert run.infos[1]["MG1"]["p_mw"]["pv"] > 0.0
    assert all(is_undisturbed(info) for info in run.infos[2].values())


def test_a_lost_price_costs_one_deadline_and_the_agent_goes_on_with_the_last_one(calm: Run) -> None:
    run = with_fault(to("operators/*/price", "lost"))
    assert_only_step_1_was_disturbed(run, took_s=DEADLINES["upstream_s"])
    assert missed(run) == {"MG1": 1, "MG2": 1, "MG3": 1}
    assert run.infos[1]["MG1"]["price"] == calm.infos[1]["MG1"]["price"], "settled at the price all the same"


def test_a_lost_command_leaves_the_agent_to_its_own_policy() -> None:
    action = np.array([1.0, 1.0, 0.0, 0.0])
    own = with_fault(lambda channel, message: None)
    run = with_fault(to("agents/MG2/command", "lost"), actions={"MG2": action})
    assert_only_step_1_was_disturbed(run, took_s=DEADLINES["upstream_s"])
    assert missed(run) == {"MG1": 0, "MG2": 1, "MG3": 0}
    assert run.infos[0]["MG2"]["p_mw"]["ess"] == pytest.approx(0.01)
    assert run.infos[1]["MG2"]["p_mw"]["ess"] == own.infos[1]["MG2"]["p_mw"]["ess"]
    assert run.infos[2]["MG2"]["p_mw"]["ess"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("kind", "channel", "waits"),
    [("offer", "p2p/MG1/MG3", "MG3"), ("accept", "p2p/MG3/MG1", "MG1"), ("confirm", "p2p/MG1/MG3", "MG3")],
)
def test_a_lost_word_between_peers_costs_one_round_and_that_trade(
    kind: str, channel: str, waits: str
) -> None:
    run = with_fault(to(channel, "lost", kind=kind), changes=TRADING)
    assert_only_step_1_was_disturbed(run, took_s=run.took_s[1])
    assert missed(run) == {agent: int(agent == waits) for agent in MGS}, "only who waited has waited"
    assert run.took_s[1] <= 3 * DEADLINES["peer_s"]
    traded = {(t.seller, t.buyer) for t in run.infos[1]["MG3"]["trades"]}
    assert ("MG1", "MG3") not in traded
    assert ("MG2", "MG3") in traded, "the others trade on"
    void = {agent: info["void_trades"] for agent, info in run.infos[1].items() if info["void_trades"]}
    if kind == "confirm":
        assert [(v.reporter, v.peer, v.reason) for v in void["MG1"]] == [
            ("MG1", "MG3", "not reported by the peer")
        ]
    else:
        assert void == {}


def test_a_silent_peer_costs_its_own_trades_only() -> None:
    """Everything MG1 says to its peers in a step is lost."""
    run = with_fault(to("p2p/MG1/*", "lost"), changes=TRADING)
    assert run.took_s[1] <= 3 * DEADLINES["peer_s"]
    assert missed(run) == {"MG1": 0, "MG2": 3, "MG3": 3}
    assert {(t.seller, t.buyer) for t in run.infos[1]["MG3"]["trades"]} == {("MG2", "MG3")}
    assert all(is_undisturbed(info) for info in run.infos[2].values())
    assert_books_balance(run)


def test_a_lost_round_of_consensus_costs_its_deadline() -> None:
    changes = {"protocol": {"horizontal": "consensus", "consensus_rounds": 3}}
    run = with_fault(to("p2p/MG1/MG2", "lost", kind="consensus"), changes=changes)
    assert missed(run) == {"MG1": 0, "MG2": 3, "MG3": 0}
    assert run.took_s[1] <= 3 * DEADLINES["peer_s"]
    assert all(is_undisturbed(info) for info in run.infos[2].values())


def test_a_lost_action_is_replaced_by_the_safe_state_and_voids_its_trades() -> None:
    run = with_fault(to("agents/MG3/action", "lost"), changes=TRADING)
    assert run.broker.hit == 1
    assert run.took_s[1] == pytest.approx(DEADLINES["action_s"])
    info = run.infos[1]["MG3"]
    assert info["fallback"] == NO_ACTION
    assert info["p_mw"]["gen"] == info["p_mw"]["ess"] == 0.0
    assert info["trades"] == []
    for seller in ("MG1", "MG2"):
        assert [(v.peer, v.reason) for v in run.infos[1][seller]["void_trades"]] == [
            ("MG3", "not reported by the peer")
        ]
        assert run.infos[1][seller]["fallback"] is None
    assert all(is_undisturbed(info) for info in run.infos[2].values())
    assert run.took_s[2] == pytest.approx(0.0)
    assert_books_balance(run)


@pytest.mark.parametrize("leaf", ["plan", "clearance"])
def test_a_lost_word_of_the_grid_check_sends_nothing_and_is_over_in_the_next_step(leaf: str) -> None:
    run = with_fault(to(f"agents/MG2/{leaf}", "lost"), changes={**TRADING, "envelope": {"grid_check": True}})
    assert run.broker.hit == 1
    assert run.took_s[1] <= DEADLINES["action_s"]
    assert missed(run) == {"MG1": 0, "MG2": 1, "MG3": 0}
    assert set(run.infos[1]["MG2"]["p_mw"].values()) == {0.0}, "no clearance, no power"
    assert run.infos[1]["MG1"]["p_mw"]["pv"] > 0.0, "the others have theirs"
    assert all(info["fallback"] is None for info in run.infos[1].values())
    for step in (0, 2, 3):
        assert all(is_undisturbed(info) for info in run.infos[step].values())


def test_every_loss_is_counted() -> None:
    run = with_fault(to("p2p/MG1/MG3", "lost", step=1))
    assert run.broker.hit == 3
    assert run.broker.stats.lost == 3
    assert {report.where for report in run.broker.stats.reports if report.kind == "gap"} == {"p2p/MG1/MG3"}


# -- late ----------------------------------------------------------------------------------------------


def test_an_action_that_comes_after_its_step_is_not_taken_for_the_next() -> None:
    late_s = DEADLINES["action_s"] + 0.5
    action = {"MG2": np.array([1.0, 1.0, 0.0, 0.0])}

    async def main() -> Run:
        run = Run()
        await run.env.reset_async(seed=1)
        run.broker.fate = to("agents/MG2/action", late_s)
        await run.step()
        infos = await run.step(action)
        assert infos["MG2"]["fallback"] == NO_ACTION
        # MG2 is kept from acting in step 2 until the late action has come
        run.broker.fate = to("agents/MG2/observation", 1.0, step=2)
        infos = await run.step()
        assert infos["MG2"]["fallback"] is None
        assert infos["MG2"]["p_mw"]["ess"] != pytest.approx(0.01)
        assert run.dropped["operator"] == 1
        await run.env.close_async()
        return run

    assert_books_balance(run_virtual(main()))


def test_an_agent_that_is_late_for_a_step_takes_part_in_the_next() -> None:
    """Its observation comes after the step's end: it still finishes that step, alone, and goes on."""
    run = with_fault(to("agents/MG2/observation", DEADLINES["action_s"] + 0.1))
    assert run.infos[1]["MG2"]["fallback"] == NO_ACTION
    assert run.took_s[1] == pytest.approx(DEADLINES["action_s"])
    assert all(info["fallback"] is None for info in run.infos[2].values())
    assert all(is_undisturbed(info) for info in run.infos[3].values())
    assert run.took_s[3] == pytest.approx(0.0)


def test_words_for_the_next_step_wait_for_it() -> None:
    """MG2 is still in step 1 when the others are in step 2 already: what they say must not be lost."""

    def fate(channel: str, message: Mapping[str, Any]) -> str | float | None:
        if channel == "agents/MG2/observation" and message.get("step") == 1:
            return DEADLINES["action_s"] - 0.5  # it comes just before the end ...
        if channel.startswith("p2p/") and channel.endswith("/MG2") and message.get("step") == 1:
            return "lost"  # ... and nobody talks to MG2 any more: it waits for three rounds
        return None

    run = with_fault(fate, changes=TRADING)
    assert run.infos[1]["MG2"]["fallback"] == NO_ACTION
    assert missed(run, 2)["MG2"] == 0, "the offers for step 2 were there when it came to it"
    assert all(is_undisturbed(info) for info in run.infos[3].values())


@pytest.mark.parametrize("seed", range(3))
def test_jitter_and_reordering_within_the_deadlines_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    calm = with_fault(lambda channel, message: None, changes=TRADING)
    run = with_fault(lambda channel, message: rng.uniform(0.001, 0.3), changes=TRADING)
    assert run.broker.hit > 100
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)


# -- repeated ------------------------------------------------------------------------------------------


def test_what_a_broker_repeats_is_removed_and_counted() -> None:
    calm = with_fault(lambda channel, message: None, changes=TRADING)
    run = with_fault(lambda channel, message: "twice", changes=TRADING)
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)
    assert run.broker.stats.duplicated > 100
    assert run.dropped == dict.fromkeys(run.dropped, 0), "none reaches the agents"


def test_what_somebody_else_repeats_changes_nothing_either() -> None:
    calm = with_fault(lambda channel, message: None, changes=TRADING)
    run = with_fault(lambda channel, message: "again", changes=TRADING)
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)
    assert run.broker.stats.duplicated == 0
    assert all(count > 0 for count in run.dropped.values())


# -- foreign, stale, garbage ---------------------------------------------------------------------------

STALE = {"env_id": "small", "episode": 1, "step": 0}
FOREIGN: list[tuple[str, dict[str, Any], str]] = [
    ("agents/MG2/observation", {"type": "observation", "dt_s": 900.0, **STALE}, "MG2"),
    (
        "agents/MG2/observation",
        {"type": "observation", "dt_s": 900.0, **STALE, "step": 99, "env_id": "x"},
        "MG2",
    ),
    ("agents/MG2/command", {"type": "command", "p_gen": 0.02, **STALE}, "MG2"),
    ("agents/MG2/command", {"type": "command", "p_gen": 0.02, "env_id": "elsewhere"}, "MG2"),
    ("operators/system_operator/price", {"type": "price", "value": 9.0, **STALE}, "MG1"),
    ("operators/system_operator/price", {"type": "price", "value": 9.0, "env_id": "elsewhere"}, "MG1"),
    ("p2p/MG1/MG2", {"type": "offer", "quantity": 9.0, "price": 1.0, **STALE}, "MG2"),
    (
        "p2p/MG1/MG2",
        {"type": "offer", "quantity": 9.0, "price": 1.0, **STALE, "episode": 0, "step": 9},
        "MG2",
    ),
    ("p2p/MG1/MG2", {"type": "offer", "quantity": 9.0, "price": 1.0, "env_id": "elsewhere"}, "MG2"),
    ("p2p/MG1/MG2", {"type": "offer", "quantity": 9.0, "price": 1.0}, "MG2"),
    ("p2p/MG9/MG2", {"type": "offer", "quantity": 9.0, "price": 1.0, **STALE, "step": 1}, "MG2"),
    ("agents/MG2/action", {"type": "action", "p_gen": 9.0, **STALE}, "operator"),
    ("agents/MG2/action", {"type": "action", "p_gen": 9.0, **STALE, "step": 7}, "operator"),
    (
        "agents/MG2/action",
        {"type": "action", "p_gen": 9.0, **STALE, "step": 1, "env_id": "elsewhere"},
        "operator",
    ),
    ("agents/MG2/action", {"type": "action", "p_gen": 9.0}, "operator"),
    ("agents/MG9/action", {"type": "action", "p_gen": 9.0, **STALE, "step": 1}, "operator"),
    ("agents/MG9/status", {"type": "status", "state": "online"}, "operator"),
    ("agents/MG2/status", {"type": "status", "state": "offline", "env_id": "elsewhere"}, "operator"),
]


@pytest.mark.parametrize(
    ("channel", "message", "who"), FOREIGN, ids=[f"{c} {i}" for i, (c, _, _) in enumerate(FOREIGN)]
)
def test_messages_of_another_environment_episode_or_step_are_ignored_and_counted(
    channel: str, message: dict[str, Any], who: str, calm: Run
) -> None:
    async def main() -> Run:
        run = Run()
        await run.env.reset_async(seed=1)
        await run.step()
        await run.step()
        before = run.dropped[who]
        InMemoryBroker.publish(run.broker, channel, message)
        assert run.dropped[who] == before + 1
        await run.step()
        await run.step()
        await run.env.close_async()
        return run

    run = run_virtual(main())
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)


GARBAGE: list[tuple[str, Any]] = [
    ("agents/MG2/observation", {"type": "observation", "dt_s": -1.0}),
    ("agents/MG2/observation", {"type": "price", "value": 1.0}),
    ("agents/MG2/observation", {}),
    ("agents/MG2/command", {"type": "command", "p_gen": "a lot"}),
    ("operators/system_operator/price", {"type": "price", "value": "dear"}),
    ("operators/system_operator/price", {"type": "price"}),
    ("p2p/MG1/MG2", {"type": "offer", "quantity": -1.0, "price": 1.0}),
    ("p2p/MG1/MG2", {"type": "love letter"}),
    ("p2p/MG1/MG2", {}),
    ("agents/MG2/action", {"type": "action", "p_gen": None}),
    ("agents/MG2/action", {"type": "action", "missed": -1}),
    ("agents/MG2/status", {"type": "status", "state": "confused"}),
    ("run/state", {"type": "run_state", "state": "on fire"}),
]


def test_garbage_is_counted_with_its_channel_and_stops_nothing(calm: Run) -> None:
    async def main() -> Run:
        run = Run()
        await run.env.reset_async(seed=1)
        for n, (channel, message) in enumerate(GARBAGE):
            run.broker.publish(channel, message)
            listeners = 3 if channel.startswith(("operators/", "run/")) else 1
            rejected = [r for r in run.broker.stats.reports if r.kind == "rejected"]
            assert len(rejected) == run.broker.stats.rejected >= n + listeners
            assert {report.where for report in rejected[-listeners:]} == {channel}
        broken = b'\xff{"type":'
        run.broker._dispatcher.arrive("agents/MG2/action", broken)
        assert run.broker.stats.reports[-1].where == "agents/MG2/action"
        assert "not JSON" in run.broker.stats.reports[-1].what
        for _ in range(4):
            await run.step()
        await run.env.close_async()
        return run

    run = run_virtual(main())
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)


def test_a_flood_on_one_channel_does_not_reach_into_the_others(calm: Run) -> None:
    """Far more offers for the future than anyone keeps, from a peer that goes on trading normally."""

    async def main() -> Run:
        run = Run()
        await run.env.reset_async(seed=1)
        await run.step()
        for i in range(5_000):
            offer = {
                "type": "offer",
                "quantity": 1.0,
                "price": 1.0,
                "env_id": "small",
                "episode": 9,
                "step": i,
            }
            run.broker.publish("p2p/MG3/MG2", offer)
            run.broker.publish("agents/MG2/command", {**offer, "type": "command", "p_gen": 0.01})
        assert run.dropped["MG2"] > 9_000
        await run.step()
        await run.env.close_async()
        return run

    run = run_virtual(main())
    assert run.rewards[0] == calm.rewards[0]
    assert all(info["fallback"] is None for info in run.infos[1].values())
    assert {t.seller for t in run.infos[1]["MG1"]["trades"]} == {
        t.seller for t in calm.infos[1]["MG1"]["trades"]
    }


# -- the beginning of an episode -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "kind", "said"),
    [
        ("run/state", "run_state", r"agent MG1 .*agent MG2 .*agent MG3"),
        ("agents/MG2/status", "status", r"^not ready after 5 s: agent MG2 \(not online for this episode\)$"),
    ],
)
def test_a_lost_word_at_the_beginning_is_an_error_and_the_next_reset_works(
    pattern: str, kind: str, said: str
) -> None:
    async def main() -> None:
        run = Run()
        run.broker.fate = to(pattern, "lost", kind=kind, step=None)
        begun = virtual_now()
        with pytest.raises(NotReady, match=said):
            await run.env.reset_async(seed=1)
        assert virtual_now() - begun == pytest.approx(DEADLINES["ready_s"])
        run.broker.fate = lambda channel, message: None
        await run.env.reset_async(seed=1)
        await run.step()
        assert all(is_undisturbed(info) for info in run.infos[0].values())
        await run.env.close_async()

    run_virtual(main())


def test_an_operator_that_starts_again_finds_its_agents_following() -> None:
    """Agents elsewhere outlive the environment: its second run counts from episode 1 again."""

    async def main() -> None:
        broker = InMemoryBroker()
        remote = {f"microgrids.{mg}.remote": True for mg in MGS}
        scenario = small({"deadlines": DEADLINES, "steps": 4, **remote})
        proxies = proxies_of(scenario, broker)
        tasks = [asyncio.create_task(proxy.run()) for proxy in proxies]
        totals = []
        for _ in range(2):
            env = MultiAgentMicrogrids({"scenario": scenario, "centralized": False, "message_broker": broker})
            await env.reset_async(seed=1)
            begun = virtual_now()
            while env.agents:
                _, rewards, _, _, infos = await env.step_async({"MG1": np.zeros(4)})
                assert all(is_undisturbed(info) for info in infos.values())
            assert virtual_now() == pytest.approx(begun), "nobody had to be waited for"
            totals.append(rewards)
            await env.close_async()
        assert totals[0] == totals[1]
        await end(tasks, [proxy.close for proxy in proxies])

    run_virtual(main())


def proxies_of(scenario: dict[str, Any], broker: InMemoryBroker) -> list[Proxy]:
    from powergrid.proxies import make_proxy
    from powergrid.scenario import scenario_from_dict

    loaded = scenario_from_dict(scenario).scenario
    return [make_proxy(loaded, mg, broker, env_id="small", devices="simulated") for mg in loaded.microgrids]


async def end(tasks: list[asyncio.Task[None]], closes: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for close in closes:
        await close()


# -- whatever happens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["p2p", "consensus"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost_late_or_repeated_the_books_balance_and_the_run_goes_on(
    seed: int, protocol: str
) -> None:
    rng = random.Random(seed)

    def fate(channel: str, message: Mapping[str, Any]) -> str | float | None:
        if channel == "run/state" or channel.endswith("/status"):
            return None
        return rng.choices(["lost", "twice", "again", rng.expovariate(0.5), None], [5, 5, 5, 10, 75])[0]

    run = with_fault(fate, changes={**TRADING, "protocol": {"horizontal": protocol}}, n_steps=12)
    assert run.broker.hit > 50
    assert max(run.took_s) <= DEADLINES["action_s"] + 1e-6
    assert_books_balance(run)
    disturbed = sum(not is_undisturbed(info) for infos in run.infos for info in infos.values())
    assert disturbed > 0, "and it shows"
