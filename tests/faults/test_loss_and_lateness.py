"""One message lost, repeated or late: its cost is known, bounded by a deadline, and over in the next step.

The faults happen where messages pass, in a broker of the test's own; time is virtual, so that deadlines
take none and every duration is exact.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from support.faulty_env import (
    DEADLINES,
    MGS,
    NO_ACTION,
    TRADING,
    Run,
    assert_books_balance,
    assert_only_step_1_was_disturbed,
    is_undisturbed,
    missed,
    to,
    with_fault,
)
from support.virtual import run_virtual

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def calm() -> Run:
    """The run to which nothing happens."""
    return with_fault(lambda channel, message: None)


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
    assert all(info["fallback"] is None and info["missed"] == 1 for info in others), "no offer from MG2"


def test_pv_of_a_lost_agent_is_in_its_safe_state_and_not_at_all_that_the_sun_gives() -> None:
    run = with_fault(to("agents/MG1/observation", "lost"), changes=TRADING, n_steps=2)
    assert run.infos[0]["MG1"]["p_mw"]["pv"] > 0.0
    assert run.infos[1]["MG1"]["fallback"] == NO_ACTION
    assert run.infos[1]["MG1"]["p_mw"]["pv"] == 0.0


def test_with_the_grid_checked_a_silent_agent_does_not_stop_the_others() -> None:
    run = with_fault(
        to("agents/MG2/observation", "lost"), changes={**TRADING, "envelope": {"grid_check": True}}
    )
    assert run.took_s[1] == pytest.approx(DEADLINES["action_s"])
    assert run.infos[1]["MG2"]["fallback"] == NO_ACTION
    for agent in ("MG1", "MG3"):
        assert run.infos[1][agent]["fallback"] is None
        assert run.infos[1][agent]["missed"] == 1, "no offer from MG2; the check was in time"
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
    assert missed(run) == {"MG1": 0, "MG2": 1, "MG3": 1}, "nobody waits twice for who is silent"
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
    run = with_fault(to("p2p/MG3/*", "lost", step=1), changes=TRADING)
    assert run.broker.hit == 4, "an offer and an answer to each"
    assert run.broker.stats.lost == 4
    gaps = {report.where for report in run.broker.stats.reports if report.kind == "gap"}
    assert gaps == {"p2p/MG3/MG1", "p2p/MG3/MG2"}


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
            return "lost"  # ... and no peer sends to MG2 any more: it waits for three rounds
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
    assert run.broker.hit > 60
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)


# -- repeated ------------------------------------------------------------------------------------------


def test_repeated_messages_are_removed_and_counted() -> None:
    calm = with_fault(lambda channel, message: None, changes=TRADING)
    run = with_fault(lambda channel, message: "twice", changes=TRADING)
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)
    assert run.broker.stats.duplicated > 60
    assert run.dropped == dict.fromkeys(run.dropped, 0), "none reaches the agents"


def test_what_somebody_else_repeats_changes_nothing_either() -> None:
    calm = with_fault(lambda channel, message: None, changes=TRADING)
    run = with_fault(lambda channel, message: "again", changes=TRADING)
    assert run.rewards == calm.rewards
    assert repr(run.infos) == repr(calm.infos)
    assert run.broker.stats.duplicated == 0
    assert all(count > 0 for count in run.dropped.values())
