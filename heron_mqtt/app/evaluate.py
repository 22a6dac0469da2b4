"""``heron-mqtt evaluate``: policies on the same days, directly or over messages."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.app.infrastructure import impaired
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.virtual_time import VirtualTimeLoop
from powergrid.agents.policy import PolicyContext, make_policy
from powergrid.envs import MultiAgentMicrogrids
from powergrid.policies.dispatch_program import DispatchProgram
from powergrid.policies.district_scores import DistrictScores, district_scores
from powergrid.policies.scoring import stored_usd, with_policy
from powergrid.scenario import LoadedScenario, load_scenario
from powergrid.simulation.links import Links

Over = Literal["calls", "memory", "mqtt"]
WAYS: tuple[Over, ...] = ("calls", "memory", "mqtt")
BOUND = "bound"
REPLAYED = "bound, replayed"
IDLE = "idle"
DISTRICT_SCORES = tuple(field.name for field in fields(DistrictScores))
_KINDS = {"battery", "generator", "pv"}  # that the bound is one for


@dataclass(frozen=True, slots=True)
class EpisodeScore:
    """What a policy came to in one episode, all microgrids together.

    Attributes:
        seed: Of the episode.
        score_usd: Return plus the worth of the energy that batteries gained, $.
        return_usd: Sum of the rewards, $.
        cost_usd: Generation, grid and trades of it, without penalties, $, positive = paid.
        violations: Steps of a microgrid with a voltage or loading outside of its limits.
        traded_mwh: Energy sold to peers, MWh.
        messages: That were published.
        missed: Phases that ended at their deadline.
        diverged: Whether the power flow had no solution.
        district: What all microgrids together draw from the grid; None = not known, or cut short.
    """

    seed: int
    score_usd: float
    return_usd: float
    cost_usd: float = 0.0
    violations: int = 0
    traded_mwh: float = 0.0
    messages: int = 0
    missed: int = 0
    diverged: bool = False
    district: DistrictScores | None = None


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over episodes with its 95 % confidence interval, half its width; None = of one episode."""

    mean: float
    half: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A policy over all episodes.

    Attributes:
        policy: As it was named.
        network: Name of the impaired network; empty = none.
        episodes: One a seed.
    """

    policy: str
    network: str
    episodes: tuple[EpisodeScore, ...]

    def estimate(self, quantity: str) -> MeanEstimate:
        """Return the mean of a quantity of ``EpisodeScore``."""
        return mean_of([float(getattr(episode, quantity)) for episode in self.episodes])

    def gain(self, other: Evaluation) -> MeanEstimate:
        """Return by how much its score is above another's, $, episode by episode."""
        pairs = zip(self.episodes, other.episodes, strict=True)
        return mean_of([mine.score_usd - theirs.score_usd for mine, theirs in pairs])

    def district_ratio(self, quantity: str, baseline: Evaluation) -> MeanEstimate | None:
        """Return a quantity of ``DistrictScores``, summed over the episodes, over that of a baseline.

        The interval is that of a ratio of means of pairs (W. G. Cochran, Sampling Techniques, 1977, 6.3).

        Returns:
            None where an episode has no such score, or the baseline's sum is not above 0.
        """
        mine, theirs = self._district(quantity), baseline._district(quantity)
        if mine is None or theirs is None or theirs.mean() <= 0.0:
            return None
        ratio = float(mine.mean() / theirs.mean())
        return MeanEstimate(ratio, mean_of(((mine - ratio * theirs) / theirs.mean()).tolist()).half)

    def _district(self, quantity: str) -> NDArray[np.float64] | None:
        values = [getattr(episode.district, quantity, None) for episode in self.episodes]
        return None if None in values else np.array(values, dtype=float)

    def as_dict(self, baseline: Evaluation | None = None) -> dict[str, Any]:
        """Return it as plain data; with a baseline also its district's ratios to it."""
        found: dict[str, Any] = {
            "policy": self.policy,
            "network": self.network,
            "score_usd": asdict(self.estimate("score_usd")),
            "episodes": [asdict(episode) for episode in self.episodes],
        }
        if baseline is not None:
            ratios = {name: self.district_ratio(name, baseline) for name in DISTRICT_SCORES}
            found["to_idle"] = {name: ratio and asdict(ratio) for name, ratio in ratios.items()}
        return found


def idle_of(found: Sequence[Evaluation], network: str) -> Evaluation | None:
    """Return the evaluation of batteries at rest over a network: the baseline of district scores."""
    return next((one for one in found if one.policy == IDLE and one.network == network), None)


def mean_of(values: Sequence[float]) -> MeanEstimate:
    """Return mean and half the width of its 95 % interval, by Student's t; None for one value."""
    from scipy.special import stdtrit  # scipy.stats, which calls it, takes half a second to import

    n = len(values)
    if n < 2:
        return MeanEstimate(float(np.mean(values)), None)
    deviation = float(np.std(values, ddof=1))
    return MeanEstimate(float(np.mean(values)), float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n))


def evaluate(
    scenario: str | LoadedScenario,
    policies: Sequence[str],
    *,
    seeds: Sequence[int],
    over: Over | None = None,
    networks: Sequence[str] = (),
    with_bound: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Evaluation]:
    """Run every policy on the same episodes.

    Args:
        scenario: A file, a shipped scenario's name, or a scenario; its ``[randomisation]`` says what a seed
            changes.
        policies: Short names (rule, idle, random, mpc, learned, field), ``scenario`` (those that it names,
            with their arguments), ``module:Class`` or ``file.py:Class``.
        seeds: One episode each.
        over: ``calls`` (no messages, but impairments have the same effect), ``memory`` (messages in one
            process, where waiting takes no time) or ``mqtt`` (an embedded broker, in real time). None =
            calls, or memory if there are networks.
        networks: Files or shipped names of impaired networks. Each policy runs over each of them, and also
            over the scenario's own network (``impairment``), or a perfect one if it has none.
        with_bound: Also the perfect-foresight optimum, and what it comes to with its power flow.
        progress: Takes a line for the user.

    Raises:
        ConfigError: Scenario, policy, network or seeds are wrong; nothing has run.
    """
    loaded = load_scenario(scenario) if isinstance(scenario, str) else scenario
    way: Over = over or ("memory" if networks else "calls")
    _check(loaded, policies, seeds, way, with_bound)
    tables: dict[str, ImpairmentTable | None] = {"": loaded_impairment(loaded)}
    tables |= {name: load_impairment(name) for name in networks}
    if way == "calls":
        for table in tables.values():
            if table is not None:  # refuses what needs messages
                Links((table,), loaded.scenario, tuple(loaded.scenario.microgrids))
    found = []
    for policy in policies:
        chosen = with_policy(loaded, policy)
        for network, table in tables.items():
            progress(f"{policy}{f' over {network}' if network else ''}: {len(seeds)} episodes")
            found.append(Evaluation(policy, network, _episodes(chosen, seeds, way, table)))
    if with_bound:
        progress(f"{BOUND}: {len(seeds)} optima")
        found += _bounds(loaded, seeds)
    return found


def loaded_impairment(loaded: LoadedScenario) -> ImpairmentTable | None:
    """Return the impaired network that the scenario itself names."""
    given = loaded.scenario.impairment
    if isinstance(given, str):
        return load_impairment(str(loaded.path(given)))
    return given


def _check(
    loaded: LoadedScenario,
    policies: Sequence[str],
    seeds: Sequence[int],
    way: Over,
    with_bound: bool,
) -> None:
    problems = []
    if not seeds:
        problems.append("--seeds: expected at least one")
    if way not in WAYS:
        problems.append(f"--over {way}: expected one of {', '.join(WAYS)}")
    for name in policies:
        try:
            scenario = with_policy(loaded, name).scenario
            for agent, table in scenario.microgrids.items():
                make_policy(table.policy, PolicyContext(agent, scenario))
        except ConfigError as exc:
            problems += exc.problems
    others = {
        device.spec.kind for grid in loaded.scenario.microgrids.values() for device in grid.devices.values()
    } - _KINDS
    if with_bound and others:
        problems.append(f"--bound: knows no {', '.join(sorted(others))}")
    if problems:
        raise ConfigError(*problems)


# -- episodes ---------------------------------------------------------------------------------------


def _episodes(
    loaded: LoadedScenario, seeds: Sequence[int], way: Over, network: ImpairmentTable | None
) -> tuple[EpisodeScore, ...]:
    if way == "calls":
        networks = [] if network is None else [network]
        env = MultiAgentMicrogrids({"scenario": loaded, "observation": "local", "networks": networks})
        return tuple(_direct_episode(env, seed) for seed in seeds)
    if way == "mqtt":
        return tuple(asyncio.run(_over_mqtt(loaded, seed, network)) for seed in seeds)
    found = []
    for seed in seeds:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            found.append(runner.run(_over_broker(loaded, seed, InMemoryBroker(), network)))
    return tuple(found)


def _direct_episode(env: MultiAgentMicrogrids, seed: int) -> EpisodeScore:
    env.reset(seed=seed)
    tally = _Tally(env, seed)
    while env.agents:
        tally.add(*env.step({}))
    return tally.score(0)


async def _over_mqtt(loaded: LoadedScenario, seed: int, network: ImpairmentTable | None) -> EpisodeScore:
    from heron_mqtt.messaging.embedded import EmbeddedBroker
    from heron_mqtt.messaging.schemes import open_broker

    async with EmbeddedBroker() as server:
        # Client id and outbox that the environment names are for the connection of a run.
        broker = open_broker(server.url, env_id=loaded.scenario.topic_env_id, lasting=False)
        return await _over_broker(loaded, seed, broker, network)


async def _over_broker(
    loaded: LoadedScenario, seed: int, broker: Any, network: ImpairmentTable | None
) -> EpisodeScore:
    async with AsyncExitStack() as stack:
        inside = await stack.enter_async_context(impaired(broker, network, seed))
        env = MultiAgentMicrogrids(
            {"scenario": loaded, "observation": "local", "centralized": False, "message_broker": inside}
        )
        stack.push_async_callback(env.close_async)
        await env.reset_async(seed)
        tally, begun = _Tally(env, seed), inside.stats.counts()["published"]
        while env.agents:
            tally.add(*await env.step_async({}))
        return tally.score(inside.stats.counts()["published"] - begun)


class _Tally:
    """Adds up an episode, from after its ``reset``."""

    def __init__(self, env: MultiAgentMicrogrids, seed: int) -> None:
        self._scenario, self._seed = env.scenario, seed
        self._begin = env.states_of_charge()
        self._end = dict(self._begin)
        self._prices: list[float] = []
        self._drawn_mwh: list[float] = []
        self._return = self._cost = self._traded = 0.0
        self._violations = self._missed = 0
        self._diverged = False

    def add(self, _: Any, rewards: Any, __: Any, ___: Any, infos: Mapping[str, Any]) -> None:
        """Take a step."""
        self._return += sum(rewards.values())
        for agent, info in infos.items():
            terms = info["reward_terms"]
            self._diverged = self._diverged or "diverged" in info
            if "diverged" not in info:
                self._cost -= terms["generation"] + terms["grid"] + terms["trades"]
                self._violations += self._is_outside(info)
            self._traded += sum(trade.mwh for trade in info["trades"] if trade.seller == agent)
            self._missed += info["missed"] + (info["fallback"] is not None)
            self._end |= {(agent, name): soc for name, soc in info["soc"].items()}
        self._prices.append(next(iter(infos.values()))["price"])
        self._drawn_mwh.append(-sum(info["net_mwh"] for info in infos.values()))

    def _is_outside(self, info: Mapping[str, Any]) -> bool:
        """Whether a microgrid's voltage or loading is outside of its limits, whatever that costs."""
        limits, vm_pu = self._scenario.reward, info["vm_pu"]
        return bool(
            vm_pu["min"] < limits.vm_min_pu
            or vm_pu["max"] > limits.vm_max_pu
            or info["loading_max_percent"] > limits.loading_max_percent
        )

    def score(self, messages: int) -> EpisodeScore:
        """Return what it comes to."""
        gained = float(stored_usd(self._scenario, self._begin, self._end, float(np.mean(self._prices))))
        bought_at = [price + self._scenario.market.import_adder_per_mwh for price in self._prices]
        district = district_scores(self._drawn_mwh, bought_at, self._scenario.step_s)
        return EpisodeScore(
            seed=self._seed,
            score_usd=self._return + gained,
            return_usd=self._return,
            cost_usd=self._cost,
            violations=self._violations,
            traded_mwh=self._traded,
            messages=messages,
            missed=self._missed,
            diverged=self._diverged,
            district=None if self._diverged else district,
        )


# -- the perfect-foresight optimum ------------------------------------------------------------------


def _bounds(loaded: LoadedScenario, seeds: Sequence[int]) -> list[Evaluation]:
    """Return what no policy can exceed, and what its battery powers come to on the grid itself."""
    follow = with_policy(loaded, "powergrid.policies.follow_plan:FollowPlan")
    env = MultiAgentMicrogrids({"scenario": follow, "observation": "local"})
    agents, scenario = tuple(env.possible_agents), loaded.scenario
    best = DispatchProgram(scenario, agents, env.max_episode_steps, segments=16, lower_bound=True)
    near = DispatchProgram(scenario, agents, env.max_episode_steps, segments=16)
    bounds, replayed = [], []
    for seed in seeds:
        env.reset(seed=seed)
        outlook, begin = env.episode_outlook(), env.states_of_charge()
        other = outlook.p_load_mw.sum(axis=1) + outlook.p_available_mw.sum(axis=1)
        price = np.asarray(outlook.price)
        worth = float(price.mean())
        optimum = best.solve(price, other, begin, worth)
        held = sum(
            begin[agent, name] * spec.max_e_mwh * spec.efficiency_discharge * worth
            for agent, name, spec in best.batteries
        )
        bounds.append(EpisodeScore(seed, optimum.value + optimum.left_usd - held, optimum.value))
        for (agent, name), power in near.solve(price, other, begin, worth).battery_mw.items():
            policy: Any = env.policies[agent]
            policy.plan = {**policy.plan, f"p_{name}": power}
        replayed.append(_direct_episode(env, seed))
    return [Evaluation(BOUND, "", tuple(bounds)), Evaluation(REPLAYED, "", tuple(replayed))]
