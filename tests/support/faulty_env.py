"""An environment over a broker to whose messages something happens, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import pytest

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids
from support.small_grid import scenario as small
from support.virtual import run_virtual, virtual_now

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
        elif fate == "again":  # as another client may repeat it: without numbers
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


# At noon MG1 and MG2 have sun to sell, MG3 has no sun and much load: there are trades in every step.
TRADING = {
    "profiles.start_row": 48,
    "microgrids.MG1.loads.scale": 0.2,
    "microgrids.MG2.loads.scale": 0.2,
    "microgrids.MG3.devices.gen.cost_b_usd_per_mwh": 500.0,
    "microgrids.MG3.devices.pv.max_p_mw": 0.0001,
    "microgrids.MG3.loads.scale": 6.0,
}
