"""Messages that belong elsewhere, or are no messages at all; beginnings that fail; and everything at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest

from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.errors import NotReady
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids
from support.faulty_env import (
    DEADLINES,
    MGS,
    TRADING,
    Run,
    assert_books_balance,
    is_undisturbed,
    to,
    with_fault,
)
from support.small_grid import scenario as small
from support.virtual import run_virtual, virtual_now

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def calm() -> Run:
    """The run to which nothing happens."""
    return with_fault(lambda channel, message: None)


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
    from powergrid.agents.proxies import make_proxy
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
    assert run.broker.hit > 30
    assert max(run.took_s) <= DEADLINES["action_s"] + 1e-6
    assert_books_balance(run)
    disturbed = sum(not is_undisturbed(info) for infos in run.infos for info in infos.values())
    assert disturbed > 0, "and it shows"
