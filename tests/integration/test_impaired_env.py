"""The environment behind an impaired network: equal to centralized while nothing is lost, alive if it is."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from heron_mqtt.app.run_summary import AgentTotals, Summary
from heron_mqtt.config import shipped_config
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.envs import MultiAgentMicrogrids
from support.virtual import run_virtual, virtual_now

pytestmark = pytest.mark.usefixtures("built_once")

SURE = {"pattern": ["run/state", "agents/+/status"], "exempt": True}  # or no episode would begin
SHORT = {"upstream_s": 0.2, "peer_s": 0.2, "device_s": 0.2, "action_s": 2.0, "ready_s": 5.0}


STEPS = 24


def _scenario(**tables: Any) -> dict[str, Any]:
    shipped = tomllib.loads((shipped_config() / "three_microgrids.toml").read_text())
    return shipped | {"steps": STEPS} | tables


class Run:
    """What a run came to, step by step."""

    def __init__(self) -> None:
        self.rewards: list[dict[str, float]] = []
        self.infos: list[dict[str, dict[str, Any]]] = []
        self.summary = Summary(
            "s", "distributed", "memory", 0, 900.0, {f"MG{i}": AgentTotals() for i in (1, 2, 3)}
        )

    def take(self, rewards: dict[str, float], infos: dict[str, dict[str, Any]]) -> None:
        self.rewards.append(rewards)
        self.infos.append(infos)
        self.summary.add_step(rewards, infos, 1.0)

    def is_close_to(self, other: Run) -> bool:
        """Whether every reward, power, voltage and trade agrees to 1e-9."""
        return _flat([self.rewards, self.infos]) == pytest.approx(
            _flat([other.rewards, other.infos]), abs=1e-9
        )


def _flat(data: Any, key: str = "") -> dict[str, Any]:
    if isinstance(data, dict):
        return {k: v for name, part in data.items() for k, v in _flat(part, f"{key}.{name}").items()}
    if isinstance(data, list | tuple):
        return {k: v for i, part in enumerate(data) for k, v in _flat(part, f"{key}[{i}]").items()}
    return {key: data if isinstance(data, int | float | str | None) else repr(data)}


@pytest.fixture(scope="module")
def centralized() -> Run:
    run = Run()
    env = MultiAgentMicrogrids({"centralized": True, "scenario": _scenario()})
    env.reset(seed=5)
    while env.agents:
        _, rewards, _, _, infos = env.step({})
        run.take(rewards, infos)
    return run


def _distributed(
    table: ImpairmentTable, *, seed: int = 1, **scenario: Any
) -> tuple[Run, ImpairedBroker, float]:
    """Run in virtual time; return it with the broker and how long it took."""

    async def main() -> tuple[Run, ImpairedBroker, float]:
        run = Run()
        async with ImpairedBroker(InMemoryBroker(), table, seed=seed) as broker:
            config = {"centralized": False, "message_broker": broker, "scenario": _scenario(**scenario)}
            env = MultiAgentMicrogrids(config)
            await env.reset_async(seed=5)
            while env.agents:
                _, rewards, _, _, infos = await env.step_async({})
                run.take(rewards, infos)
            await env.close_async()
            return run, broker, virtual_now()

    return run_virtual(main())


def _table(*rules: dict[str, Any], **keys: Any) -> ImpairmentTable:
    return ImpairmentTable.model_validate({"rules": list(rules), **keys})


def test_a_run_behind_a_perfect_network_equals_centralized(centralized: Run) -> None:
    run = Run()
    broker = ImpairedBroker(InMemoryBroker(), ImpairmentTable())
    env = MultiAgentMicrogrids({"centralized": False, "message_broker": broker, "scenario": _scenario()})
    env.reset(seed=5)
    while env.agents:
        _, rewards, _, _, infos = env.step({})
        run.take(rewards, infos)
    env.close()
    assert len(run.rewards) == STEPS
    assert run.is_close_to(centralized)


def test_a_run_behind_a_slow_network_equals_centralized_and_takes_its_time(centralized: Run) -> None:
    rule = {"delay_s": 0.05, "jitter": "lognormal", "jitter_s": 0.01, "duplicate": 0.05}
    run, broker, took_s = _distributed(_table(rule))
    assert run.is_close_to(centralized)
    assert took_s > STEPS * 3 * 2 * 0.05  # price, offer, action (and more where they trade): up and down each
    assert broker.stats.duplicated > 25
    assert broker.stats.lost == 0


def test_a_run_with_losses_finishes_and_counts_what_was_missed(centralized: Run) -> None:
    run, broker, _ = _distributed(_table(SURE, {"loss": 0.03, "delay_s": 0.01}), deadlines=SHORT)
    assert len(run.rewards) == STEPS
    assert broker.record.totals().lost > 10
    assert run.summary.deadline_misses > 10
    assert run.summary.fallbacks > 0
    assert run.summary.diverged is None
    assert not run.is_close_to(centralized)
    for infos in run.infos:
        for trade in infos["MG1"]["trades"]:
            assert trade in infos[trade.buyer]["trades"]
            assert trade in infos[trade.seller]["trades"]


def test_a_run_with_losses_repeats_exactly_with_its_seed() -> None:
    table = _table(SURE, {"loss": 0.03, "delay_s": 0.01, "jitter": "pareto", "jitter_s": 0.05})
    first, one, took_s = _distributed(table, deadlines=SHORT)
    again, two, took_again_s = _distributed(table, deadlines=SHORT)
    other, _, _ = _distributed(table, seed=2, deadlines=SHORT)
    assert _flat([first.rewards, first.infos]) == _flat([again.rewards, again.infos])
    assert one.record.as_dict() == two.record.as_dict()
    assert took_s == took_again_s
    assert first.rewards != other.rewards


def test_the_shipped_partition_costs_one_site_its_steps_and_no_more() -> None:
    run, broker, _ = _distributed(load_impairment("partition"), steps=40, deadlines=SHORT)
    cut_off = [i for i, infos in enumerate(run.infos) if infos["MG1"]["fallback"] is not None]
    assert cut_off == [32, 33, 34, 35]
    missed = [i for i, infos in enumerate(run.infos) if any(info["missed"] for info in infos.values())]
    assert set(missed) == set(cut_off)
    assert broker.record.totals().partitioned > 0
    assert {event.step for event in broker.record.events if event.what == "partitioned"} == set(cut_off)


async def test_over_a_real_broker_a_slow_network_changes_nothing(
    embedded_url: str, env_id: str, centralized: Run
) -> None:
    run = Run()
    table = _table({"delay_s": 0.002, "jitter": "normal", "jitter_s": 0.001})
    async with ImpairedBroker(MqttBroker(embedded_url, env_id=env_id), table, seed=1) as broker:
        env = MultiAgentMicrogrids(
            {
                "centralized": False,
                "message_broker": broker,
                "env_id": env_id,
                "scenario": _scenario(),
                "max_episode_steps": 8,
            }
        )
        await env.reset_async(seed=5)
        while env.agents:
            _, rewards, _, _, infos = await env.step_async({})
            run.take(rewards, infos)
        await env.close_async()
        totals = broker.record.totals()
    assert _flat(run.rewards) == pytest.approx(_flat(centralized.rewards[:8]), abs=1e-9)
    assert totals.passed == totals.delayed > 200
    assert totals.delay_max_s < 0.1
